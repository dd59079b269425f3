"""Reports: every number is traced to the results file it came from; only comparable runs are ranked."""

import csv
import io
import json
import statistics

import matplotlib.image
import pytest
from rich.console import Console

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.errors import UserError
from refined_bsrnn.evaluation.stats import interval
from refined_bsrnn.report.charts import training_curves
from refined_bsrnn.report.comparable import CELL
from refined_bsrnn.report.results import read_runs
from refined_bsrnn.report.write import report

TRACKS = ("song_a", "song_b", "eir_a", "eir_b")
PROTOCOL = {"usdr": "energy ratio over the track", "csdr": "median over frames"}
SCORES = ("usdr", "csdr", "si_sdr")


def scores(value):
    return {"usdr": value, "csdr": None if value is None else value - 0.5, "si_sdr": value, "n_frames": 24}


def summarise(entries):
    audible = [entry for entry in entries if not entry["reference_silent"]]
    columns = {
        what: {name: [e[what][name] for e in audible if e[what][name] is not None] for name in SCORES}
        for what in ("estimate", "mixture", "silence")
    }
    pick = {
        what: {
            name: {"mean": statistics.mean(c) if c else None, "median": statistics.median(c) if c else None}
            for name, c in named.items()
        }
        for what, named in columns.items()
    }
    return {"n_tracks": len(audible), "n_silent": len(entries) - len(audible), **pick}


def make_run(folder, estimates, *, log=None, silent=(), mixture=-3.0, **changes):
    """A run folder; ``estimates[target]`` are the uSDRs of the four tracks, ``changes`` replace results fields."""
    tracks = [
        {
            "track": track,
            "seconds": 24.0,
            "targets": {
                target: {
                    "estimate": scores(values[i]),
                    "mixture": scores(mixture + i),
                    "silence": scores(0.0),
                    "reference_silent": (track, target) in silent,
                }
                for target, values in estimates.items()
            },
        }
        for i, track in enumerate(TRACKS)
    ]
    results = {
        "format": 1,
        "run": folder.name,
        "kind": "single_target",
        "base": None,
        "split": "test",
        "data": {"name": "songs", "fingerprint": "0123456789abcdef", "builtin": False, "mixture": "file"},
        "sample_rate_hz": 44100,
        "n_tracks": len(TRACKS),
        "targets": list(estimates),
        "model": {"bands": "v7", "n_bands": 41, "trainable_parameters": 1234567},
        "training": {"steps": 1000, "seconds": 3725.4, "device": "cpu", "seed": 0},
        "protocol": PROTOCOL,
        "tracks": tracks,
        "summary": {target: summarise([track["targets"][target] for track in tracks]) for target in estimates},
    }
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({**results, **changes}))
    if log is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


@pytest.fixture
def runs(tmp_path):
    """v7 baseline, generic multi-target and transfer, as the table is meant for."""
    return [
        make_run(tmp_path / "drums-v7", {"drums": (1.0, 2.0, 3.0, 4.0)}),
        make_run(
            tmp_path / "mtl",
            {"vocals": (5.0, 5.0, 6.0, 6.0), "drums": (2.0, 3.0, 4.0, 9.111)},
            kind="multi_target",
            model={"bands": "tet24", "n_bands": 36, "trainable_parameters": 2000000},
        ),
        make_run(tmp_path / "mtl-to-drums", {"drums": (3.0, 4.0, 5.0, 5.0)}, kind="transfer", base="runs/mtl"),
    ]


def table(markdown, section=0):
    """The n-th table of a Markdown text: ``{row name: {column: cell}}``, row names unescaped."""
    blocks = [block for block in markdown.split("\n\n") if block.startswith("|")]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in blocks[section].splitlines()]
    return {line[0].replace("\\", ""): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


# --- the table --------------------------------------------------------------------------------------------------------


def test_rows_and_columns_are_in_the_order_given(runs):
    rows = table(report(runs).markdown)
    assert list(rows) == ["drums-v7", "mtl", "mtl-to-drums", "mixture (do nothing)", "silence"]
    assert list(rows["mtl"])[1:3] == [f"drums {CELL}", f"vocals {CELL}"]
    assert list(table(report(runs[1:]).markdown)["mtl"])[1:3] == [f"vocals {CELL}", f"drums {CELL}"]


def test_every_score_is_the_one_in_the_results_file(runs):
    made = report(runs)
    rows = table(made.markdown)
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(made.csv))}
    for folder in runs:
        for target, summary in results_of(folder)["summary"].items():
            usdr, csdr = summary["estimate"]["usdr"]["mean"], summary["estimate"]["csdr"]["median"]
            assert rows[folder.name][f"{target} {CELL}"].replace("**", "") == f"{usdr:.2f} / {csdr:.2f}"
            assert lines[folder.name][f"{target}_usdr_mean"] == f"{usdr:.2f}"
            assert lines[folder.name][f"{target}_csdr_median"] == f"{csdr:.2f}"
    reference = results_of(runs[1])["summary"]["vocals"]["mixture"]
    expected = f"{reference['usdr']['mean']:.2f} / {reference['csdr']['median']:.2f}"
    assert rows["mixture (do nothing)"][f"vocals {CELL}"] == expected
    assert rows["silence"][f"drums {CELL}"] == "0.00 / -0.50"
    assert rows["drums-v7"][f"vocals {CELL}"] == "–"
    assert lines["drums-v7"]["vocals_usdr_mean"] == ""


