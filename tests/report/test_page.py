"""The report's page: its numbers are those of the results, and a browser plays it."""

import base64
import io
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from scipy.stats import wilcoxon

from refined_bsrnn.evaluation.evaluate import evaluate
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.report.page import GROUPS
from refined_bsrnn.report.players import MATCHED_DBFS, choose
from refined_bsrnn.report.published import PUBLISHED
from refined_bsrnn.report.write import report
from refined_bsrnn.runs.folder import RunFolder, save_weights
from refined_bsrnn.system import write_json, write_text
from tests.conftest import RATE, micro_recipe, write_song, write_songs
from tests.evaluation.test_evaluate import PROVENANCE
from tests.report.test_report import make_run, results_of


class Tables(HTMLParser):
    """{table's accessible name: rows}, each row a list of (text, is bold, interval)."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.cell, self.small, self.bold, self.inside = {}, None, "", False, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "aria-label" in values and values.get("role") == "region":
            self.name = values["aria-label"]
            self.tables[self.name] = []
        elif tag == "tr":
            self.tables[self.name].append([])
        elif tag in ("td", "th"):
            self.cell, self.small, self.bold = "", "", False
        elif tag == "strong" and self.cell is not None:
            self.bold = True
        self.inside.append((tag, values.get("class")))

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[self.name][-1].append((self.cell, self.bold, self.small))
            self.cell = None
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self.cell is None:
            return
        if ("span", "ci") in self.inside:
            self.small += data
        else:
            self.cell += data


def rows_of(page, name):
    """{row: {column: (text, bold, interval)}} of the table of that name."""
    header, *rows = Tables(page).tables[name]
    columns = [cell[0] for cell in header]
    return {row[0][0]: dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns)}


def evaluated(songs, name, **recipe):
    torch.manual_seed(len(name))
    values = micro_recipe(songs, **recipe)
    run = RunFolder(songs.parent / "runs" / name)
    write_text(run.recipe, dump_recipe(values))
    write_json(run.provenance, PROVENANCE)
    save_weights(run, BSRNN.from_recipe(values))
    evaluate(run)
    return run.path


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("page") / "songs")


@pytest.fixture(scope="module")
def runs(songs):
    """Two evaluated runs on five tracks, with excerpts. Nobody changes them."""
    for i in range(1, 5):
        write_song(songs / "test" / f"song-{i}", seed=50 + i, seconds=3.0)
    return [evaluated(songs, "drums", targets=["drums"]), evaluated(songs, "mtl")]


@pytest.fixture(scope="module")
def page_file(runs):
    """Their page, made once."""
    out = runs[0].parent / "report"
    report(runs, out)
    return out / "index.html"


@pytest.fixture
def made_page(page_file):
    return page_file.read_text(encoding="utf-8")


def page_of(runs, out, figures=False, **options):
    """The page of runs; drawing the figures takes as long as a test may."""
    with pytest.MonkeyPatch.context() as patch:
        if not figures:
            patch.setattr("refined_bsrnn.report.write.all_figures", lambda *_: ({}, []))
        report(runs, out, **options)
    return (out / "index.html").read_text(encoding="utf-8")


def db(value):
    return f"{round(value, 2) + 0.0:.2f}"


def test_every_score_and_interval_is_that_of_the_results(runs, made_page):
    page = made_page
    for metric, name, statistic in (("usdr", "uSDR ", "mean"), ("csdr", "cSDR ", "median")):
        rows = rows_of(page, name)
        for run in runs:
            for target, summary in results_of(run)["summary"].items():
                text, _, interval = rows[run.name][target]
                found = summary["estimate"][metric]
                assert text == db(found[statistic])
                low, high = found[f"{statistic}_95"]
                assert interval == f"{db(low)} to {db(high)}"
        for source, label in (("ratio_mask", "ideal ratio mask (ceiling)"), ("mixture", "mixture (do nothing)")):
            expected = results_of(runs[1])["summary"]["vocals"][source][metric][statistic]
            assert rows[label]["vocals"][0] == db(expected)
    drums = {row: cells["drums"] for row, cells in rows_of(page, "uSDR ").items() if row in ("drums", "mtl")}
    best = max(drums, key=lambda row: float(drums[row][0]))
    assert [row for row, cell in drums.items() if cell[1]] == [best]


BASELINES = {
    "mixture": "mixture (do nothing)",
    "silence": "silence",
    "ratio_mask": "ideal ratio mask (ceiling)",
    "complex_mask": "ideal complex mask (ceiling)",
}
FURTHER = {  # table → (metric, statistic, decimals)
    "SI-SDR": ("si_sdr", "mean", 2),
    "cSDR, museval's rule for silent frames": ("csdr_museval", "median", 2),
    "Level where the reference is silent (lower is better)": ("silent_dbfs", "mean", 1),
    "Bandwidth: 99 % of the energy lies below": ("bandwidth_hz", "median", 0),
}


def printed(value, decimals=2):
    return "–" if value is None else f"{round(value, decimals) + 0.0:,.{decimals}f}"


def expected_scores(runs, targets, metric, statistic):
    """{row: {column: (score, interval)}} of estimates and baselines."""
    found = {}
    for label, source, folders in [
        *((run.name, "estimate", [run]) for run in runs),
        *((label, source, runs) for source, label in BASELINES.items()),
    ]:
        for target in targets:
            summaries = [r["summary"][target][source] for r in map(results_of, folders) if target in r["summary"]]
            figures = summaries[0][metric] if summaries else {}
            low, high = figures.get(f"{statistic}_95") or (0, 0)
            interval = f"{printed(low)} to {printed(high)}" if low < high else ""
            found.setdefault(label, {})[target] = (printed(figures.get(statistic)), interval)
    return found


def expected_others(runs, targets, path, decimals, columns=None):
    """{row: {column: text}} of a further measurement, of estimates and of the baselines that have it."""
    found = {}
    for run in runs:
        for source, label in {"estimate": run.name, **BASELINES}.items():
            for target in targets:
                row = f"{label}: {target}" if columns else label
                of = results_of(run)["summary"].get(target, {}).get(source, {})
                for column in columns or [target]:
                    value = of.get(path[0], {})
                    for step in (column, "mean") if columns else path[1:]:
                        value = (value or {}).get(step)
                    if value is not None:
                        found.setdefault(row, {})[column] = printed(value, decimals)
    return found


def filled(rows):
    """Without dashes and rows of dashes alone: {row: {column: text}}."""
    texts = {row: {c: x[0] for c, x in list(cells.items())[1:] if x[0] != "–"} for row, cells in rows.items()}
    return {row: cells for row, cells in texts.items() if cells}


def test_every_number_of_every_table_is_that_of_the_results(runs, made_page):
    targets = ["drums", "vocals"]
    tables = {name: rows_of(made_page, name) for name in Tables(made_page).tables}
    for name, metric, statistic in (("uSDR ", "usdr", "mean"), ("cSDR ", "csdr", "median")):
        shown = tables.pop(name)
        assert {row: {t: cells[t][::2] for t in targets} for row, cells in shown.items()} == expected_scores(
            runs, targets, metric, statistic
        )
    for name, (*path, decimals) in FURTHER.items():
        own = name.startswith("cSDR")  # museval's rule: the mixture's score depends on a run's other targets
        shown, expected = filled(tables.pop(name, {})), expected_others(runs, targets, path, decimals)
        assert {r: c for r, c in shown.items() if not own or r in ("drums", "mtl")} == {
            r: c for r, c in expected.items() if not own or r in ("drums", "mtl")
        }
    stems = ["vocals", "drums", "bass", "other"]
    assert filled(tables.pop("leakage")) == expected_others(runs, targets, ["leakage_db"], 1, stems)
    assert tables.pop("counts") == expected_counts(runs)
    what = tables.pop("runs")
    for run in runs:
        model, training = results_of(run)["model"], results_of(run)["training"]
        assert [cell[0] for cell in what[run.name].values()][1:] == [
            f"{model['bands']} ({model['n_bands']})",
            f"{model['trainable_parameters']:,}",
            f"{training['steps']:,}",
            f"0:00:{round(training['seconds']):02}",
            training["device"],
        ]
    assert list(tables) == ["differences"], "and that is tested below"
    assert f"Tracks scored: drums {results_of(runs[0])['summary']['drums']['n_tracks']}, vocals 5." in made_page


def expected_counts(runs):
    found = {}
    for run in runs:
        results = results_of(run)
        for target, summary in results["summary"].items():
            estimate, row = summary["estimate"], f"{run.name}: {target}"
            counts = {
                "tracks scored": summary["n_tracks"],
                "tracks without the stem": len(results["tracks_without"][target]),
                "silent tracks left out": summary["n_silent"],
                "tracks without cSDR": estimate["csdr"]["n_undefined"],
                "frames": estimate["n_frames"]["sum"],
                "frames left out": estimate["n_frames_excluded"]["sum"],
                "by museval's rule": estimate["n_frames_excluded_museval"]["sum"],
            }
            found[row] = {"run: target": (row, False, ""), **{k: (str(n), False, "") for k, n in counts.items()}}
    return found


def test_what_is_left_out_is_counted(tmp_path):
    run = make_run(tmp_path / "a", {"guitar": (1.0,) * 4}, tracks_without={"guitar": ["x", "y"]})
    page = page_of([run], tmp_path / "out")
    assert rows_of(page, "counts")["a: guitar"]["tracks without the stem"][0] == "2"
    assert "guitar 0 silent and 2 missing tracks" in page


def test_scores_beside_players_are_those_of_the_results(runs, made_page):
    rows = {run.name: {t["track"]: t["targets"] for t in results_of(run)["tracks"]} for run in runs}
    for item in items_of(made_page):
        shown = {source["name"]: source["score"] for source in item["sources"]}
        first = next(name for name in ("drums", "mtl") if name in shown)
        of = rows[first][item["track"]][item["target"]]
        assert shown.pop("mixture") == f"uSDR {db(of['mixture']['usdr'])} dB"
        assert shown.pop("reference") == ""
        for name, text in shown.items():
            assert text == f"uSDR {db(rows[name][item['track']][item['target']]['estimate']['usdr'])} dB"
        scores = [targets[item["target"]]["estimate"]["usdr"] for targets in rows[first].values()]
        pick = {"best": max, "worst": min, "median": np.median}[item["which"]]
        assert of["estimate"]["usdr"] == pick(scores)


def test_differences_are_those_of_numpy_and_scipy(runs, made_page):
    for metric, name in (("usdr", "uSDR"), ("csdr", "cSDR")):
        header, *rows = Tables(made_page).tables["differences"]
        row = next([cell[0] for cell in row] for row in rows if row[2][0] == name)
        ours, theirs = (
            np.array([t["targets"]["drums"]["estimate"][metric] for t in results_of(run)["tracks"]]) for run in runs
        )
        d = ours - theirs
        draws = np.random.default_rng(0).integers(5, size=(10_000, 5))
        low, high = np.quantile(d[draws].mean(1), (0.025, 0.975))
        p = wilcoxon(ours, theirs).pvalue
        assert row == [
            *("drums", "drums − mtl", name, f"{db(d.mean())} [{db(low)}, {db(high)}]", db(np.median(d))),
            *(f"{(d > 0).sum()} of 5", f"{p:.3f}"),
        ]
        assert len(row) == len(header)


def test_rows_stand_in_groups(tmp_path):
    v7 = {"bands": "v7", "n_bands": 41}
    runs = [
        make_run(tmp_path / "mtl", {"drums": (1.0,) * 4}, kind="multi_target"),
        make_run(tmp_path / "generic", {"drums": (1.0,) * 4}, model={"bands": "tet24"}),
        make_run(tmp_path / "drums-v7", {"drums": (1.0,) * 4}, model=v7),
        make_run(tmp_path / "mtl-to-drums", {"drums": (1.0,) * 4}, kind="transfer", base="mtl"),
        make_run(tmp_path / "theirs", {"drums": (1.0,) * 4}, kind="estimates", model={}, training={}),
    ]
    page = page_of(runs, tmp_path / "out")
    groups = [row[0][0] for row in Tables(page).tables["uSDR "] if len(row) == 1]
    assert groups == [GROUPS[0], GROUPS[1], GROUPS[3], GROUPS[4], GROUPS[5], GROUPS[6]]


def test_published_rows_name_their_protocol_and_are_never_best(tmp_path):
    runs = [make_run(tmp_path / name, {"vocals": (value,) * 4}) for name, value in (("a", 1.0), ("b", 2.0))]
    assert "BSRNN (paper)" not in page_of(runs, tmp_path / "out")
    page = page_of(runs, tmp_path / "out", published=True)
    groups = [row[0][0] for row in Tables(page).tables["uSDR "] if len(row) == 1]
    assert "Published, not ranked. uSDR, mean over tracks; MUSDB18-HQ test" in groups
    assert not any("cSDR" in group for group in groups), "each metric in its own table"
    rows = rows_of(page, "uSDR ")
    assert rows["BSRNN (paper)"]["vocals"] == ("10.04", False, "")
    assert rows["b"]["vocals"][1], "a published number does not take the best away"
    assert {row.metric for row in PUBLISHED} == {"usdr", "csdr", "other"}
    otherwise = rows_of(page, "published otherwise")
    assert otherwise["first Refined BSRNN, drums to vocals, v7"]["vocals"] == ("1.139", False, "")
    assert "first Refined BSRNN, v7" not in otherwise, "scores drums alone, which no run here has"
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "## Published: uSDR, mean over tracks; MUSDB18-HQ test\n\nNot measured here and not ranked." in markdown


def test_the_page_needs_no_network(runs, made_page):
    page = made_page
    assert "default-src 'none'" in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", page))


def test_names_cannot_break_the_page(tmp_path):
    name = "<b>&\"'{{js}}"
    page = page_of([make_run(tmp_path / name, {"</script>": (1.0,) * 4})], tmp_path / "out", figures=True)
    assert rows_of(page, "uSDR ")[name]["</script>"][0] == "1.00"
    assert page.count("</script>") == 2


def test_old_results_without_audio_say_so(tmp_path):
    made = report([make_run(tmp_path / "drums", {"drums": (1.0,) * 4})], tmp_path / "out")
    assert any(note.startswith("Nothing to listen to for drums: no excerpts were kept") for note in made.notes)


def test_a_part_of_the_tracks_is_said_at_the_top(tmp_path):
    run = make_run(tmp_path / "drums", {"drums": (1.0,) * 4}, partial={"tracks": None, "quick": True, "of": 50})
    page = page_of([run], tmp_path / "out")
    assert '<p class="warning">drums: QUICK EVALUATION, uSDR alone, on 4 OF 50 TRACKS.</p>' in page


# --- listening --------------------------------------------------------------------------------------------------------


def items_of(page):
    return json.loads(re.search(r'id="listening">(.*?)</script>', page, re.S)[1])


def test_best_median_and_worst_track():
    scores = {"a": 1.0, "b": 5.0, "c": 3.0, "d": 2.0}
    assert choose(scores) == [("best", "b"), ("median", "d"), ("worst", "a")]
    assert choose({"a": 1.0}) == [("best", "a")]
    assert choose({"a": 1.0, "b": 2.0}) == [("best", "b"), ("median", "a")] or len(choose({"a": 1.0, "b": 2.0})) == 2
    assert choose({}) == []


def test_excerpts_of_all_runs_at_their_own_and_at_one_level(runs, songs, made_page):
    items = items_of(made_page)
    first = items[0]
    assert [source["name"] for source in first["sources"]] == ["mixture", "reference", "drums", "mtl"]
    assert [(item["target"], item["which"]) for item in items[:3]] == [
        ("drums", "best"),
        ("drums", "median"),
        ("drums", "worst"),
    ]
    noise = next(item for item in items if item["target"] == "vocals")  # drums have their energy where Opus ends
    for source in noise["sources"][:2]:
        audible, rate = soundfile.read(io.BytesIO(base64.b64decode(source["audio"])))
        name = "mixture" if source["name"] == "mixture" else "vocals"
        true = soundfile.read(songs / "test" / noise["track"] / f"{name}.wav")[0][: len(audible)]
        assert rate == RATE
        level = 10 * math.log10(np.mean(true**2))
        if name == "vocals":
            assert 10 * math.log10(np.mean((source["gain"] * audible) ** 2)) == pytest.approx(level, abs=1)
        assert 20 * math.log10(source["matched"] / source["gain"]) + level == pytest.approx(MATCHED_DBFS, abs=0.01)
    row = next(t for t in results_of(runs[1])["tracks"] if t["track"] == first["track"])["targets"]["drums"]
    assert first["sources"][3]["score"] == f"uSDR {db(row['estimate']['usdr'])} dB"
    assert first["start"] == row["excerpt"]["start_seconds"]


# --- in a browser -----------------------------------------------------------------------------------------------------


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture
def browser_page(page_file):
    """(a loaded page, everything it complained about or asked the network for)."""
    sync = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    if chromium() is None:
        pytest.skip("needs Chromium (chromium or google-chrome on the PATH, or $CHROMIUM)")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        page, complaints = browser.new_page(viewport={"width": 1280, "height": 900}), []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        # `test_in_chromium` reads a canvas until something is painted on it, of which the browser warns.
        page.on("console", lambda m: complaints.remove(m.text) if "readback operations" in m.text else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: complaints.append(r.url) if r.url.startswith("http") else None)
        page.goto(page_file.as_uri())
        yield page, complaints
        browser.close()


def wait(page, condition):
    """Until a JavaScript expression is true (the page's own policy forbids to evaluate text from within)."""
    for _ in range(200):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never became true: {condition}")


@pytest.mark.slow
def test_in_chromium(browser_page, runs):
    page, complaints = browser_page
    table = page.locator("table", has_text="uSDR, mean over tracks").first.inner_text()
    for run in runs:
        for summary in results_of(run)["summary"].values():
            assert db(summary["estimate"]["usdr"]["mean"]) in table
    player = "reportPlayers[0]"
    page.locator(".item .play").first.scroll_into_view_if_needed()
    drawn = "(() => { const c = document.querySelectorAll('.item canvas')[2]; const d = c.getContext('2d')"
    drawn += ".getImageData(0, 0, c.width, c.height).data; return new Set(d).size > 20; })()"
    wait(page, drawn)
    page.locator(".item .play").first.click()
    wait(page, f"{player}.position() > 0.3")
    assert page.locator(".item .play").first.inner_text() == "Pause"
    levels = f"{player}.gains.map(g => g.gain.value > 0.001)"
    assert page.evaluate(levels) == [False, True, False, False], "the reference first"
    before = page.evaluate(f"{player}.position()")
    page.keyboard.press("3")
    wait(page, f"JSON.stringify({levels}) === '[false,false,true,false]'")
    wait(page, f"{player}.position() > {before}")
    assert page.locator(".item input[type=radio]").nth(2).is_checked()
    page.locator(".item label", has_text="mixture").first.locator("input").check()
    wait(page, f"JSON.stringify({levels}) === '[true,false,false,false]'")
    page.locator("#matched").uncheck()
    own = items_of(page.content())[0]["sources"][0]["gain"]
    wait(page, f"Math.abs({player}.gains[0].gain.value - {own}) < 0.01")
    head = page.evaluate(f"parseFloat({player}.views[0].head.style.left)")
    assert 0 < head < 100
    page.locator(".item input[type=radio]").first.focus()
    page.keyboard.press("Space")
    wait(page, f"{player}.gains === null")
    page.keyboard.press(".")
    assert page.evaluate(f"{player}.position()") > 0
    assert complaints == []


@pytest.mark.slow
def test_spectrograms_are_those_of_numpy(browser_page):
    """The strongest bin of each row, of both channels averaged, at one time in the middle."""
    page, _ = browser_page
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 20000)).astype(np.float32)
    buffer = "((x) => ({ length: 20000, numberOfChannels: 2, sampleRate: 48000, getChannelData: (c) => x[c] }))"
    call = f"(x) => Array.from(reportSpectrogram({buffer}(x), 0.5).data)"
    found = np.array(page.evaluate(call, x.tolist())).reshape(-1, 76)[5]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    spectrum = np.fft.rfft(0.5 * x[:, 5 * 1024 - 1024 : 5 * 1024 + 1024] * window)
    power = (np.abs(spectrum) ** 2).mean(0)
    edges = 50 * 320 ** (np.arange(77) / 76) * 2048 / 48000
    strongest = [power[int(low) : max(int(low) + 1, int(high))].max() for low, high in pairwise(edges)]
    np.testing.assert_allclose(found, 10 * np.log10(strongest), atol=0.01)


