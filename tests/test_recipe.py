"""Recipes: strict keys and types, overrides, extends, names."""

import re
from pathlib import Path

import pytest
import yaml

from refined_bsrnn import plain
from refined_bsrnn.errors import RecipeError
from refined_bsrnn.recipe import (
    dump_recipe,
    find_recipe,
    load_recipe,
    make_recipe,
    read_yaml,
    recipe_folder,
    recipe_values,
)
from refined_bsrnn.training.job import default_run_name

SHIPPED = sorted(p for p in recipe_folder().glob("*.yaml") if not p.stem.startswith("compare"))  # those are studies


def test_recipes_ship():
    assert {p.stem for p in SHIPPED} >= {"mtl_generic", "single_v7", "single_generic", "transfer", "micro", "demo"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_recipe_loads_and_comes_back_from_its_resolved_form(path):
    recipe = load_recipe(path)
    assert make_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_recipe_names_no_place_on_a_machine(path):
    assert not any(line.split("#")[0].count("/home") for line in path.read_text().splitlines())
    assert load_recipe(path).data.root in (None, "builtin")


def test_single_target_recipes_differ_from_the_multi_target_one_as_their_names_say():
    mtl, v7, generic = (load_recipe(name) for name in ("mtl_generic", "single_v7", "single_generic"))
    assert v7.train == mtl.train == generic.train
    assert v7.bands.kind == "v7"
    assert generic.bands == mtl.bands


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trian": {}}, "unknown recipe key 'trian'. Did you mean 'train'"),
        ({"train": {"stpes": 3}}, "unknown recipe key 'train.stpes'. Did you mean 'steps'"),
        ({"train": {"steps": "many"}}, "train.steps is 'many'; expected a whole number"),
        ({"train": {"steps": 1.5}}, "train.steps is 1.5; expected a whole number"),
        ({"train": {"steps": True}}, "train.steps is True; expected a whole number"),
        ({"train": {"steps": 0}}, "train.steps is 0; expected more than 0"),
        ({"train": {"lr": "fast"}}, "train.lr is 'fast'; expected a number"),
        ({"train": {"lr": float("nan")}}, "train.lr is nan"),
        ({"train": 3}, "train is 3; expected a mapping"),
        ({"train": {"decay": "linear"}}, "expected one of constant, cosine, exponential"),
        ({"train": {"ema": 1.0}}, "train.ema is 1.0; expected less than 1"),
        ({"train": {"batch_size": 6, "accumulate": 4}}, "cannot be taken in train.accumulate=4"),
        ({"data": {"channels": True}}, "data.channels is True"),
        ({"data": {"channels": 3}}, "expected one of 1, 2"),
        ({"stft": {"hop": 2000}}, "stft.hop is 2000 with n_fft 2048"),
        ({"targets": []}, "targets is empty"),
        ({"targets": "drums"}, r"targets is 'drums'; expected a list, e.g. \[drums\]"),
        ({"data": {"validation_tracks": None}}, r"data.validation_tracks is None; expected a list, e.g. \[\]"),
        ({"targets": ["drums", "drums"]}, "names one twice"),
        ({"targets": ["../drums"]}, "cannot name a target"),
        ({"targets": ["mixture"]}, "cannot name a target"),
        ({"targets": [101 * "a"]}, "cannot name a target; expected up to 100 letters"),
        ({"loss": {"target_weights": {"flute": 1}}}, "'flute', which is no target"),
        ({"loss": {"target_weights": {"drums": -1}}}, "loss.target_weights.drums is -1.0; expected 0 or more"),
        ({"loss": {"wave_l1": -0.5}}, "loss.wave_l1 is -0.5; expected 0"),
        ({"loss": {"wave_l1": float("nan")}}, "loss.wave_l1 is nan; expected a number"),
        ({"loss": {"wave_l1": 0, "spec_l1": 0}}, "nothing would be learned: in loss, wave_l1, spec_l1 or"),
        ({"loss": {"target_weights": {"drums": 0}}}, "nothing would be learned"),
        ({"loss": {"truncate_quantile": 1.0}}, "truncate_quantile is 1.0; expected less than 1"),
        ({"loss": {"truncate_quantile": 0.05}}, "0.05 of 8 examples .* drops none; expected more than 0.0625"),
        (
            {"train": {"batch_size": 8, "accumulate": 4}, "loss": {"truncate_quantile": 0.2}},
            "0.2 of 2 examples .* drops none; expected more than 0.25",
        ),
        ({"loss": {"wave_l1": "much"}}, "loss.wave_l1 is 'much'; expected a number"),
        ({"loss": {"weighting": "learned"}}, "loss.weighting is 'learned'; expected one of fixed, uncertainty"),
        ({"input": {"normalize": "peak"}}, "unknown recipe key 'input.normalize'. Did you mean 'normalise'"),
        ({"augment": {"remix": 2}}, "augment.remix is 2.0; expected 1 or less"),
        ({"augment": {"gain_db": [3, -3]}}, "expected the lower value first"),
        ({"augment": {"gain_db": [3]}}, "expected 2 values"),
        ({"base": {}}, "lacks the required key 'base.run'"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe({"targets": ["drums"], **values})


def test_targets_have_no_default():
    with pytest.raises(RecipeError, match="lacks the required key 'targets'"):
        make_recipe({})


def test_a_number_that_yaml_reads_as_text_is_a_number():
    assert yaml.safe_load("3e-4") == "3e-4"  # the trap
    assert load_recipe("micro", ["train.lr=3e-4"]).train.lr == 3e-4


def test_overrides_reach_every_depth_and_later_ones_win():
    recipe = load_recipe("mtl_generic", ["targets=[drums]", "train.steps=5", "train.steps=6", "data.root=/x"])
    assert (recipe.targets, recipe.train.steps, recipe.data.root) == (("drums",), 6, "/x")


def test_size_sets_the_backbone_and_gives_way_to_what_is_said_after_it():
    assert load_recipe("mtl_generic", ["size=tiny"]).backbone.features == 32
    assert load_recipe("mtl_generic", ["size=tiny", "backbone.repeats=3"]).backbone.repeats == 3
    assert load_recipe("mtl_generic").backbone.repeats == 8


def test_another_kind_leaves_the_options_of_the_old_one_behind():
    recipe = make_recipe({"targets": ["a"], "bands": {"kind": "tet", "divisions": 12}}, ["bands.kind=v7"])
    assert recipe.bands.options == {}


def test_the_same_kind_keeps_its_options():
    recipe = make_recipe({"targets": ["a"], "bands": {"kind": "tet", "divisions": 12}}, ["bands.kind=tet"])
    assert recipe.bands.options == {"divisions": 12}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "expected key=value"),
        ("train.steps 3", "expected key=value"),
        ("targets=[drums", "not valid YAML"),
        ("size=giant", "size='giant' is unknown. Known: large, micro, mini, small, tiny"),
        ("train.stpes=3", "Did you mean 'steps'"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("micro", [override])


def test_unknown_recipe_lists_what_there_is():
    with pytest.raises(RecipeError, match=r"no recipe 'mtl_genric'. Did you mean 'mtl_generic'\? Recipes that come"):
        find_recipe("mtl_genric")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "holds list"), ("", "holds NoneType")]
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "targets: [drums]\ntrain: {steps: 3}\ndata: {}\ntrain: {lr: 1.0}\n",
            "'train' stands in line 2 and again in line 4",
        ),
        (
            "targets: [drums]\ntrain:\n  steps: 3\n  lr: 1.0\n  steps: 4\n",
            "'steps' stands in line 3 and again in line 5",
        ),
        ("targets: [drums]\ntrain: {steps: 3, steps: 4}\n", "'steps' stands in line 2 and again in line 2"),
        (
            "targets: [drums]\ndata: {sources: [{root: a}, {root: b, root: c}]}\n",
            "'root' stands in line 2 and again in",
        ),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=f"{re.escape(str(path))} is not valid YAML: the key {message}"):
        load_recipe(path)
    with pytest.raises(RecipeError, match="'lr' stands in line 1 and again in line 1"):
        load_recipe("micro", ["train={lr: 1, lr: 2}"])


