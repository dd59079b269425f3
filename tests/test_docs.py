"""What the documents say comes from files in the repository."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.benchmark import VARIANTS, architecture_markdown, variant_recipe
from benchmarks.benchmark_check import check_markdown
from benchmarks.benchmark_separation import separation_markdown
from benchmarks.benchmark_transfer import transfer_markdown
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.recipe import recipe_folder
from refined_bsrnn.report.study import Row, markdown
from refined_bsrnn.report.write import report
from refined_bsrnn.training.study import load_study

ROOT = Path(__file__).parent.parent
RUNS = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/results.json"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def table_rows(text):
    return {line.strip() for line in text.splitlines() if line.startswith("| ")}


def test_every_number_of_the_results_is_that_of_the_results_files():
    document = (ROOT / "docs" / "results.md").read_text()
    order = re.findall(r"docs/results/([\w-]+)", document.split("```")[1])
    folders = [ROOT / "docs" / "results" / name for name in order]
    assert sorted(folders) == RUNS
    reported = table_rows(report(folders, groups={"real recordings": "eir_*"}).markdown)
    rows = table_rows(document.split("## What it says")[0])
    assert rows
    assert rows <= reported, rows - reported
    readme = table_rows((ROOT / "README.md").read_text().split("## What it does today")[1].split("##")[0])
    assert readme
    assert all(any(set(cells(row)) <= set(cells(line)) for line in reported) for row in readme), readme


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


def cells(row):
    return [cell.strip() for cell in row.strip("| ").split("|")]


def test_the_table_of_variants_is_that_of_its_measurement():
    document = (ROOT / "docs" / "architecture.md").read_text()
    values = json.loads((ROOT / "docs" / "results" / "architecture.json").read_text())
    assert architecture_markdown(values) in document
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


STUDIES = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/study.json"))


@pytest.mark.parametrize("folder", STUDIES, ids=lambda p: p.name)
def test_every_number_of_a_study_is_that_of_its_file(folder):
    """The table in the document, and the one beside the file, are what `report_study` makes of the file."""
    rows = [Row(**row) for row in json.loads((folder / "study.json").read_text())["rows"]]
    study, _ = load_study(folder / "study.yaml")
    made = table_rows(markdown(study, rows))
    assert table_rows((folder / "study.md").read_text()) == made
    section = (ROOT / "docs" / "results.md").read_text().split(f"## Study {folder.name}")[1].split("\n## ")[0]
    assert table_rows(section) == made


def test_speeds_of_transfers_are_those_measured():
    values = json.loads((ROOT / "docs" / "results" / "transfer.json").read_text())
    document = (ROOT / "docs" / "transfer.md").read_text()
    assert transfer_markdown(values) in document
    assert values["command"] in document


@pytest.mark.parametrize("name", ["separation", "separation-3h", "separation-live"])
def test_memory_and_live_blocks_are_those_measured(name):
    values = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    document = (ROOT / "docs" / "separation.md").read_text()
    assert all(table.strip() in document for table in separation_markdown(values).split("\n\n"))
    assert values["command"] in document


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
    told = check_markdown(values).strip().rstrip(".")
    assert told in " ".join((ROOT / "docs" / "data.md").read_text().split())