FOCUSED = "document.activeElement.type"


@pytest.mark.slow
def test_keys_keep_their_place_and_levels_do_not_clip(browser_page):
    page, complaints = browser_page
    player = "reportPlayers[0]"
    own = page.evaluate(f"{player}.item.sources.map(s => s.matched)")
    page.evaluate(f"{player}.item.sources.forEach(s => s.matched *= 1000)")
    page.locator(".item .play").first.click()
    wait(page, f"{player}.gains && {player}.position() > 0.1")
    assert page.evaluate(FOCUSED) == "button"
    peak = "b => Math.max(...[...Array(b.numberOfChannels).keys()].map("
    peak += "c => b.getChannelData(c).reduce((most, x) => Math.max(most, Math.abs(x)), 0)))"
    peaks = page.evaluate(f"{player}.buffers.map({peak})")
    played = page.evaluate(f"{player}.item.sources.map(s => s.matched * {player}.headroom)")
    assert max(p * gain for p, gain in zip(peaks, played, strict=True)) == pytest.approx(0.98, abs=1e-3)
    assert np.ptp([gain / before for gain, before in zip(played, own, strict=True)]) < 1e-9, "still matched"
    slider = page.locator(".item input[type=range]").first
    slider.focus()
    count = f"const p = {player}, seek = p.seek.bind(p); p.sought = 0; p.seek = (s) => {{ p.sought += 1; seek(s); }};"
    page.evaluate(f"() => {{ {count} }}")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(FOCUSED) == "range"
    assert page.evaluate(f"{player}.sought") == 5, "it plays on and the slider keeps the keys"
    radio = page.locator(".item input[type=radio]").first
    radio.focus()
    page.keyboard.press("Space")
    wait(page, f"{player}.gains === null")
    page.keyboard.press("Space")
    wait(page, f"{player}.gains")
    assert page.evaluate(FOCUSED) == "radio"
    page.keyboard.press("ArrowDown")
    wait(page, f"{player}.gains[1].gain.value > 0 && {player}.active === 1")
    assert complaints == []


@pytest.mark.slow
def test_one_item_plays_at_a_time_and_all_can_be_reached_by_keyboard(browser_page):
    page, complaints = browser_page
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    buttons = page.locator(".item .play")
    buttons.nth(0).click()
    wait(page, "reportPlayers[0].gains")
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    wait(page, "reportPlayers[1].gains && !reportPlayers[0].gains")
    names = "[...document.querySelectorAll('button, input, summary, a, [tabindex]')].filter(n => n.tabIndex < 0).length"
    assert page.evaluate(names) == 0
    assert complaints == []
