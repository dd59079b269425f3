"""Studies: what is planned, resumed, refused, and whether the table says what the results say."""

import json
import math
import os
import signal
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import matplotlib.colors
import pytest
import torch
import yaml
from filelock import FileLock

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.apps.cli.training import study_runs
from refined_bsrnn.errors import RecipeError, UserError
from refined_bsrnn.network.info import describe, training_macs
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.recipe import recipe_folder
from refined_bsrnn.report.study import (
    AUDIO,
    MACS,
    WALL_CLOCK,
    Row,
    against_full,
    collect,
    curve_of,
    markdown,
    plot_curves,
    plot_forgetting,
    plot_matrix,
    plot_songs,
    report_study,
    spread,
    table,
)
from refined_bsrnn.runs.folder import load_state, read_tensors, tensors_sha256, write_tensors
from refined_bsrnn.system import interrupted_by_signals
from refined_bsrnn.training.study import (
    Processes,
    carry_out,
    load_study,
    plan,
    run_study,
    slot_environment,
    state_of,
)
from refined_bsrnn.training.validation import Validation
from tests.conftest import STEMS, micro_values, write_songs


def study_values(root, **values):
    common = micro_values(root)
    common.pop("targets")
    common["train"] |= {"steps": 2, "checkpoint_every": 1}
    short = {"train": {"steps": 2, "validate_every": 1, "warmup_steps": 0}}
    return {
        "study": "small",
        "seeds": [0, 1],
        "common": common,
        "bases": {
            "drums": {"targets": ["drums"]},
            "drums-v7": {"targets": ["drums"], "bands": {"kind": "even", "n_bands": 4}},
        },
        "transfers": [{"bases": ["drums", "drums-v7"], "targets": ["bass"], "settings": short}],
        **values,
    }


@pytest.fixture
def write(tmp_path):
    root = write_songs(tmp_path / "songs", stems=STEMS)

    def write(**values):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study_values(root, **values)))
        return path

    return write


def run_here(study, runs):
    """As the command does it, in this process."""
    return run_study(study, runs, lambda run, environment: carry_out(study, run), 1)


def planned(path, *overrides):
    study, file = load_study(path, overrides)
    return study, plan(study, file)


def test_the_plan_is_every_combination_bases_first(write):
    blocks = [
        {"bases": ["drums"], "targets": ["bass", "other"], "methods": ["frozen", "lora"], "tracks": [0, 2]},
        {"bases": ["drums-v7"], "targets": ["bass"]},
    ]
    _, runs = planned(
        write(transfers=blocks, bases={"drums": {"targets": ["drums"]}, "drums-v7": {"targets": ["drums"]}})
    )
    names = [run.name for run in runs]
    assert len(names) == len(set(names)) == 2 * (2 + 2 * 2 * 2 + 1)
    assert names[:4] == ["drums.s0", "drums-v7.s0", "drums.s1", "drums-v7.s1"]
    assert "drums-to-other-lora-2tracks.s1" in names
    for run in runs:
        seed = int(run.name[-1])
        assert run.recipe.train.seed == seed
        assert run.recipe.run.name == run.name
        assert run.recipe.log.group == "small"
        if run.base:
            assert names.index(run.base) < names.index(run.name)
            assert run.base.endswith(f".s{seed}")
            assert run.recipe.base.method == ("lora" if "lora" in run.name else "frozen")
            assert run.recipe.data.use_tracks == (2 if "2tracks" in run.name else 0)


@pytest.mark.slow
def test_the_command_runs_each_in_its_own_process(write, capfd):
    path = write(seeds=[0], bases={"drums": {"targets": ["drums"]}})
    override = "transfers=[{bases: [drums], targets: [zither], settings: {train: {steps: 1}}}]"
    assert main(["compare", str(path), override, "--jobs", "2"]) == 1
    messages = capfd.readouterr().err
    assert "drums-to-zither.s0: failed: refined-bsrnn: no track has a stem 'zither'" in messages
    assert "(exit code 1, log runs/small/logs/drums-to-zither.s0.txt)" in messages
    _, runs = planned(path, override)
    assert [state_of(run) for run in runs] == ["evaluated", "new"]