def test_the_summary_is_what_is_shown_not_a_second_calculation(tmp_path):
    run = make_run(tmp_path / "drums", {"drums": (1.0, 2.0, 3.0, 4.0)})
    results = results_of(run)
    results["summary"]["drums"]["estimate"]["usdr"] = {"mean": 7.654, "median": 1.0}
    results["summary"]["drums"]["estimate"]["csdr"] = {"mean": 1.0, "median": -0.001}
    (run / "results.json").write_text(json.dumps(results))
    assert table(report([run]).markdown)["drums"][f"drums {CELL}"] == "7.65 / 0.00"


def test_what_each_run_is_stands_beside_its_scores(runs):
    rows = table(report(runs).markdown)
    cells = list(rows["mtl-to-drums"].values())
    assert cells[3:] == ["transfer from mtl", "v7 (41)", "1,234,567", "1,000", "1:02:05"]
    assert list(rows["mtl"].values())[3:6] == ["multi-target", "tet24 (36)", "2,000,000"]
    assert set(list(rows["silence"].values())[3:]) == {"–"}


def test_missing_details_and_undefined_scores_are_dashes(tmp_path):
    run = make_run(tmp_path / "drums", {"drums": (None, None, None, None)}, model={}, training={})
    row = table(report([run]).markdown)["drums"]
    assert list(row.values())[1:] == ["–", "single-target", "–", "–", "–", "–"]


def test_the_best_run_is_bold_per_target_and_metric(runs):
    rows = table(report(runs).markdown)
    # mtl: mean 4.53, median 3.00; transfer: mean 4.25, median 4.00
    assert rows["mtl"][f"drums {CELL}"] == "**4.53** / 3.00"
    assert rows["mtl-to-drums"][f"drums {CELL}"] == "4.25 / **4.00**"
    assert "**" not in rows["drums-v7"][f"drums {CELL}"]
    assert "**" not in rows["mtl"][f"vocals {CELL}"], "one run alone is no ranking"
    assert not any("**" in cell for name in ("mixture (do nothing)", "silence") for cell in rows[name].values())


def test_what_prints_equal_is_equally_good(tmp_path):
    made = report(
        [make_run(tmp_path / "a", {"drums": (1.0,) * 4}), make_run(tmp_path / "b", {"drums": (1.001,) * 4})]
    ).markdown
    assert made.count("**1.00** / **0.50**") == 2


def test_rich_table_shows_the_same(runs):
    console = Console(width=120, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(report(runs, groups={"real": "eir_*"}).rich_table())
    html = console.export_html(inline_styles=True, clear=False)
    text = console.export_text()
    for expected in ("4.25 / 4.00", "mixture (do nothing)", "transfer from mtl", "1,234,567", "real: 2 tracks"):
        assert expected in text
    assert 'font-weight: bold">4.53</span>' in html
    assert 'font-weight: bold">4.00</span>' in html
    assert 'font-weight: bold">4.25</span>' not in html


def test_names_cannot_break_the_tables(tmp_path):
    run = make_run(tmp_path / "a|b_[red]", {"drums": (1.0,) * 4})
    made = report([run])
    assert "| a\\|b\\_[red] | 1.00 / 0.50 |" in made.markdown
    console = Console(width=120, file=io.StringIO())
    console.print(made.rich_table())
    assert "a|b_[red]" in console.file.getvalue()


# --- what may be compared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": {"name": "songs", "fingerprint": "ffff", "builtin": True, "mixture": "file"}}, "data fingerprint"),
        ({"split": "valid"}, "split"),
        ({"protocol": {"usdr": "another", "csdr": "another"}}, "protocol"),
        ({"data": {"name": "songs", "fingerprint": "0123456789abcdef", "mixture": "sum"}}, "mixture"),
    ],
)
def test_runs_on_other_ground_are_not_ranked_together(tmp_path, change, named):
    runs = [
        make_run(tmp_path / "low", {"drums": (1.0,) * 4}),
        make_run(tmp_path / "middle", {"drums": (2.0,) * 4}),
        make_run(tmp_path / "high", {"drums": (9.0,) * 4}, mixture=-1.0, **change),
    ]
    made = report(runs)
    rows = table(made.markdown)
    assert rows["middle [A]"][f"drums {CELL}"] == "**2.00** / **1.50**"
    assert rows["high [B]"][f"drums {CELL}"] == "9.00 / 8.50"
    assert rows["mixture (do nothing) [A]"][f"drums {CELL}"] == "-1.50 / -2.00"
    assert rows["mixture (do nothing) [B]"][f"drums {CELL}"] == "0.50 / 0.00"
    assert made.notes[0].startswith("THE RUNS WERE NOT EVALUATED")
    assert f"differ in: {named})" in made.notes[0]
    assert ("Metrics B: usdr: another" in made.markdown) == (named == "protocol")


