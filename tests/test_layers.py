"""The layout: which module may import which, what may import torch, how long a function may be."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "refined_bsrnn"
LAYERS = [
    {"__init__", "errors"},
    {"files", "names", "suggest"},
    {"allocator", "audio", "metrics", "processes", "progress", "recipe", "stats"},
    {"adapters", "augment", "bands", "blocks", "decoded", "excerpts", "figures", "level", "published"}
    | {"results", "roformer_config", "scores", "stft", "synth", "together", "torchfile"},
    {"layouts"},
    {"hub_data"},
    {"activity", "band_table", "ceilings", "heads", "losses", "sources", "tables", "wiener"},
    {"listening", "model", "pools", "report_figures"},
    {"checkpoint", "data", "info", "page"},
    {"check", "head_files", "whole"},
    {"hub"},
    {"export", "feature_cache", "museval_scores", "separate", "tracking"},
    {"evaluate", "label_noise", "live", "published_network", "stems", "train"},
    {"benchmark", "forgetting", "obsrnn", "report", "report_wandb", "roformer", "studio", "transfer"},
    {"app", "benchmark_check", "data_speed", "importing", "study"},
    {"study_report"},
    {"benchmark_separation", "benchmark_transfer", "cli"},
]
LAYER = {module: i for i, layer in enumerate(LAYERS) for module in layer}
MODULES = sorted(PACKAGE.glob("*.py"))


def imports(path, top_level_only=False):
    """(own modules imported, other packages imported)."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    own, other = set(), set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            own |= {node.module or "__init__"}
        elif isinstance(node, ast.ImportFrom):
            other.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            other |= {alias.name.split(".")[0] for alias in node.names}
    return own, other


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_a_module_imports_only_from_lower_layers(path):
    assert path.stem in LAYER, f"{path.name} has no layer: add it to LAYERS"
    if path.stem == "__init__":  # the front door: it may name anything
        return
    for name in imports(path)[0]:
        assert LAYER[name] < LAYER[path.stem], f"{path.stem} imports {name}"


@pytest.mark.parametrize(
    "name", ["recipe", "report", "figures", "errors", "files", "suggest", "bands", "band_table", "synth"]
)
def test_these_need_no_torch(name):
    """Neither do the modules they import."""
    seen, waiting = set(), {name}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        own, other = imports(PACKAGE / f"{module}.py")
        assert "torch" not in other, f"{module} imports torch"
        waiting |= own - seen


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_no_function_is_longer_than_60_lines(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_public_functions_say_what_they_are(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            one_idea = len(node.body) <= 2  # a line or two that says it itself
            assert ast.get_docstring(node) or one_idea, f"{path.name}: {node.name}"


def test_the_table_in_contributing_is_this_one():
    """Every module once, with its layer; a new one is found there."""
    listed = {}
    for line in (PACKAGE.parent / "CONTRIBUTING.md").read_text().splitlines():
        row = re.match(r"\| (\d+) \| (.*?) \|", line)
        for module in re.findall(r"`(\w+)\.py`", row[2]) if row else []:
            assert module not in listed, f"{module} stands there twice"
            listed[module] = int(row[1])
    assert listed == {module: layer for module, layer in LAYER.items() if module != "__init__"}