def test_a_study_runs_to_its_end_resumes_and_reports_what_the_results_say(write, tmp_path):
    path = write(forgetting=True)
    assert main(["compare", str(path), "--here", "--only", "drums.s0"]) == 0
    study, runs = planned(path)
    assert [state_of(run) for run in runs].count("evaluated") == 1
    assert run_here(study, runs) == []
    assert main(["compare", str(path), "--report-only"]) == 0
    assert {state_of(run) for run in runs} == {"evaluated"}
    assert run_here(study, runs) == []  # nothing left to do
    out = tmp_path / "runs" / "small" / "report"
    rows = {row["label"]: row for row in json.loads((out / "study.json").read_text())["rows"]}
    assert set(rows) == {"drums", "drums-v7", "drums-to-bass", "drums-v7-to-bass"}
    for run in runs:
        result = json.loads(run.folder.results.read_text())["summary"][run.recipe.targets[0]]["estimate"]
        assert rows[run.label]["usdr"][run.recipe.train.seed] == result["usdr"]["mean"]
        assert rows[run.label]["csdr"][run.recipe.train.seed] == result["csdr"]["median"]
    assert rows["drums-to-bass"]["forgetting"] == [0.0, 0.0]
    assert rows["drums"]["audio_hours"] == round(2 * 2 * 0.25 / 3600, 3)
    text = markdown(study, collect(study_runs(runs)))
    values = rows["drums-to-bass"]["usdr"]
    assert f"| {statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} |" in text
    assert {p.name for p in out.iterdir()} == {
        *("study.json", "study.md", "study.csv"),
        *(
            f"{name}.{suffix}"
            for name in ("curves", "curves_audio", "compute_seconds", "compute_macs", "matrix", "forgetting")
            for suffix in ("png", "svg")
        ),
    }
    lines = (out / "study.csv").read_text().splitlines()
    assert len(lines) == 1 + len(runs)
    check_costs_stand_in_the_table_where_they_are_known(study_runs(runs)[0])


def check_costs_stand_in_the_table_where_they_are_known(run):
    """Two starts of a training add up; what a separation took is not the training's."""
    file = run.folder / "provenance.json"
    provenance = json.loads(file.read_text())
    n = 1 + provenance["steps_done"]
    energy = [{"what": "train", "kwh": 0.25}, {"what": "train", "kwh": 0.5}, {"what": "separate", "kwh": 9.0}]
    plain = table(collect([replace(run, macs=None)])).markdown
    file.write_text(json.dumps({**provenance, "energy": energy}))
    [row] = collect([replace(run, macs=(10**12, 10**12))])
    assert (row.kwh, row.macs) == ([0.75], [1e12 * n])
    lines = table([row]).markdown.splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (lines[0], lines[2])), strict=True))
    assert (cells["energy, kWh"], cells["multiply-accumulates, 10¹²"]) == ("0.7500", f"{n:.2f}")
    assert "kWh" not in plain
    assert "10¹²" not in plain


def test_a_run_that_was_cut_off_is_continued(write):
    path = write(transfers=[], seeds=[0])
    study, runs = planned(path)
    assert run_here(study, runs) == []
    first = runs[0].folder
    weights = tensors_sha256(read_tensors(first.head("drums"), "head")[0])
    first.results.unlink()
    provenance = json.loads(first.provenance.read_text())
    first.provenance.write_text(json.dumps({**provenance, "finished": False}))
    assert state_of(runs[0]) == "cut off"
    assert run_here(study, runs) == []
    assert state_of(runs[0]) == "evaluated"
    assert tensors_sha256(read_tensors(first.head("drums"), "head")[0]) == weights
    # one that was killed before its first state begins anew
    first.state.unlink()
    first.results.unlink()
    first.provenance.write_text(json.dumps({**provenance, "finished": False}))
    assert run_here(study, runs) == []
    assert state_of(runs[0]) == "evaluated"


