"""Files that somebody else wrote: a result or one sentence. Cases that the fuzzer of `benchmarks.survival` found."""

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.survival import formats, mutate
from refined_bsrnn import plain
from refined_bsrnn.errors import MOST_LETTERS, CheckpointError, DataError, RecipeError, UserError
from refined_bsrnn.network.info import describe
from refined_bsrnn.plain import parse_json, parse_yaml
from refined_bsrnn.recipe import load_recipe, make_recipe
from refined_bsrnn.report.results import read_runs
from refined_bsrnn.runs.exchange.catalogue import read_catalogue
from refined_bsrnn.runs.exchange.torchfile import TorchFile
from refined_bsrnn.runs.folder import RunFolder, load_head, load_model, read_provenance, read_tensors, write_tensors
from refined_bsrnn.system import can_be_path
from refined_bsrnn.training.study import load_study, plan
from tests.apps.test_stems import make_run
from tests.conftest import micro_values

# --- YAML and JSON


@pytest.mark.parametrize("trick", mutate.YAML_TRICKS, ids=range(len(mutate.YAML_TRICKS)))
def test_a_trick_of_yaml_is_a_sentence(tmp_path, trick):
    """Bombs of aliases and merges, values that hold themselves, deep ones, numbers and dates that are none."""
    (tmp_path / "recipe.yaml").write_bytes(trick)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert len(str(caught.value)) < 3000
    assert not Path("escaped").exists()