def test_same_data_but_other_references_are_not_ranked(tmp_path):
    """ "other" means something else beside other targets: the mixture then scores differently against it."""
    runs = [
        make_run(tmp_path / "a", {"other": (1.0,) * 4}),
        make_run(tmp_path / "b", {"other": (2.0,) * 4}, mixture=-2.0),
        make_run(tmp_path / "c", {"bass": (1.0,) * 4, "drums": (1.0,) * 4}),
        make_run(tmp_path / "d", {"bass": (2.0,) * 4, "drums": (2.0,) * 4}, silent={("song_a", "bass")}),
    ]
    made = report(runs)
    rows = table(made.markdown)
    assert "**" not in rows["b"][f"other {CELL}"]
    assert "**" not in rows["d"][f"bass {CELL}"]
    assert rows["d"][f"drums {CELL}"] == "**2.00** / **1.50**"
    assert rows["mixture (do nothing)"][f"other {CELL}"] == "–"
    assert any(note.startswith("other: the runs were scored on other tracks or references") for note in made.notes)


def test_notes_state_data_metrics_and_device(runs):
    notes = "\n".join(report(runs).notes)
    assert "Data: songs, fingerprint 0123456789ab, split test, 4 tracks." in notes
    assert PROTOCOL["usdr"] in notes
    assert PROTOCOL["csdr"] in notes
    assert "Trained on: cpu." in notes
    assert "without those of its base (mtl)" in notes
    assert "SYNTHETIC" not in notes


def test_builtin_data_and_differing_devices_are_said(tmp_path):
    data = {"name": "builtin", "fingerprint": "ab", "builtin": True, "mixture": "sum"}
    runs = [
        make_run(tmp_path / "a", {"drums": (-5.0,) * 4}, data=data),
        make_run(tmp_path / "b", {"drums": (-4.0,) * 4}, data=data, training={"device": "cuda"}),
    ]
    notes = "\n".join(report(runs).notes)
    assert "BUILT-IN SYNTHETIC STEMS" in notes
    assert "Trained on: a: cpu; b: cuda." in notes
    assert "TRAINED on different data" not in notes
    assert "No run beats the mixture itself in uSDR: drums." in notes


def test_differing_training_data_are_said(tmp_path):
    runs = [
        make_run(tmp_path / name, {"drums": (1.0,) * 4}, training={"data_fingerprint": fingerprint})
        for name, fingerprint in (("a", "1" * 64), ("b", "2" * 64))
    ]
    expected = f"The runs were TRAINED on different data, by fingerprint: a: {'1' * 12}; b: {'2' * 12}."
    assert expected in report(runs).notes


def test_runs_of_one_name_are_told_apart_by_folder(tmp_path):
    runs = [
        make_run(tmp_path / where / "drums", {"drums": (value,) * 4}) for where, value in (("new", 2.0), ("old", 1.0))
    ]
    rows = table(report([*runs, runs[0]]).markdown)
    assert list(rows)[:2] == ["drums (new/drums)", "drums (old/drums)"], "a folder given twice is one row"
    assert rows["drums (new/drums)"][f"drums {CELL}"].startswith("**2.00**")


# --- groups of tracks -------------------------------------------------------------------------------------------------


