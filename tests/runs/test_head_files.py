"""The life of a head: listed, added, renamed, removed, verified, exported, pushed; others stay bit for bit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.errors import CheckpointError, RecipeError, UserError
from refined_bsrnn.evaluation.evaluate import evaluate
from refined_bsrnn.runs.exchange.hub import export, find_model, push_to_hub
from refined_bsrnn.runs.folder import RunFolder, load_model, read_tensors, write_tensors
from refined_bsrnn.runs.heads import add_head, head_facts, head_source, list_heads, remove_head, rename_head, verify
from refined_bsrnn.separation.separator import Separator
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import transfer, transfer_recipe
from tests.apps.test_stems import make_run
from tests.conftest import STEMS, micro_recipe, write_songs

QUICK = [
    "train.steps=2",
    "train.validate_every=2",
    "train.warmup_steps=0",
    "data.stems=[vocals,drums,bass,other,guitar]",
]


@pytest.fixture
def base(tmp_path):
    root = write_songs(tmp_path / "songs", stems=(*STEMS, "guitar"))
    recipe = micro_recipe(root, train={"steps": 1, "validate_every": 1})
    return train(replace(recipe, run=replace(recipe.run, name="mtl")))[0]


@pytest.fixture
def guitar(base):
    return transfer(transfer_recipe(base, ["guitar"], "transfer", QUICK))[0]


def estimates(run, heads=None):
    mixture = torch.randn(1, 2, 3000, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return load_model(run, heads)(mixture)


def test_a_head_moves_to_the_base_and_leaves_the_others_bit_for_bit(base, guitar):
    before = estimates(base)
    files = {p.name: p.read_bytes() for p in base.heads.iterdir()}
    assert main(["heads", "add", "mtl", "mtl-to-guitar"]) == 0
    assert base.head_names() == ["drums", "guitar", "vocals"]
    after = estimates(base)
    for name, estimate in before.items():
        assert torch.equal(after[name], estimate)
        assert (base.heads / f"{name}.safetensors").read_bytes() == files[f"{name}.safetensors"]
    assert torch.equal(after["guitar"], estimates(guitar)["guitar"])
    assert main(["heads", "rename", "mtl", "guitar", "lead"]) == 0
    assert torch.equal(estimates(base)["lead"], after["guitar"])
    assert head_facts(base.head("lead")).name == "lead"
    assert main(["heads", "remove", "mtl", "lead"]) == 0
    assert base.head_names() == ["drums", "vocals"]


def test_an_adapter_travels_with_its_head(base):
    run = transfer(transfer_recipe(base, ["guitar"], "transfer", QUICK, method="lora"))[0]
    add_head(base, run.head("guitar"), "guitar")
    facts = {head.name: head for head in list_heads(base)}
    assert facts["guitar"].adapter_parameters > 0 == facts["drums"].adapter_parameters
    assert torch.equal(estimates(base)["guitar"], estimates(run)["guitar"])
    remove_head(base, "guitar")
    assert not load_model(base).adapters


def test_where_a_head_is_named(base, guitar):
    assert head_source("mtl-to-guitar:guitar") == [("guitar", guitar.head("guitar"))]
    assert [name for name, _ in head_source("mtl")] == ["drums", "vocals"]
    assert head_source(str(guitar.head("guitar")))[0][0] == "guitar"
    with pytest.raises(RecipeError, match=r"has no head 'drum'\. Did you mean 'drums'\? Heads: drums, vocals"):
        head_source("mtl:drum")
    with pytest.raises(CheckpointError, match=r"away\.safetensors is not there; expected a head's file"):
        head_source("away.safetensors")


def test_a_head_of_another_backbone_is_refused_with_both_hashes(base, guitar):
    other = train(replace(base.load_recipe(), run=replace(base.load_recipe().run, name="other"), **_seed(base, 5)))[0]
    ours, theirs = head_facts(other.head("drums")).backbone_sha256, head_facts(guitar.head("guitar")).backbone_sha256
    with pytest.raises(CheckpointError, match=f"is a head of the backbone {theirs}; this one is {ours}"):
        add_head(other, guitar.head("guitar"), "guitar")
    assert "guitar" not in other.head_names()


TRAINED = {"run": "mtl", "steps": 4, "audio_hours": 0.1, "data": {"name": "songs", "n_tracks": 3}}


def _seed(run, seed):
    return {"train": replace(run.load_recipe().train, seed=seed)}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("target", None, "does not say its target"),
        ("backbone_sha256", None, "does not say its backbone_sha256"),
        ("head", None, "head.kind is missing"),
        ("bands", None, "bands.kind is missing"),
        ("trained", "{", "trained is '{', which is no JSON"),
        ("trained", json.dumps({**TRAINED, "data": {"name": "songs"}}), "trained.data.n_tracks is missing"),
        ("trained", json.dumps({**TRAINED, "steps": "many"}), "trained.steps is 'many'; expected a whole"),
        ("score", "[]", "score is []; expected a mapping"),
        ("score", '{"split": "test", "n_tracks": 1, "usdr": "good"}', "score.usdr is 'good'; expected a number"),
        ("adapter", '{"rank": 4}', "adapter.alpha is missing"),
    ],
)
def test_a_file_that_is_no_whole_head_is_not_added(key, value, message, capsys):
    run = make_run("mtl", ["vocals"])
    tensors, metadata = read_tensors(run.head("vocals"), "head")
    metadata.pop(key, None)
    write_tensors(Path("bad.safetensors"), tensors, {**metadata, **({key: value} if value else {})})
    assert main(["heads", "add", "mtl", "bad.safetensors", "--as", "new"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "bad.safetensors" in error
    assert message in error
    assert run.head_names() == ["vocals"]


def test_names_are_not_taken_twice(base, guitar, capsys):
    with pytest.raises(RecipeError, match="has a head 'drums' already. Choose another name with --as"):
        add_head(base, guitar.head("guitar"), "drums")
    add_head(base, guitar.head("guitar"), "drums", overwrite=True)
    assert torch.equal(estimates(base)["drums"], estimates(guitar)["guitar"])
    with pytest.raises(RecipeError, match="has a head 'vocals' already"):
        rename_head(base, "drums", "vocals")
    with pytest.raises(RecipeError, match="cannot name a target"):
        rename_head(base, "drums", "a/b")
    with pytest.raises(RecipeError, match=r"has no head 'gone'\. Heads: drums, vocals"):
        remove_head(base, "gone")
    assert main(["heads", "add", "mtl", "mtl", "--as", "x"]) == 2
    assert "--as names one head; mtl holds 2. Give mtl:HEAD" in capsys.readouterr().err
    assert main(["transfer", "--base", "mtl", "--target", "drums", *QUICK]) == 2
    assert "--as drums2, or say --continue" in capsys.readouterr().err


def test_tied_heads_stay(tmp_path):
    root = write_songs(tmp_path / "songs")
    recipe = micro_recipe(root, targets=["vocals", "drums", "bass", "other"], together="consistent")
    run = train(replace(recipe, run=replace(recipe.run, name="tied")))[0]
    with pytest.raises(UserError, match="'drums' can be neither renamed nor removed"):
        remove_head(run, "drums")
    with pytest.raises(UserError, match="cannot be taken away from them"):
        load_model(run).remove_head("drums")
    with pytest.raises(RecipeError, match="the head 'bass' cannot be left out"):
        export(run, tmp_path / "out", ["vocals", "drums", "other"])


def test_bridged_heads_are_exported_together_or_not_at_all(tmp_path):
    root = write_songs(tmp_path / "songs")
    recipe = micro_recipe(root, targets=["vocals", "drums", "bass"], head={"bridge": True})
    run = train(replace(recipe, run=replace(recipe.run, name="bridged")))[0]
    with pytest.raises(RecipeError, match="head.bridge is true: the head 'bass' cannot be left out"):
        export(run, tmp_path / "out", ["vocals", "drums"])
    with pytest.raises(UserError, match="head.bridge is true: .* 'drums' can be neither renamed nor removed"):
        remove_head(run, "drums")
    for name, estimate in estimates(export(run, tmp_path / "out")).items():
        torch.testing.assert_close(estimate, estimates(run)[name])


def test_a_head_that_cannot_be_loaded_leaves_nothing_behind(base, guitar):
    tensors, metadata = read_tensors(guitar.head("guitar"), "head")
    tensors.pop(next(iter(tensors)))
    write_tensors(guitar.head("guitar"), tensors, {k: v for k, v in metadata.items() if k != "sha256"})
    separator = Separator.from_pretrained(base.path)
    with pytest.raises(CheckpointError, match="is missing"):
        separator.load_head(guitar.head("guitar"))
    assert set(separator.heads) == {"vocals", "drums"}


def test_as_trains_a_stem_under_another_name(base):
    assert main(["transfer", "--base", "mtl", "--target", "bass", "--as", "bass-2", *QUICK[:3]]) == 0
    run = RunFolder(Path("runs/mtl-to-bass-2"))
    assert run.head_names() == ["bass-2"]
    assert run.load_recipe().data.stems_of("bass-2") == ("bass",)


def test_verify_finds_what_is_wrong(base, guitar, capsys):
    assert set(verify(base).values()) == {"ok"}
    add_head(base, guitar.head("guitar"), "guitar")
    tensors, metadata = read_tensors(base.head("guitar"), "head")
    first = next(iter(tensors))
    tensors[first][0] = float("nan")
    write_tensors(base.head("guitar"), tensors, metadata)
    base.head("vocals").write_bytes(base.head("vocals").read_bytes()[:100])
    changed, about = read_tensors(base.head("drums"), "head")
    changed[first] += 1
    write_tensors(base.head("drums"), changed, about)
    found = verify(base)
    assert found["backbone"] == "ok"
    assert "holds other weights than it was written with" in found["drums"]
    assert f"holds NaN or infinite numbers in {first}" in found["guitar"]
    assert "is damaged" in found["vocals"]
    assert main(["heads", "verify", "mtl", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == found
    assert verify(base, ["drum"])["drum"].startswith(f"{base.path} has no head 'drum'. Did you mean 'drums'?")
    base.backbone.write_bytes(b"")
    assert list(verify(base)) == ["backbone"]


def test_list_shows_where_heads_came_from_and_how_they_do(base, guitar, capsys):
    evaluate(base)
    assert main(["heads", "list", "mtl", "--json"]) == 0
    listed = {head["name"]: head for head in json.loads(capsys.readouterr().out)}
    results = json.loads(base.results.read_text())
    for name in ("drums", "vocals"):
        score = listed[name]["score"]
        assert score["usdr"] == results["summary"][name]["estimate"]["usdr"]["mean"]
        assert score["split"] == "test"
        assert listed[name]["trained"]["run"] == "mtl"
    assert main(["heads", "list", "mtl"]) == 0
    assert "drums" in capsys.readouterr().err


def test_exported_folder_stands_alone(base, guitar, tmp_path, capsys):
    evaluate(guitar)
    out = tmp_path / "shared" / "my-guitar"
    assert main(["heads", "export", "mtl-to-guitar", "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {
        *("README.md", "recipe.yaml", "provenance.json", "results.json"),
        *("backbone.safetensors", "heads"),
    }
    separator = Separator.from_pretrained(out)
    assert separator.heads == ["guitar"]
    expected = estimates(guitar)["guitar"]
    mixture = torch.randn(1, 2, 3000, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(separator.model(mixture)["guitar"], expected)
    for name, tensor in load_model(guitar).state_dict().items():
        assert torch.equal(separator.model.state_dict()[name], tensor)
    card = (out / "README.md").read_text()
    score = json.loads(guitar.results.read_text())["summary"]["guitar"]["estimate"]
    assert f"{score['usdr']['mean']:.2f} / " in card
    assert "library_name: refined-bsrnn" in card
    assert "separate song.wav --model my-guitar --head guitar" in card
    assert 'Separator.from_pretrained("my-guitar")' in card
    assert str(tmp_path) not in "".join(p.read_text() for p in out.glob("*.*") if p.suffix in (".md", ".yaml", ".json"))
    assert RunFolder(out).load_recipe().data.sources == ()
    # it is a base like any other
    again = transfer(
        transfer_recipe(RunFolder(out), ["bass"], "transfer", [f"data.root={tmp_path / 'songs'}", *QUICK])
    )[0]
    assert again.head_names() == ["bass"]
    with pytest.raises(RecipeError, match="exists already and is not overwritten"):
        export(guitar, out)
    with pytest.raises(RecipeError, match=r"has no head 'lute'"):
        export(guitar, tmp_path / "no", ["lute"])
    assert not (tmp_path / "no").exists()


def test_a_model_of_the_hub_is_found_in_its_cache(base, guitar, tmp_path, monkeypatch):
    """The hub's own layout: what was downloaded once is used without a network."""
    snapshot = tmp_path / "hub" / "models--me--guitar" / "snapshots" / ("0" * 40)
    export(guitar, snapshot)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    real = __import__("huggingface_hub").snapshot_download
    monkeypatch.setattr(
        "refined_bsrnn.runs.exchange.hub.snapshot_download", lambda *a, **k: real(*a, cache_dir=tmp_path / "hub", **k)
    )
    assert find_model("me/guitar").head_names() == ["guitar"]
    assert Separator.from_pretrained("me/guitar").heads == ["guitar"]
    assert Separator.from_pretrained("me/guitar", revision="0" * 40).heads == ["guitar"]
    with pytest.raises(RecipeError, match="it cannot be had either"):
        Separator.from_pretrained("me/guitar", revision="v2")
    assert main(["heads", "list", "me/guitar"]) == 0
    with pytest.raises(
        RecipeError, match=r"there is no run 'me/lute'.*On the Hugging Face hub it cannot be had either"
    ):
        find_model("me/lute")
    with pytest.raises(RecipeError, match="there is no run 'mine'"):
        find_model("mine")
    assert find_model("hf:me/guitar").head_names() == ["guitar"]
    Path("me").mkdir()  # from now on me/guitar is a path
    with pytest.raises(RecipeError, match=r"there is no run 'me/guitar'.*the Hugging Face hub is called hf:me/guitar"):
        find_model("me/guitar")
    assert find_model("hf:me/guitar").head_names() == ["guitar"]
    with pytest.raises(
        RecipeError, match=r"hf:me/lute cannot be had: it is not on this machine, and .* HF_HUB_OFFLINE"
    ):
        find_model("hf:me/lute")