BAD_YAML = [
    "a: [1, 2",
    "a: 1\na: 2",
    "a: {b: c: d}",
    "\tx: 1",
    "- &a [*a]",
    "[" * 60,
    "x: " + "9" * 300,
    "? [a]\n: 1",
    "a: !b c",
]


@pytest.mark.parametrize("text", [*(path.read_text() for path in SHIPPED[:6]), *BAD_YAML, "", "1", "# c"])
def test_without_libyaml_values_and_sentences_are_the_same(text, monkeypatch):
    found = []
    for parser in (plain.CParser, None):
        monkeypatch.setattr(plain, "CParser", parser)
        try:
            found.append(plain.parse_yaml(text))
        except yaml.YAMLError as error:
            found.append(str(error))
    assert found[0] == found[1]
    assert (text in BAD_YAML) == (isinstance(found[0], str) and found[0] != text)


def test_a_yaml_merge_key_may_be_overridden(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("common: &common {lr: 1.0}\ntrain: {<<: *common, lr: 2.0, steps: 7}\n")
    assert read_yaml(path)["train"] == {"lr": 2.0, "steps": 7}


def test_a_tilde_is_the_home_folder_wherever_a_recipe_names_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = make_recipe(
        {"targets": ["drums"], "run": {"root": "~/runs"}, "data": {"root": "~/songs"}, "base": {"run": "~/runs/mtl"}},
        ["data.stem_weights=~/suspects.csv"],
    )
    assert recipe.run.root == str(tmp_path / "runs")
    assert recipe.data.root == str(tmp_path / "songs")
    assert recipe.data.stem_weights == str(tmp_path / "suspects.csv")
    assert recipe.base.run == str(tmp_path / "runs" / "mtl")
    (tmp_path / "a.yaml").write_text("targets: [drums]\n")
    (tmp_path / "b.yaml").write_text("extends: ~/a.yaml\n")
    assert load_recipe("~/b.yaml").targets == ("drums",)


def test_extends_one_level(tmp_path):
    (tmp_path / "a.yaml").write_text("targets: [drums]\ntrain: {steps: 3, lr: 1.0}\nsize: tiny\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\ntrain: {steps: 4}\n")
    (tmp_path / "c.yaml").write_text("extends: b.yaml\n")
    recipe = load_recipe(tmp_path / "b.yaml")
    assert (recipe.targets, recipe.train.steps, recipe.train.lr, recipe.backbone.features) == (("drums",), 4, 1.0, 32)
    with pytest.raises(RecipeError, match="one level is allowed"):
        load_recipe(tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text("extends: micro.yaml\nsize: tiny\n")  # one that comes with the package
    assert load_recipe(tmp_path / "d.yaml").stft.hop == load_recipe("micro").stft.hop
    (tmp_path / "e.yaml").write_text("extends: gone.yaml\n")
    with pytest.raises(RecipeError, match="there is no recipe 'gone.yaml'"):
        load_recipe(tmp_path / "e.yaml")


@pytest.mark.parametrize(
    ("values", "builtin", "name"),
    [
        ({"targets": ["vocals", "drums"]}, False, "mtl"),
        ({"targets": ["vocals", "drums"], "bands": {"kind": "v7"}}, False, "mtl-v7"),
        ({"targets": ["drums"]}, False, "drums"),
        ({"targets": ["drums"], "bands": {"kind": "v7"}}, True, "drums-v7-builtin"),
        ({"targets": ["bass"], "base": {"run": "runs/drums"}}, False, "drums-to-bass"),
        ({"targets": ["bass"], "base": {"run": "runs/drums-builtin"}}, True, "drums-to-bass-builtin"),
    ],
)
def test_default_names(values, builtin, name):
    assert default_run_name(make_recipe(values), builtin) == name


def test_recipe_module_imports_no_torch():
    source = Path(find_recipe.__code__.co_filename).read_text()
    assert "import torch" not in source


def test_sources_and_definitions_survive_a_resolved_recipe():
    data = {
        "sources": [{"kind": "folder", "root": "a", "weight": 2}, {"root": "b"}],
        "define": {"guitar": ["acoustic", "electric"], "singing": "vocals"},
    }
    recipe = make_recipe({"targets": ["guitar"], "data": data})
    assert (recipe.data.sources[0].weight, recipe.data.sources[1].kind) == (2.0, "auto")
    assert recipe.data.sources[1].options == {"root": "b"}
    assert recipe.data.stems_of("guitar") == ("acoustic", "electric")
    assert (recipe.data.stems_of("singing"), recipe.data.stems_of("drums")) == (("vocals",), ("drums",))
    assert make_recipe(recipe_values(recipe)) == recipe


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"root": "a", "sources": [{"root": "b"}]}, "both data.root and data.sources"),
        ({"define": {"a b": ["c"]}}, "'a b' cannot name a target"),
        ({"define": {"guitar": []}}, "data.define.guitar is []; expected one stem or more"),
        ({"define": {"guitar": ["e", "e"]}}, "expected one stem or more, each once"),
        ({"define": {"guitar": 3}}, "data.define.guitar is 3; expected a list"),
        ({"sources": [{"root": "b", "weight": 0}]}, "weight is 0.0; expected more than 0"),
    ],
)
def test_wrong_sources_and_definitions(data, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        make_recipe({"targets": ["guitar"], "data": data})


def test_off_is_a_word_also_where_yaml_reads_false():
    assert yaml.safe_load("off") is False  # the trap
    assert load_recipe("micro", ["log.wandb=off"]).log.wandb == "off"


def test_no_is_a_word_also_where_yaml_reads_false():
    assert yaml.safe_load("no") is False
    assert load_recipe("micro", ["train.precision=no"]).train.precision == "no"