def test_what_fails_is_told_and_stops_only_what_needs_it(write):
    path = write(seeds=[0], bases={"drums": {"targets": ["drums"]}, "zither": {"targets": ["zither"]}})
    study, runs = planned(path, "transfers=[{bases: [drums, zither], targets: [bass], settings: {train: {steps: 1}}}]")
    failed = run_here(study, runs)
    assert len(failed) == 2
    assert "zither.s0: no track has a stem 'zither'" in failed[0]
    assert "zither-to-bass.s0: its base zither.s0 failed" in failed[1]
    assert [state_of(run) for run in runs] == ["evaluated", "new", "evaluated", "new"]
    assert len(report_study(study, study_runs(runs), study_folder(study))) == 2


def study_folder(study):
    return Path(study.root) / study.study / "report"


def test_another_recipe_under_the_same_name_is_refused(write):
    study, runs = planned(write(transfers=[], seeds=[0]))
    run_here(study, runs)
    _, others = planned(write(transfers=[], seeds=[0]), "common.train.lr=0.5")
    with pytest.raises(RecipeError, match=r"was made with train\.lr=0\.001, the study now says 0\.5"):
        state_of(others[0])


def test_what_is_evaluated_on_another_split_is_evaluated_again(write):
    study, runs = planned(write(transfers=[], seeds=[0], split="train"))
    assert run_here(study, runs) == []
    study, runs = planned(write(transfers=[], seeds=[0]))
    assert {state_of(run) for run in runs} == {"trained"}
    assert run_here(study, runs) == []
    assert {json.loads(run.folder.results.read_text())["split"] for run in runs} == {"test"}


def test_a_base_that_was_trained_again_is_noticed(write):
    study, runs = planned(write(seeds=[0], bases={"drums": {"targets": ["drums"]}}), TO_BASS)
    assert run_here(study, runs) == []
    base, head = runs
    tensors, metadata = read_tensors(base.folder.backbone, "backbone")
    write_tensors(base.folder.backbone, tensors, {**metadata, "sha256": "0" * 64})
    with pytest.raises(RecipeError, match="was transferred from the backbone .*; .* has 0000"):
        state_of(head)


TO_BASS = "transfers=[{bases: [drums], targets: [bass], settings: {train: {steps: 1}}}]"


def test_nothing_is_transferred_from_a_base_that_is_not_finished(write):
    study, runs = planned(write(seeds=[0], bases={"drums": {"targets": ["drums"]}}), TO_BASS)
    assert run_here(study, runs[1:]) == ["drums-to-bass.s0: its base drums.s0 is not trained to its end yet."]