@pytest.mark.parametrize("text", ["runs/mlt", "./mlt", "../mlt", "songs/mtl", "a-file/x", "elsewhere/mlt", "inside/x"])
def test_what_begins_on_this_machine_never_goes_to_the_hub(text, monkeypatch, tmp_path):
    monkeypatch.setattr("refined_bsrnn.runs.exchange.hub.snapshot_download", None)
    Path("songs").mkdir()
    Path("a-file").touch()
    Path("elsewhere").symlink_to("nowhere")
    Path("runs-of-mine/inside").mkdir(parents=True)
    root = "runs-of-mine" if text.startswith("inside") else "runs"
    with pytest.raises(RecipeError, match=rf"there is no run '{text}'.* is called hf:{text}"):
        find_model(text, root)


@pytest.mark.parametrize("text", ["hf:", "hf:me", "hf:me/a/b", "hf:/me/a", "hf:me/"])
def test_what_is_no_hub_model(text, monkeypatch):
    monkeypatch.setattr("refined_bsrnn.runs.exchange.hub.snapshot_download", None)
    with pytest.raises(RecipeError, match=f"'{text}' is no hub model; expected hf:owner/name"):
        find_model(text)


def test_options_of_the_hub_are_handed_on(base, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "refined_bsrnn.runs.exchange.hub.snapshot_download",
        lambda name, **options: asked.append((name, options)) or base.path,
    )
    Separator.from_pretrained("me/private", token="t", cache_dir="c", local_files_only=True, chunk_seconds=1.0)
    Separator.from_pretrained("hf:me/private", token=False, force_download=True, revision="v2")
    Separator.from_pretrained("me/private")
    for _, options in asked:
        assert "*.safetensors" in options.pop("allow_patterns")
    assert asked == [
        ("me/private", {"revision": None, "token": "t", "cache_dir": "c", "local_files_only": True}),
        ("me/private", {"revision": "v2", "token": False, "force_download": True}),
        ("me/private", {"revision": None}),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_second": 1.0}, "the option 'chunk_second' is unknown. Did you mean 'chunk_seconds'?"),
        ({"tokens": "t"}, "the option 'tokens' is unknown"),
        ({"overlap": 2}, "overlap 2; expected"),
        ({"precision": "int8"}, "precision 'int8' is unknown"),
        ({"device": "gpu7"}, "device 'gpu7' cannot be used here"),
    ],
)
def test_bad_options_are_errors_before_anything_is_loaded(options, message, monkeypatch):
    monkeypatch.setattr("refined_bsrnn.separation.separator.find_model", None)
    with pytest.raises(RecipeError) as caught:
        Separator.from_pretrained("me/private", **options)
    assert message in str(caught.value)


