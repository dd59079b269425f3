"""The report's page: its numbers are those of the results, and a browser plays it."""

import base64
import io
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE, micro_recipe, write_song, write_songs
from test_evaluate import PROVENANCE
from test_report import make_run, results_of

from refined_bsrnn.checkpoint import RunFolder, save_weights
from refined_bsrnn.evaluate import evaluate
from refined_bsrnn.files import write_json, write_text
from refined_bsrnn.listening import MATCHED_DBFS, choose
from refined_bsrnn.model import BSRNN
from refined_bsrnn.page import GROUPS
from refined_bsrnn.published import PUBLISHED
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.report import report


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


def page_of(runs, out, **options):
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


def test_every_other_number_is_that_of_the_results(runs, made_page):
    page = made_page
    leakage = rows_of(page, "leakage")
    counts = rows_of(page, "counts")
    silent = rows_of(page, "SI-SDR")
    for run in runs:
        results = results_of(run)
        for target, summary in results["summary"].items():
            for part, found in summary["estimate"]["leakage_db"].items():
                assert leakage[f"{run.name}: {target}"][part][0] == f"{found['mean']:.1f}"
            assert silent[run.name][target][0] == db(summary["estimate"]["si_sdr"]["mean"])
            row = counts[f"{run.name}: {target}"]
            assert row["tracks scored"][0] == str(summary["n_tracks"])
            assert row["frames"][0] == str(summary["estimate"]["n_frames"]["sum"])
            assert row["frames left out"][0] == str(summary["estimate"]["n_frames_excluded"]["sum"])
    what = rows_of(page, "runs")
    assert what["mtl"]["bands (K)"][0] == f"custom ({results_of(runs[1])['model']['n_bands']})"


def test_differences_are_paired_over_tracks(runs, made_page):
    page = made_page
    row = rows_of(page, "differences")["drums"]
    ours, theirs = ([t["targets"]["drums"]["estimate"]["csdr"] for t in results_of(run)["tracks"]] for run in runs)
    differences = np.array(ours) - np.array(theirs)
    assert row["difference"][0] == "drums − mtl"
    assert row["mean [95 %] (dB)"][0].split(" ")[0] == db(differences.mean())
    assert row["better on"][0] == f"{(differences > 0).sum()} of 5"


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
    assert {row.metric for row in PUBLISHED} == {"usdr", "csdr"}
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
    page = page_of([make_run(tmp_path / name, {"</script>": (1.0,) * 4})], tmp_path / "out")
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
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(source["audio"])))
        name = "mixture" if source["name"] == "mixture" else "vocals"
        true = soundfile.read(songs / "test" / noise["track"] / f"{name}.wav")[0][: len(heard)]
        assert rate == RATE
        level = 10 * math.log10(np.mean(true**2))
        if name == "vocals":
            assert 10 * math.log10(np.mean((source["gain"] * heard) ** 2)) == pytest.approx(level, abs=1)
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