def test_groups_are_scored_on_their_own_tracks(runs):
    made = report(runs, groups={"real": "eir_*"})
    rows = table(made.markdown, section=1)
    assert rows["drums-v7"][f"drums {CELL}"] == "3.50 / 3.00"
    assert rows["mtl"][f"drums {CELL}"] == "**6.56** / **6.06**"
    assert rows["mixture (do nothing)"][f"drums {CELL}"] == "-0.50 / -1.00"
    assert rows["silence"][f"drums {CELL}"] == "0.00 / -0.50"
    assert "## real: tracks named `eir_*`\n\n2 tracks." in made.markdown
    lines = [line for line in csv.DictReader(io.StringIO(made.csv)) if line["section"] == "real"]
    assert lines[0]["drums_n_tracks"] == "2"
    assert lines[0]["drums_usdr_mean"] == "3.50"


def test_intervals_stand_in_every_table(tmp_path):
    """Of a summary as it is; of a group of tracks by the same bootstrap, of estimates and baselines."""
    run = make_run(tmp_path / "drums", {"drums": (1.0, 2.0, 3.0, 4.5)})
    results = results_of(run)
    results["summary"]["drums"]["estimate"]["usdr"]["mean_95"] = [1.234, 4.321]
    results["summary"]["drums"]["mixture"]["csdr"]["median_95"] = [-4.0, -2.0]
    (run / "results.json").write_text(json.dumps(results))
    made = report([run], groups={"all of them": "*", "too few": "eir_*"})
    assert table(made.markdown, 3) == {
        "drums": {"run": "drums", "drums uSDR": "1.23 to 4.32", "drums cSDR": "–"},
        "mixture (do nothing)": {"run": "mixture (do nothing)", "drums uSDR": "–", "drums cSDR": "-4.00 to -2.00"},
    }
    low, high = interval([1.0, 2.0, 3.0, 4.5], "mean")
    group = table(made.markdown, 4)
    assert group["drums"]["drums uSDR"] == f"{low:.2f} to {high:.2f}"
    assert group["mixture (do nothing)"]["drums cSDR"] == "-3.50 to -0.50"
    assert "## 95 % intervals, too few" not in made.markdown
    lines = {(x["section"], x["row"]): x for x in csv.DictReader(io.StringIO(made.csv))}
    assert [lines["all", "drums"][f"drums_usdr_{end}"] for end in ("low", "high")] == ["1.23", "4.32"]
    assert lines["all", "drums"]["drums_csdr_low"] == ""
    assert lines["all of them", "drums"]["drums_usdr_high"] == f"{high:.2f}"


def test_silent_references_do_not_count(tmp_path):
    run = make_run(tmp_path / "drums", {"drums": (1.0, 2.0, 3.0, 99.0)}, silent={("eir_b", "drums")})
    made = report([run], groups={"real": "eir_*"})
    assert table(made.markdown, section=1)["drums"][f"drums {CELL}"] == "3.00 / 2.50"
    assert "4 tracks, drums scored on 3." in made.markdown
    assert "2 tracks, drums scored on 1." in made.markdown


def test_a_group_without_tracks_is_said_not_shown(runs):
    made = report(runs, groups={"live": "live_*"})
    assert len(made.sections) == 1
    assert "No track is named live_*: there is no section 'live'." in made.notes


def test_a_group_needs_a_name(runs, capsys):
    assert main(["report", str(runs[0]), "--group", "=eir_*"]) == 2
    assert "'=eir_*' is not NAME=PATTERN" in capsys.readouterr().err


# --- files and curves -------------------------------------------------------------------------------------------------


def test_out_holds_table_and_curves(runs, tmp_path):
    out = tmp_path / "new" / "report"
    made = report(runs, out)
    names = {"bands", "boxes-usdr", "boxes-csdr", "curves", "tracks-drums-v7-mtl", "tracks-drums-v7-mtl-to-drums"}
    names |= {"transfer"}
    expected = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    expected |= {"index.html", "report.csv", "report.md", "scores.csv"}
    assert {path.name for path in out.iterdir()} == expected
    assert {path.name for path in made.files} == expected
    assert (out / "report.md").read_text(encoding="utf-8").startswith(made.markdown)
    assert (out / "report.csv").read_text(encoding="utf-8") == made.csv
    assert matplotlib.image.imread(out / "curves.png").shape == (600, 1200, 4)
    assert report(runs).files == ()


def validation(step, seconds, mean, **targets):
    per_target = {f"validation/{target}/usdr": value for target, value in targets.items()}
    return {"step": step, "seconds": seconds, "validation/usdr": mean, **per_target}