def test_push_hands_the_folder_to_the_hub(base, tmp_path, monkeypatch):
    folder = export(base, tmp_path / "out").path
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **options):
            calls.append(("create", repo_id, options["private"]))

        def upload_folder(self, repo_id, folder_path, **options):
            calls.append(("upload", repo_id, Path(folder_path)))
            return "https://hub/me/mtl"

    monkeypatch.setattr("refined_bsrnn.runs.exchange.hub.HfApi", Api)
    assert Separator.from_pretrained(base.path).push_to_hub("me/mtl") == "https://hub/me/mtl"
    assert calls.pop()[2].name == "mtl"
    calls.clear()
    assert push_to_hub(folder, "me/mtl", token="t") == "https://hub/me/mtl"
    assert calls == [("token", "t"), ("create", "me/mtl", True), ("upload", "me/mtl", folder)]
    with pytest.raises(RecipeError, match="'mtl' is no hub model; expected owner/name"):
        push_to_hub(folder, "mtl")

    def refuse(self, repo_id, **options):
        raise ValueError("You must log in\nmore words")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(UserError, match="the hub did not take me/mtl: You must log in"):
        push_to_hub(folder, "me/mtl")


def test_separator_takes_and_gives_heads(base, guitar, tmp_path):
    separator = Separator.from_pretrained(base.path)
    separator.load_head(guitar.head("guitar"))
    separator.load_head(guitar.head("guitar"), "lead")
    assert set(separator.heads) == {"vocals", "drums", "guitar", "lead"}
    separator.save_head("lead", tmp_path / "lead.safetensors")
    assert head_facts(tmp_path / "lead.safetensors").name == "lead"
    separator.add_head("fresh")
    saved = separator.save_pretrained(tmp_path / "mine")
    assert set(verify(RunFolder(saved)).values()) == {"ok"}
    again = Separator.from_pretrained(saved)
    mixture = torch.randn(1, 2, 3000, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for name, estimate in separator.model(mixture).items():
            torch.testing.assert_close(again.model(mixture)[name], estimate)
    assert head_facts(saved / "heads" / "guitar.safetensors").trained["run"] == "mtl-to-guitar"
    with pytest.raises(RecipeError, match="exists already and is not overwritten"):
        separator.save_pretrained(saved)
    separator.remove_head("lead")
    assert set(separator.heads) == {"vocals", "drums", "guitar", "fresh"}
    with pytest.raises(UserError, match="there is no head 'lead'"):
        separator.remove_head("lead")
