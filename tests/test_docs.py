"""What the documents say comes from files in the repository."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.architecture import VARIANTS, variant_recipe
from benchmarks.check import check_markdown
from benchmarks.docs import RUNS, TABLES, documents, filled
from refined_bsrnn.errors import UserError
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.recipe import recipe_folder
from refined_bsrnn.report.write import report

ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/results.json"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(("path", "text"), documents().items(), ids=lambda x: x.stem if isinstance(x, Path) else "")
def test_generated_tables_are_those_of_their_results(path, text):
    assert path.read_text() == text, "run `make docs`"


def test_a_table_is_put_between_its_markers():
    tables = {"a": lambda: "| new |\n", "b": lambda: "| other |"}
    start, end = "x\n<!-- table: {} -->\n", "<!-- end of table -->\ny"
    texts = "".join(start.format(name) + old + end for name, old in (("a", "\n| old |\n\n"), ("b", ""), ("a", "")))
    wanted = ((name, f"\n{new}\n\n") for name, new in (("a", "| new |"), ("b", "| other |"), ("a", "| new |")))
    assert filled(texts, tables) == "".join(start.format(name) + new + end for name, new in wanted)
    assert filled("no markers", tables) == "no markers"
    with pytest.raises(UserError, match="there is no table 'c'"):
        filled(start.format("c") + end, tables)


def test_every_table_stands_in_a_document():
    shown = "".join(path.read_text() for path in DOCUMENTS)
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in shown] == []
    assert shown.count("<!-- table: ") == shown.count("<!-- end of table -->")


def test_the_results_are_those_of_the_command_in_the_document():
    document = (ROOT / "docs" / "results.md").read_text()
    assert tuple(re.findall(r"docs/results/([\w-]+)", document.split("```")[1])) == RUNS
    assert sorted(ROOT / "docs" / "results" / name for name in RUNS) == FOLDERS


def test_what_did_not_work_is_that_of_its_logs():
    document = (ROOT / "docs" / "results.md").read_text().split("## What did not work")[1]
    rows = re.findall(r"\]\(([\w/.-]+)\) \|.*\| (-?[\d.]+) \|", document)
    assert len(rows) == 13
    for name, best in rows:
        lines = [json.loads(line) for line in (ROOT / "docs" / name).read_text().splitlines()]
        assert f"{max(x['validation/usdr'] for x in lines if 'validation/usdr' in x):.2f}" == best, name


def test_the_difference_in_the_text_is_that_of_the_results():
    document = " ".join((ROOT / "docs" / "results.md").read_text().split())
    usdr = report([ROOT / "docs/results/drums-v7", ROOT / "docs/results/mtl"]).versus.iloc[0]
    low, high = usdr["mean_95"]
    expected = f"{usdr['mean']:.2f} dB ahead in uSDR with a 95 % interval from {low:.2f} to {high:.2f} over songs, on "
    assert f"{expected}{usdr['n_better']} of {usdr['n']} tracks" in document


def test_the_words_about_variants_are_those_of_their_measurement():
    document = (ROOT / "docs" / "architecture.md").read_text()
    values = json.loads((ROOT / "docs" / "results" / "architecture.json").read_text())
    assert f"OMP_NUM_THREADS=1 {values['command']}\n" in document
    shown = [values["device"], f"torch {values['torch']}", f"seed {values['seed']}", f"{values['rounds']} rounds"]
    assert all(text in document for text in [*shown, f"N = {values['features']}", f"R = {values['repeats']}"])
    measured = {(row["name"], row["recipe"], row["words"], row["published"]) for row in values["variants"]}
    assert measured == {(v.name, v.recipe, v.words, v.published) for v in VARIANTS}
    described = document.split("## What they are")[1]
    assert not [row["name"] for row in values["variants"] if f"**{row['name']}**" not in described]


@pytest.mark.parametrize("row", json.loads((ROOT / "docs" / "results" / "architecture.json").read_text())["variants"])
def test_the_parameters_of_a_variant_are_those_of_its_network(row):
    values = json.loads((ROOT / "docs" / "results" / "architecture.json").read_text())
    variant = next(v for v in VARIANTS if v.name == row["name"])
    with torch.device("meta"):
        model = BSRNN.from_recipe(variant_recipe(variant, values["features"], values["repeats"]))
    assert count_parameters(model) == row["parameters"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_recipes_of_a_document_are_there(path):
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (path.parent / link).exists(), link
    for name in re.findall(r"recipes/(\w+)\.yaml", text):
        assert (recipe_folder() / f"{name}.yaml").exists(), name


MEASURED = {"transfer": "transfer", **dict.fromkeys(["separation", "separation-3h", "separation-live"], "separation")}


@pytest.mark.parametrize("name", MEASURED)
def test_a_measurement_stands_beside_its_command(name):
    values = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    assert values["command"] in (ROOT / "docs" / f"{MEASURED[name]}.md").read_text()


@pytest.mark.parametrize("name", ["ranked-by-clean", "ranked-by-noisy"])
def test_the_ranking_of_wrong_labels_is_the_measured_one(name):
    v = json.loads((ROOT / "docs" / "results" / "label-noise" / f"{name}.json").read_text())
    row = next(x for x in (ROOT / "docs" / "augmentation.md").read_text().splitlines() if f"/{name}.json" in x)
    shown = [v["stems"], v["wrong"], f"{v['precision_at_wrong']:.2f}", f"{v['average_precision']:.2f}"]
    shown += [f"{v['precision']:.2f} (of {v['above_threshold']})", f"{v['recall']:.2f}"]
    assert row.split(" | ")[1:] == [*map(str, shown[:-1]), f"{shown[-1]} |"]


@pytest.mark.parametrize("run", [1, 2, 3])
def test_the_speed_of_the_loader_is_the_measured_one(run):
    values = json.loads((ROOT / "docs" / "results" / f"data-{run}.json").read_text())
    lines = (ROOT / "docs" / "augmentation.md").read_text().splitlines()
    shown = [x.split(" | ")[1:] for x in lines if f"/data-{run}.json" in x]
    assert len(shown) == len(values["rows"])
    for cells, row in zip(shown, values["rows"], strict=True):
        share, speed = row["share_of_bare"], row["audio_seconds_per_second"]
        expected = [row["files"], row["augmentation"], f"{speed:.0f}", f"{row['bare']:.0f}"]
        expected.append(f"{share['median']:.2f} ({share['low']:.2f}–{share['high']:.2f})")
        assert cells == [*expected, f"{speed / values['training']['audio_seconds_per_second']:.0f} |"]


def test_the_time_of_the_checker_is_the_measured_one():
    values = json.loads((ROOT / "docs" / "results" / "check.json").read_text())
    messages = check_markdown(values).strip().rstrip(".")
    assert messages in " ".join((ROOT / "docs" / "data.md").read_text().split())