def test_curves_show_the_one_target_that_all_runs_share(tmp_path):
    runs = [
        make_run(
            tmp_path / "mtl",
            {"vocals": (1.0,) * 4, "drums": (1.0,) * 4},
            log=[{"step": 5, "seconds": 3.0, "loss": 1.0}, validation(10, 30.0, 2.0, vocals=1.0, drums=3.0)],
        ),
        make_run(tmp_path / "drums", {"drums": (1.0,) * 4}, log=[validation(10, 60.0, 2.5)]),
        make_run(tmp_path / "quiet", {"drums": (1.0,) * 4}),
    ]
    curves, x_label, y_label, notes = training_curves(read_runs(runs))
    assert curves == {"mtl": [(30.0, 3.0)], "drums": [(60.0, 2.5)], "quiet": []}
    assert (x_label, y_label) == ("training time (seconds)", "validation uSDR, drums (dB)")
    assert notes == ["Not in the figure of validation uSDR, nothing logged: quiet."]


def test_curves_show_the_mean_of_several_shared_targets(tmp_path):
    estimates = {"vocals": (1.0,) * 4, "drums": (1.0,) * 4}
    log = [validation(10, 3600.0, 2.0, vocals=1.0, drums=3.0), validation(20, 7201.0, 2.5, vocals=2.0, drums=3.0)]
    curves, x_label, y_label, _ = training_curves(read_runs([make_run(tmp_path / "mtl", estimates, log=log)]))
    assert curves["mtl"] == [(1.0, 2.0), (pytest.approx(7201 / 3600), 2.5)]
    assert (x_label, y_label) == ("training time (hours)", "validation uSDR, mean over targets (dB)")


def test_without_validation_the_loss_is_drawn(tmp_path):
    log = [{"step": 1, "seconds": 60.0, "loss": 0.5}, {"step": 2, "seconds": 180.0, "loss": None}]
    curves, _, y_label, _ = training_curves(read_runs([make_run(tmp_path / "drums", {"drums": (1.0,) * 4}, log=log)]))
    assert curves == {"drums": [(60.0, 0.5)]}
    assert y_label == "training loss"


def test_a_resumed_run_is_drawn_once(tmp_path):
    log = [{"step": s, "seconds": s * 1.0, "loss": loss} for s, loss in ((1, 9.0), (2, 8.0), (3, 7.0), (2, 6.0))]
    run = make_run(tmp_path / "drums", {"drums": (1.0,) * 4}, log=log)
    assert training_curves(read_runs([run]))[0] == {"drums": [(1.0, 9.0), (2.0, 8.0), (2.0, 6.0)]}


def test_a_cut_off_last_line_is_left_out(tmp_path):
    run = make_run(tmp_path / "drums", {"drums": (1.0,) * 4}, log=[{"step": 1, "seconds": 1.0, "loss": 0.5}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "seco')
    assert [line["step"] for line in read_runs([run])[0].log] == [1]


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_missing_folder_names_the_runs_beside_it(runs):
    with pytest.raises(UserError, match=r"Did you mean 'mtl'\? Runs beside it: drums-v7, mtl, mtl-to-drums"):
        report([runs[0].parent / "mtll"])
    with pytest.raises(UserError, match="no runs beside it"):
        report([runs[0] / "nowhere" / "mtl"])


def test_a_run_without_results_says_how_to_get_them(tmp_path):
    with pytest.raises(UserError, match=r"no results\.json yet; run: refined-bsrnn evaluate "):
        report([tmp_path])


def test_nothing_to_report():
    with pytest.raises(UserError, match="at least one"):
        report([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not readable JSON: .* Evaluate the run again"),
        ("[]", "no format number"),
        ("{}", "no format number"),
        ('{"format": 3}', "format 3; this version reads up to 2"),
        ('{"format": 1}', "run is missing. Evaluate the run again"),
    ],
)
def test_broken_results(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=message):
        report([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"summary": 3}, "summary is 3; expected a mapping"),
        ({"tracks": [{"track": "a"}]}, r"tracks\[0\].targets is missing. Evaluate the run again"),
        ({"tracks": [{"track": "a", "targets": {"drums": 3}}]}, r"tracks\[0\].targets.drums is 3; expected a mapping"),
        ({"tracks": [3]}, r"tracks\[0\] is 3; expected a mapping"),
        ({"summary": {"drums": None}}, "summary.drums is None; expected a mapping"),
    ],
)
def test_incomplete_results(tmp_path, change, message):
    run = make_run(tmp_path / "drums", {"drums": (1.0,) * 4}, **change)
    with pytest.raises(UserError, match=message):
        report([run])


@pytest.mark.parametrize("broken", ['{"step": 1,', "[1]"])
def test_a_broken_line_inside_a_log_is_an_error(tmp_path, broken):
    run = make_run(tmp_path / "drums", {"drums": (1.0,) * 4})
    (run / "metrics.jsonl").write_text(f'{{"step": 0}}\n{broken}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 of 3 is broken"):
        report([run])