def test_aliases_count_as_often_as_they_stand_there():
    n = plain.MOST_NODES // 200
    assert len(parse_yaml(f"a: &a {list(range(100))}\nb: [{', '.join(['*a'] * n)}]")["b"]) == n
    with pytest.raises(yaml.YAMLError, match="more than"):
        parse_yaml(f"a: &a {list(range(100))}\nb: [{', '.join(['*a'] * 3 * n)}]")
    with pytest.raises(yaml.YAMLError, match="expected up to"):
        parse_yaml("#" * (plain.MOST_LETTERS + 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[{'x,' * plain.MOST_NODES}@", "more than 50000 values"),
        ("[" * (plain.MOST_DEPTH + 1) + "@", "deeper than 50 levels"),
        (f"a: 1{':30' * plain.MOST_DIGITS}", "a number has 751 letters"),
        (f"a: !!float '{'9' * 251}'", "a number has 251 letters"),
    ],
    ids=["many", "deep", "parts", "digits"],
)
def test_yaml_beyond_its_bounds_is_refused_before_the_rest_is_read(text, message):
    """The mistake at the end (@) is not reached; half a million letters of each took up to ten seconds."""
    with pytest.raises(yaml.YAMLError, match=message):
        parse_yaml(text)


def test_a_number_may_have_many_digits():
    assert parse_yaml("a: 0." + "1" * 200) == {"a": pytest.approx(1 / 9)}


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_every_number_fits_a_float(parse):
    assert float(parse("9" * 250)) == pytest.approx(1e250)
    with pytest.raises((ValueError, yaml.YAMLError), match="a number has 400"):
        parse("9" * 400)  # its "{:.2f}" would be an OverflowError


def test_the_largest_number_of_yaml_fits_a_float():
    assert float(parse_yaml("0x" + "f" * 248)) > 1e298


def test_json_that_is_too_deep_is_an_error_of_its_value():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_a_message_quotes_no_more_than_can_be_read():
    assert str(UserError("short")) == "short"
    assert len(str(RecipeError("x" * 10**6 + "the end."))) <= MOST_LETTERS
    assert str(RecipeError("x" * 10**6 + "the end.")).endswith("the end.")


# --- files of each kind


@pytest.mark.parametrize(
    "word",
    ["backbone.repeats=100000000", "backbone.features=10000000", "stft.n_fft=1073741824", "size=[1]", "size={a: 1}",
     "augment.preset=[1]", "bands={kind: tet, divisions: 10000000}", "bands={kind: mel, n_bands: 10000000}"],
)  # fmt: skip
def test_a_recipe_asks_for_no_more_than_any_network_has(word):
    with pytest.raises(RecipeError):
        describe(make_recipe(micro_values(None), [word]))


@pytest.mark.parametrize(
    ("bands", "n_fft", "n_targets", "message"),
    [
        ("{kind: tet, divisions: 1200}", 262144, 1, "bands; expected up to 512"),
        ("{kind: even, n_bands: 513}", 2048, 1, "from 1 to 512"),
        (f"{{kind: custom, edges_bins: {[*range(1, 513)]}}}", 2048, 1, "makes 513 bands; expected up to 512"),
        ("{kind: mel, n_bands: 80}", 262144, 1, "Lower bands.n_bands or stft.n_fft"),
        ("{kind: even, n_bands: 100}", 2048, 40, "100 bands in the encoder and in 40 heads are 4100 sets of layers"),
    ],
)
def test_a_network_has_no_more_bands_than_can_be_described(bands, n_fft, n_targets, message):
    values = micro_values(None) | {"targets": [f"t{i}" for i in range(n_targets)], "bands": parse_yaml(bands)}
    with pytest.raises(RecipeError, match=message):
        describe(make_recipe(values, [f"stft.n_fft={n_fft}"]))


@pytest.mark.parametrize("extends", ["5", "[a]", "null", "x" * 300, "'a\\0b'"])
def test_extends_names_a_recipe(tmp_path, extends):
    (tmp_path / "r.yaml").write_text(f"targets: [vocals]\nextends: {extends}\n")
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("base", ["1", "[a]", "{extends: 5}"])
def test_a_base_of_a_study_is_recipe_values(tmp_path, base):
    (tmp_path / "s.yaml").write_text(f"study: s\nseeds: [0]\nbases: {{a: {base}}}\n")
    with pytest.raises(RecipeError):
        plan(*load_study(tmp_path / "s.yaml"))


def test_a_seed_that_is_listed_twice_is_refused_before_anything_is_planned(tmp_path):
    (tmp_path / "s.yaml").write_text("study: s\nseeds: [0, 1, 0]\nbases: {a: {targets: [vocals]}}\n")
    with pytest.raises(RecipeError, match="seeds names a seed twice"):
        load_study(tmp_path / "s.yaml")


def test_a_study_of_too_many_runs_is_refused_before_they_are_planned(tmp_path):
    many = f"{{bases: [{','.join(['a'] * 300)}], targets: [{','.join(['drums'] * 300)}]}}"
    (tmp_path / "s.yaml").write_text(f"study: s\nseeds: [0, 1]\nbases: {{a: {{}}}}\ntransfers: [{many}, {many}]\n")
    with pytest.raises(RecipeError, match="the study plans 360002 runs; expected up to 1000"):
        load_study(tmp_path / "s.yaml")


def test_a_run_is_not_made_larger_than_its_weights(monkeypatch):
    run = make_run("mtl", ["vocals"])
    text = run.recipe.read_text().replace("features: 4", "features: 16384")
    assert "16384" in text
    run.recipe.write_text(text)
    filled = []
    monkeypatch.setattr(torch.nn.init, "uniform_", lambda tensor, *_: filled.append(tensor.device.type))
    with pytest.raises(CheckpointError, match="was made for backbone"):
        load_model(run)
    assert set(filled) == {"meta"}


def test_an_adapter_has_the_rank_of_its_tensors():
    run = make_run("mtl", ["vocals"])
    model = load_model(run)
    path = Path("head.safetensors")
    model.add_adapter("low", ["vocals"], 2, 4.0)
    from refined_bsrnn.runs.folder import save_head

    save_head(path, model, "vocals")
    tensors, metadata = read_tensors(path, "head")
    about = {**json.loads(metadata["adapter"]), "rank": 2**40}
    write_tensors(path, tensors, {**metadata, "adapter": about})
    with pytest.raises(CheckpointError, match=f"its adapter has rank {2**40}, which its tensors have not"):
        load_head(path, load_model(run, heads=[]), "vocals")


@pytest.mark.parametrize("text", ["[]", "3", "[" * 9999])
def test_a_provenance_is_a_mapping(text):
    run = make_run("mtl", ["vocals"])
    run.provenance.write_text(text)
    with pytest.raises(CheckpointError, match="provenance.json"):
        read_provenance(run)


@pytest.mark.parametrize("line", ['{"step": "x"}', "[" * 9999, '{"step": [1]}', "5"])
def test_a_log_of_a_report_may_hold_anything(tmp_path, line):
    from refined_bsrnn.runs.exchange.library import default_model

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.json").write_text(default_model().results.read_text())
    (folder / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    if line.startswith("{"):
        assert len(read_runs([folder])[0].log) == 3
    else:
        with pytest.raises(UserError, match="line 2 of 3 is broken"):
            read_runs([folder])


def test_half_a_letter_in_json_becomes_a_question_mark():
    assert parse_json('{"a\\ud800": ["\\udc00b", "\\ud83d\\ude00"]}') == {"a?": ["?b", "😀"]}
    assert parse_json('["\\u0041"]') == ["A"]


@pytest.mark.parametrize("summary", [[], 3, "x", {"usdr": []}, {"usdr": {"mean_95": [1, "x"]}}])
def test_a_summary_of_another_form_is_a_dash(tmp_path, summary):
    from refined_bsrnn.report.write import report
    from refined_bsrnn.runs.exchange.library import default_model

    values = json.loads(default_model().results.read_text())
    values["summary"]["drums"]["estimate"] = summary
    (tmp_path / "results.json").write_text(json.dumps(values))
    assert "drums" in report([tmp_path]).markdown


@pytest.mark.parametrize(
    "row",
    ['{"track": "a", "stem": ["x"], "path": "b.wav"}', '{"track": "a", "stem": "x", "path": "' + "y" * 5000 + '"}',
     '{"track": "a", "stem": {"b": 1}, "path": "b.wav"}', "[" * 9999, '{"track": "a", "stem": "x", "path": "\\u0000"}'],
)  # fmt: skip
def test_a_row_of_a_manifest_is_a_sentence(tmp_path, row):
    from refined_bsrnn.data.scan import scan
    from refined_bsrnn.recipe import DataSpec

    (tmp_path / "list.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match="line 1"):
        scan(DataSpec(root=str(tmp_path / "list.jsonl")), ("train",)).usable()


@pytest.mark.parametrize(
    "text",
    [
        *("title: 2001-99-99", "stems: [a]", "stems: {S01: {raw: x}}", "stems: {S01: {raw: [x]}}", "[" * 1500),
        *("stems: {S01: {raw: {R: 5}}}", f"stems: {{S01: {{filename: {'x' * 300}}}}}"),
        "stems: {S01: {instrument: 5, raw: {1: {}, b: {}}}}",
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_the_metadata_of_a_collection_are_a_finding(tmp_path, text, raw):
    from refined_bsrnn.data.layouts.multitrack import medleydb

    (tmp_path / "A" / "A_STEMS").mkdir(parents=True)
    (tmp_path / "A" / "A_METADATA.yaml").write_text(text)
    kinds = {finding.kind for finding in medleydb(["train"], str(tmp_path), raw=raw).findings}
    assert kinds <= {"metadata", "missing_file"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("dataset_dict.json", text) for text in ("[]", "3", "{}", '{"splits": 3}', '{"splits": ["train", {}]}')),
        *(("state.json", text) for text in ("null", "[1]", '"x"', "{", "[" * 9999)),
    ],
)
def test_the_notes_of_a_saved_data_set_are_a_sentence(tmp_path, name, text):
    from refined_bsrnn.data.layouts.hub import huggingface

    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        huggingface(["train"], str(tmp_path))


def test_a_saved_data_set_that_hides_its_names_is_a_sentence(tmp_path):
    import datasets

    from refined_bsrnn.data.layouts.hub import huggingface

    rows = datasets.Dataset.from_dict({"vocals": [{"bytes": b"x", "path": "v.wav"}], "title": ["a"]})
    rows.save_to_disk(str(tmp_path / "set"))
    state = tmp_path / "set" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_format_columns": {}}))
    with pytest.raises(DataError, match="does not give its column 'title'"):
        huggingface(["train"], str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("track,stem\na", "line 2 ends before"), ("track,stem,weight\n" + "x" * 200_000, "is no row of a table")],
)
def test_a_row_of_the_weights_of_stems_is_a_sentence(tmp_path, text, message):
    from refined_bsrnn.data.label_weights import read_stem_weights

    (tmp_path / "weights.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_stem_weights(tmp_path / "weights.csv")


def test_a_path_that_no_file_can_have():
    assert can_be_path("nowhere/at/all")
    assert not can_be_path("x" * 300)
    assert not can_be_path("a\0b")


@pytest.mark.parametrize(
    "text",
    [
        "models: {a: {kind: [x], targets: [a], url: 'http://x/y', licence: z}}",
        "models: {a: {kind: obsrnn, targets: [a], url: 'http://x/y', licence: z, published: 5}}",
        "models: {a: {kind: obsrnn, targets: [a], url: 'http://x/y', licence: z, published: 0}}",
        "models: {a: {kind: obsrnn, targets: [a], url: 'http://[x/y', licence: z}}",
        "best: [{a: 1}]",
    ],
)
def test_a_catalogue_is_a_sentence(tmp_path, monkeypatch, text):
    (tmp_path / "models.yaml").write_text(text)
    monkeypatch.setenv("REFINED_BSRNN_MODELS", str(tmp_path / "models.yaml"))
    with pytest.raises(RecipeError, match="models.yaml"):
        read_catalogue()


def test_names_in_a_checkpoint_may_be_no_text(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "x.ckpt")
    data = (tmp_path / "x.ckpt").read_bytes()
    flags = data.rindex(b"PK\x01\x02") + 8  # of the last part: its name is UTF-8
    name = data.rindex(b"PK\x01\x02") + 46
    bent = data[:flags] + b"\x00\x08" + data[flags + 2 : name] + b"\xff\xfe" + data[name + 2 :]
    (tmp_path / "x.ckpt").write_bytes(bent)
    with pytest.raises(CheckpointError):
        TorchFile(tmp_path / "x.ckpt")


# --- some of everything: the long run is a script


KINDS = ["head", "backbone", "state", "results", "log", "manifest", "manifest as a table"]


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """{kind: valid files of it}"""
    return {kind: formats.FORMATS[kind].seeds(tmp_path_factory.mktemp("valid")) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_are_read_or_refused_with_a_sentence(kind, valid, tmp_path):
    form = formats.FORMATS[kind]
    if kind in ("head", "backbone"):
        formats.MODELS["run"] = RunFolder(formats.make_run(tmp_path / "run"))
        formats.MODELS["model"] = load_model(formats.MODELS["run"], heads=[])
    if kind == "log":
        form.begin(tmp_path)

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 2**32))
    def reads(number):
        chance = random.Random(number)
        with suppress(UserError):
            form.read(form.make(chance.choice(valid[kind]), chance), tmp_path)

    reads()


def test_an_m4a_that_says_that_it_is_empty_is_read_or_a_sentence():
    """Its edit list ends at once, and its packets go on."""
    data = (Path(__file__).parent / "seeds" / "length-0.m4a").read_bytes()
    with suppress(UserError):
        formats.FORMATS["m4a, mp4"].read(data, Path())