def test_two_processes_do_not_carry_out_one_run(write):
    study, runs = planned(write(transfers=[], seeds=[0]))
    lock = FileLock(Path(runs[0].recipe.run.root) / "locks" / f"{runs[0].name}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True)
    with lock, pytest.raises(UserError, match="another process is carrying it out"):
        carry_out(study, runs[0])


def test_without_data_the_runs_say_that_they_are_builtin(write):
    path = write()
    values = yaml.safe_load(path.read_text())
    values["common"]["data"] = {"root": None}
    path.write_text(yaml.safe_dump(values))
    _, runs = planned(path)
    assert [run.name for run in runs if run.label == "drums-to-bass"] == [f"drums-to-bass.s{i}-builtin" for i in (0, 1)]
    assert runs[-1].base == "drums-v7.s1-builtin"


def test_a_study_of_several_sources_resumes(write, tmp_path):
    path = write(transfers=[], seeds=[0], bases={"drums": {"targets": ["drums"]}})
    override = f"common.data.sources=[{{root: {tmp_path / 'songs'}}}]"
    study, runs = planned(path, override, "common.data.root=null")
    assert run_here(study, runs) == []
    assert state_of(runs[0]) == "evaluated"
    assert len(report_study(study, study_runs(runs), study_folder(study))) == 1


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0", "1", "0"]), ("5,MIG-a", ["5", "MIG-a", "5"])])
def test_every_process_has_a_gpu_of_those_that_are_visible(monkeypatch, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot_environment(slot, 3, 2)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == expected
    assert "CUDA_VISIBLE_DEVICES" not in slot_environment(0, 1, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transfers": [{"bases": ["drum"], "targets": ["bass"]}]}, r"names 'drum', which is no base\. Bases: drums"),
        (
            {"transfers": [{"bases": ["drums"], "targets": ["bass"], "methods": ["melt"]}]},
            "names 'melt'; expected some",
        ),
        ({"transfers": [{"bases": ["drums"], "targets": ["bass"]}] * 2}, r"plans .* more than once"),
        ({"seeds": []}, "seeds is empty"),
        ({"colour": 1}, "unknown recipe key 'colour'"),
        ({"bases": {"drums": {"targets": ["drums"], "bands": {"kind": "v8"}}}, "transfers": []}, None),
    ],
)
def test_a_study_that_cannot_be_is_refused(write, values, message):
    if message is None:  # what only the network knows is told by the run
        planned(write(**values))
        return
    with pytest.raises(RecipeError, match=message):
        planned(write(**values))


def test_spread_by_hand():
    assert spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert spread([1.0]) == "1.00"
    assert spread([float("nan")]) == "–"
    assert spread([10.0, 14.0], 0) == "12 ± 3"


def row_of(label, method, usdr, seconds, **values):
    facts = {"base": "mtl", "bands": "tet24", "tracks": 0, "target": "guitar", "seeds": list(range(len(usdr)))}
    facts |= {"trainable_parameters": 1, "audio_hours": 1.0, "device": "cpu", "n_test_tracks": 2, "forgetting": []}
    given = {"label": label, "method": method, "usdr": usdr, "csdr": usdr, "seconds": seconds}
    return Row(**{**facts, **given, "base_seconds": [100.0] * len(usdr), **values})


def pairs_with_full(*rows):
    return against_full(rows).markdown.splitlines()


def test_what_is_reached_of_full_by_hand():
    full = row_of("full", "full", [2.0, 3.0, 4.0], [40.0, 40.0, 40.0])
    frozen = row_of("frozen", "frozen", [1.9, 2.8, 4.0], [5.0, 4.0, 3.0])
    few = row_of("few", "frozen", [1.0], [1.0], tracks=3)
    base = row_of("mtl", "base", [5.0], [100.0], base=None, base_seconds=[])
    lines = pairs_with_full(base, frozen, full, few)
    # differences -0.1, -0.2, 0.0: mean -0.1, deviation 0.1; t of two degrees of freedom is 4.303
    assert lines[-1] == "| frozen | guitar | 2.90 | 97 % | -0.10 (-0.35 to +0.15) | 10 % | 4 % |"
    assert len(lines) == 3  # nothing to hold the few songs against
    assert against_full([base, frozen, few]).frame.empty
    silent = row_of("full", "full", [-1.0, -2.0, -3.0], [40.0, 40.0, 40.0])
    assert pairs_with_full(frozen, silent)[-1].split(" | ")[3] == "–"  # a share of less than nothing
    unknown = row_of("frozen", "frozen", [math.nan] * 3, [1.0] * 3)
    assert pairs_with_full(unknown, full)[-1] == "| frozen | guitar | – | – | – | – | – |"
    two = row_of("frozen", "frozen", [2.5], [4.0], seeds=[1])
    assert "| 2.50 | 83 % | -0.50 | 10 %" in pairs_with_full(two, full)[-1]  # the same seed, not the same place


def test_trainings_too_short_to_be_timed_have_no_share():
    """Seconds are kept with one decimal: on a fast machine a tiny training takes none."""
    instant = row_of("full", "full", [2.0], [0.0])
    row = row_of("frozen", "frozen", [1.0], [0.1], base_seconds=[0.0])
    assert pairs_with_full(row, instant)[-1] == "| frozen | guitar | 1.00 | 50 % | -1.00 | – | – |"


def hue(line):
    red, _, blue, _ = matplotlib.colors.to_rgba(line.get_color())
    return "red" if red > blue + 0.1 else "blue" if blue > red + 0.1 else "neither"


ONE_SCHEME = dict.fromkeys("abc", "tet24")


def test_v7_is_drawn_in_reds_and_other_schemes_in_blues_with_means_over_seeds():
    bands = {"drums": "tet24", "drums-v7": "v7", "drums-to-bass": "tet24", "drums-v7-to-bass": "v7"}
    seeds = [[(1.0, 0.0), (2.0, 2.0)], [(3.0, 1.0), (4.0, 4.0)]]
    figure = plot_curves({"bass": dict.fromkeys(bands, seeds)}, bands)
    (axis,) = figure.axes
    means = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    assert {line.get_label(): hue(line) for line in means} == {
        label: "red" if kind == "v7" else "blue" for label, kind in bands.items()
    }
    assert len({line.get_color() for line in means}) == len(bands)  # shades tell those of a family apart
    assert all(line.get_xydata().tolist() == [[2.0, 0.5], [3.0, 3.0]] for line in means)
    assert len(axis.get_lines()) == 3 * len(bands)  # and every seed
    assert axis.get_xlabel() == "training time, s"
    two = plot_curves({"bass": dict.fromkeys(["a", "b"], seeds), "drums": dict.fromkeys(["c", "b"], seeds)}, ONE_SCHEME)
    for axis in two.axes:  # each panel by itself: the same label may differ between panels, never two in one
        means = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
        assert len({line.get_color() for line in means}) == len({line.get_linestyle() for line in means}) == 2


def test_methods_are_compared_over_the_logarithm_of_compute_each_in_its_colour():
    labels = ["drums-v7", "a", "b", "c", "d", "e"]
    seeds = [[(0.0, 0.0), (1e9, 2.0)], [(1e9, 1.0), (1e10, 4.0)]]
    bands = {label: "v7" if label == "drums-v7" else "tet24" for label in labels}
    for against in (WALL_CLOCK, MACS):
        (axis,) = plot_curves({"bass": dict.fromkeys(labels, seeds)}, bands, against).axes
        means = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
        assert axis.get_xscale() == "log"
        assert axis.get_xlabel() == against
        assert len({line.get_color() for line in means}) == len(labels)
        assert len(axis.collections) == len(labels), "a band over seeds for each"


def test_the_other_figures_show_the_rows():
    rows = [row_of("a", "frozen", [1.0, 3.0], [1.0], tracks=3), row_of("b", "frozen", [4.0, 4.0], [1.0], tracks=10)]
    rows += [row_of("c", "frozen", [5.0], [1.0]), row_of("d", "frozen", [2.0], [1.0], base="drums", target="piano")]
    axis = plot_songs(rows).axes[0]
    (line,) = [c for c in axis.containers if len(c[0].get_xdata()) > 1]  # a single amount of songs is no line
    assert line.get_label() == "mtl to guitar, frozen"
    assert line[0].get_ydata().tolist() == [2.0, 4.0, 5.0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["3", "10", "all"]
    axis = plot_matrix(rows[2:]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["5.00", "–", "–", "2.00"]  # mtl, drums × guitar, piano
    forgetful = [row_of("full", "full", [1.0], [1.0], forgetting=[-1.0, -3.0]), row_of("x", "frozen", [1.0], [1.0])]
    forgetful[1].forgetting.extend([0.0, 0.0])
    bars = plot_forgetting(forgetful).axes[0].patches
    assert [bar.get_width() for bar in bars] == [-2.0, 0.0]


def test_curves_come_from_the_log_and_their_time_is_without_validation(write, monkeypatch):
    scores = Validation.scores

    def slow(self, *how):
        time.sleep(0.5)
        return scores(self, *how)

    monkeypatch.setattr(Validation, "scores", slow)
    path = write(transfers=[], seeds=[0], bases={"drums": {"targets": ["drums"]}})
    study, runs = planned(path, "common.train.validate_every=1")
    run_here(study, runs)
    curve = curve_of(study_runs(runs)[0], "drums")
    events = [json.loads(line) for line in runs[0].folder.metrics.read_text().splitlines()]
    looks = [e for e in events if "validation/drums/usdr" in e]
    assert curve == [(e["training_seconds"], e["validation/drums/usdr"]) for e in looks]
    assert len(curve) == 2
    assert looks[1]["seconds"] - curve[1][0] >= 0.5
    first, second = (e["seconds"] for e in events if "loss" in e)
    assert curve[1][0] - curve[0][0] <= second - first - 0.5 + 0.01
    provenance = json.loads(runs[0].folder.provenance.read_text())
    assert provenance["validation_seconds"] >= 1.0
    assert provenance["seconds"] + 0.1 >= provenance["validation_seconds"] + curve[1][0]  # both rounded to tenths
    state = load_state(runs[0].folder.state)[1]
    assert state["seconds"] - state["validation_seconds"] == pytest.approx(curve[1][0], abs=0.05)
    hours = [x for x, _ in curve_of(study_runs(runs)[0], "drums", AUDIO)]
    assert hours == [e["step"] * 2 * 0.25 / 3600 for e in events if "validation/drums/usdr" in e]
    run = replace(study_runs(runs)[0], macs=(1000, 10))
    assert curve_of(run, "drums", MACS) == [(1000 + 10 * e["step"], y) for e, (_, y) in zip(looks, curve, strict=True)]
    assert study_runs(runs)[0].macs == training_macs(run.recipe, describe(run.recipe))
    assert curve_of(replace(run, macs=None), "drums", MACS) == []


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    """In place of Python: a command that says so and sleeps for a minute."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho asleep\nexec sleep 60\n")
    path.chmod(0o755)
    monkeypatch.setattr("refined_bsrnn.training.study.sys.executable", str(path))


def test_a_study_that_is_terminated_leaves_no_process_behind(tmp_path, sleeper):
    log = tmp_path / "log.txt"

    def when_asleep():
        while not (log.exists() and log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=when_asleep, daemon=True).start()
    processes = Processes()
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool, interrupted_by_signals(processes.stop):  # as the command does it
        work = pool.submit(processes.run, ["compare"], log, {})
        with pytest.raises(KeyboardInterrupt):
            work.result()
    assert time.monotonic() - began < 30
    assert "exit code -15" in str(work.exception())


def test_a_process_that_is_just_starting_is_stopped_and_no_other_begins(tmp_path, sleeper, monkeypatch):
    processes, popen = Processes(), subprocess.Popen

    def started(*args, **options):
        process = popen(*args, **options)
        processes.stop()  # before anyone knows of the process
        return process

    monkeypatch.setattr("refined_bsrnn.training.study.subprocess.Popen", started)
    began = time.monotonic()
    with pytest.raises(UserError, match="exit code -15"):
        processes.run(["compare"], tmp_path / "log.txt", {})
    assert time.monotonic() - began < 30
    with pytest.raises(UserError, match="stopped before it began"):
        processes.run(["compare"], tmp_path / "other.txt", {})
    assert not (tmp_path / "other.txt").exists()


def test_dry_run_lists_and_does_nothing(write, capsys):
    assert main(["compare", str(write()), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "drums.s0\tnew"
    assert main(["compare", str(write()), "--only", "nothing"]) == 2
    assert "matches none of drums.s0" in capsys.readouterr().err


STUDIES = sorted(recipe_folder().glob("compare*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_shipped_study_plans_runs_that_can_be_built(path):
    study, runs = planned(path)
    assert len(study.seeds) >= 3
    labels = {run.label: run for run in runs}
    with torch.device("meta"):
        for run in labels.values():
            assert run.recipe.targets
            assert count_parameters(BSRNN.from_recipe(run.recipe))


def test_the_band_study_compares_schemes_of_equal_size():
    _, runs = planned(recipe_folder() / "compare_bands.yaml")
    with torch.device("meta"):
        models = {run.label: BSRNN.from_recipe(run.recipe) for run in runs}
    assert {len(model.ranges) for model in models.values()} == {36}
    sizes = {label: count_parameters(model) for label, model in models.items()}
    assert len({size for label, size in sizes.items() if not models[label].bands.overlapping}) == 1
    assert max(sizes.values()) < 1.07 * min(sizes.values()), sizes
