"""Models by name, end to end against a server on this machine: pulled, verified, converted, kept once, used."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

from refined_bsrnn import Separator
from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.errors import RecipeError, UserError
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.runs.exchange import download as download_module
from refined_bsrnn.runs.exchange import library
from refined_bsrnn.runs.exchange.catalogue import read_catalogue
from refined_bsrnn.runs.exchange.hub import export, find_model
from refined_bsrnn.runs.exchange.library import pull, pulled
from refined_bsrnn.runs.folder import RunFolder, load_model, save_weights
from refined_bsrnn.runs.heads import note_in_head, verify
from refined_bsrnn.system import write_text
from tests.conftest import micro_recipe, write_songs
from tests.helpers.file_server import Served, file_server
from tests.helpers.roformers import config_of, published, tensors_of, write

NAME = "my-roformer"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(download_module, "PAUSES", (0.0, 0.0))
    with file_server() as served:
        yield served


@pytest.fixture
def listed(server, tmp_path, monkeypatch):
    """A RoFormer on the server and in the user's catalogue; calling it again changes the entry."""
    checkpoint, config = write(tmp_path / "published", config_of(), tensors_of(config_of()["model"]))
    content = checkpoint.read_bytes()
    server.files |= {"/model.ckpt": Served(content), "/config.yaml": Served(config.read_bytes())}
    usual = {
        "kind": "bs_roformer",
        "targets": ["vocals", "drums"],
        "url": f"{server.url}/model.ckpt",
        "config": f"{server.url}/config.yaml",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": "MIT, as its author says",
        "published": {"set": "Noise", "metric": "SDR", "vocals": 1.5},
    }

    def entry(**values):
        values = {**usual, **values}
        (tmp_path / "models.yaml").write_text(yaml.dump({"models": {NAME: values}}))
        monkeypatch.setenv("REFINED_BSRNN_MODELS", str(tmp_path / "models.yaml"))
        return read_catalogue().find(NAME)

    entry()
    return entry


def kept():
    return sorted(p.relative_to(library.library_folder()).as_posix() for p in library.library_folder().rglob("*"))


def test_a_pulled_model_is_a_run_that_computes_what_was_published(listed, capfd):
    assert main(["models", "pull", NAME]) == 0
    messages = capfd.readouterr().err
    assert messages.index("Licence of the weights: MIT, as its author says") < messages.index("Converting")
    assert "model.ckpt: size and sha256 are as listed" in messages
    run = pulled(NAME)
    assert verify(run) == {"backbone": "ok", "drums": "ok", "vocals": "ok"}
    noise = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = load_model(run)(noise[None])
    theirs = published(tensors_of(config_of()["model"]), config_of(), noise)
    assert torch.allclose(ours["vocals"][0], theirs[0], atol=1e-5)
    about = json.loads(run.provenance.read_text())["catalogue"]
    assert about["licence"] == "MIT, as its author says"
    assert [file["verified"] for file in about["files"]] == [["size", "sha256"], []]
    assert run.load_recipe().run.root == "runs"  # what is made from it does not go into the cache


def test_a_model_by_name_is_evaluated_described_and_exported(listed, tmp_path, monkeypatch, capfd):
    """Its results go beside one's own runs: the cache stays as it is."""
    monkeypatch.chdir(tmp_path)
    songs = write_songs(tmp_path / "songs", train=1, test=1)
    assert main(["info", NAME, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["parameters"] > 1000
    before = {name: (library.library_folder() / name).read_bytes() for name in kept() if name.endswith("safetensors")}
    assert main(["evaluate", NAME, "--data", str(songs), "--quick", "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)) >= {"vocals"}
    [results] = Path("runs", NAME).glob("*.json")
    assert json.loads(results.read_text())["run"] == NAME
    assert main(["evaluate", NAME, "--data", str(songs), "--out", "mine", "--no-excerpts"]) == 0
    assert main(["report", "mine"]) == 0
    assert NAME in capfd.readouterr().out
    assert main(["export-onnx", NAME, "--out", "net.pt2", "--head", "vocals"]) == 0
    assert Path("net.pt2").stat().st_size > 1000
    assert before == {name: (library.library_folder() / name).read_bytes() for name in before}


def test_a_recipe_comes_before_a_model_of_its_name(listed, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["info", "micro", "--json"]) == 0
    recipe = json.loads(capfd.readouterr().out)
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "models")
    other = micro_recipe(None)
    save_weights(RunFolder(tmp_path / "models" / "micro"), BSRNN.from_recipe(other))
    write_text(tmp_path / "models" / "micro" / "recipe.yaml", dump_recipe(other))
    assert main(["info", "micro", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == recipe
    assert main(["info", str(tmp_path / "models" / "micro"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) != recipe
    assert main(["info", "mikro"]) == 2
    assert "there is no recipe 'mikro'" in capfd.readouterr().err


def test_nothing_but_the_run_is_kept(listed, capfd):
    pull(listed())
    files = [name for name in kept() if (library.library_folder() / name).is_file()]
    inside = {
        f"{NAME}/{name}" for name in ("backbone.safetensors", "heads/drums.safetensors", "heads/vocals.safetensors")
    }
    assert set(files) == inside | {f".{NAME}.lock", f"{NAME}/provenance.json", f"{NAME}/recipe.yaml"}


def test_a_second_pull_fetches_nothing(listed, server, capfd):
    pull(listed())
    server.requests.clear()
    assert main(["models", "pull", NAME]) == 0
    assert "is here already" in capfd.readouterr().err
    assert not server.requests


def test_without_a_checksum_it_says_so_and_notes_what_it_received(listed, capfd):
    digest = listed().sha256
    run = pull(listed(sha256=None, bytes=None))
    assert (
        "No checksum is listed for model.ckpt, so it cannot be verified. Received, and noted" in capfd.readouterr().err
    )
    assert json.loads(run.provenance.read_text())["catalogue"]["files"][0]["sha256"] == digest


def test_a_wrong_checksum_makes_no_run(listed, capfd):
    listed(sha256="0" * 64)
    assert main(["models", "pull", NAME]) == 1
    assert f"{'0' * 64} is listed" in capfd.readouterr().err
    assert pulled(NAME) is None
    assert not [name for name in kept() if name.endswith(".ckpt")]


def test_a_pull_that_was_broken_off_goes_on(listed, server, monkeypatch, capfd):
    size = len(server.files["/model.ckpt"].content)
    server.files["/model.ckpt"].cuts = [size // 2]

    def interrupted(seconds):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download_module.time, "sleep", interrupted)
        assert main(["models", "pull", NAME]) == 130
    server.files["/config.yaml"].statuses = [404]
    assert main(["models", "pull", NAME]) == 1
    assert "config.yaml cannot be fetched: the server answers 404" in capfd.readouterr().err
    assert pulled(NAME) is None
    assert main(["models", "pull", NAME]) == 0
    assert server.ranges("/model.ckpt") == [None, f"bytes={size // 2}-"]  # it was whole the second time


def test_two_processes_fetch_it_once(listed, server, capfd):
    """The server keeps the first waiting until the second says that it waits for the first."""
    gate = server.files["/model.ckpt"].gate = threading.Event()
    command = [sys.executable, "-m", "refined_bsrnn", "models", "pull", NAME]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    messages = []
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pull, listed())
        while not server.ranges("/model.ckpt") and not first.done():
            time.sleep(0.01)
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as second:
            for line in second.stderr:
                messages.append(line)
                if "waiting for it" in line:
                    gate.set()
        first.result()
    assert second.returncode == 0, messages
    said = "".join([*messages, capfd.readouterr().err])
    assert len(server.ranges("/model.ckpt")) == 1, said
    assert (said.count("Converting"), said.count("waiting for it")) == (1, 1)
    assert pulled(NAME)
    assert not [name for name in kept() if name.endswith((".ckpt", ".part"))]


def test_too_little_room_is_said_and_nothing_is_begun(listed, monkeypatch, capfd):
    usage = download_module.shutil.disk_usage(".")
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda folder: usage._replace(free=listed().bytes))
    assert main(["models", "pull", NAME]) == 1
    assert "REFINED_BSRNN_CACHE" in capfd.readouterr().err
    assert pulled(NAME) is None


def test_what_a_call_left_that_was_killed_while_converting_is_replaced(listed):
    left = library.library_folder() / "downloads" / NAME / "run" / NAME
    left.mkdir(parents=True)
    (left / "recipe.yaml").write_text("half")
    pull(listed())
    assert set(verify(pulled(NAME)).values()) == {"ok"}
    assert not left.exists()


def test_a_disk_that_is_full_while_converting_keeps_the_download(listed, server, monkeypatch, capfd):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refined_bsrnn.runs.exchange.importing.owned_folder", full)
        assert main(["models", "pull", NAME]) == 1
    assert "the disk is full" in capfd.readouterr().err
    assert pulled(NAME) is None
    server.requests.clear()
    assert main(["models", "pull", NAME]) == 0
    assert not server.requests


def test_where_the_server_cannot_be_reached_it_says_what_to_put_where(listed, server, tmp_path, capfd):
    content = server.files["/model.ckpt"].content
    listed(url="http://127.0.0.1:9/model.ckpt")
    assert main(["models", "pull", NAME]) == 1
    place = library.library_folder() / "downloads" / NAME / "model.ckpt"
    messages = capfd.readouterr().err
    assert (
        f"fetch http://127.0.0.1:9/model.ckpt by hand, put it at {place} and run `refined-bsrnn models pull {NAME}`"
        in messages
    )
    place.write_bytes(content)
    assert main(["models", "pull", NAME]) == 0
    assert pulled(NAME)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_nothing_is_fetched_and_the_command_to_run_is_named(listed, server, monkeypatch, capfd, how):
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = ["--offline"] if how == "option" else []
    for command in (["separate", "song.wav", "--model", NAME], ["transfer", "--base", NAME, "--target", "oud"]):
        Path("song.wav").touch()
        assert main([*command, *offline]) == 2
        assert f"run: refined-bsrnn models pull {NAME}" in capfd.readouterr().err
    with pytest.raises(RecipeError, match=f"models pull {NAME}"):
        Separator.from_pretrained(NAME, local_files_only=how == "option")
    assert not server.requests


def test_a_configuration_in_the_catalogue_itself(listed, server):
    pull(listed(config=json.loads(json.dumps(config_of()))))
    assert server.ranges("/config.yaml") == []
    assert pulled(NAME).head_names() == ["drums", "vocals"]


def test_a_checkpoint_in_a_zip_is_the_member_that_is_listed(server, tmp_path, monkeypatch, listed):
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.writestr("net/separator.ckpt", server.files["/model.ckpt"].content)
        archive.writestr("net/readme.txt", "hello")
    content = (tmp_path / "net.zip").read_bytes()
    server.files["/net.zip"] = Served(content)
    zipped = {"url": f"{server.url}/net.zip", "bytes": len(content), "sha256": None}
    with pytest.raises(UserError, match=r"should hold one file \*.pth; it holds net/separator.ckpt, net/readme.txt"):
        pull(listed(member="*.pth", **zipped))
    pull(listed(member="net/separator.ckpt", **zipped))
    assert pulled(NAME).head_names() == ["drums", "vocals"]
    assert not [name for name in kept() if name.endswith((".zip", ".ckpt"))]


def test_a_checkpoint_that_is_no_network_is_refused(listed, server, capfd):
    server.files["/model.ckpt"].content = b"<html>log in</html>"
    listed(bytes=None, sha256=None)
    assert main(["models", "pull", NAME]) == 1
    assert "is no checkpoint that torch.save wrote" in capfd.readouterr().err
    assert pulled(NAME) is None


def test_show_list_path_and_remove(listed, capfd):
    assert main(["models", "path", NAME]) == 2
    assert f"Fetch it: refined-bsrnn models pull {NAME}" in capfd.readouterr().err
    pull(listed())
    capfd.readouterr()
    assert main(["models", "path", NAME]) == 0
    assert capfd.readouterr().out.strip() == str(library.library_folder() / NAME)
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)}
    assert rows[NAME]["path"] == str(library.library_folder() / NAME)
    assert rows["obsrnn-4stems"]["path"] is None
    assert main(["models", "show", NAME]) == 0
    assert "vocals 1.50 dB (SDR, Noise)" in capfd.readouterr().out
    assert main(["models", "remove", NAME]) == 0
    assert pulled(NAME) is None
    assert [name for name in kept() if NAME in name] == [f".{NAME}.lock"]
    assert main(["models", "remove", "../.."]) == 2
    assert main(["models", "show", "my-roformr"]) == 2
    assert f"Did you mean '{NAME}'" in capfd.readouterr().err


def test_a_run_of_the_same_name_comes_first(listed, server, tmp_path):
    write_run(RunFolder(Path("runs") / NAME))
    assert find_model(NAME).path == Path("runs") / NAME
    assert not server.requests


def test_a_separator_pulls_by_name_and_a_head_is_trained_on_it(listed, songs, capfd):
    assert Separator.from_pretrained(NAME).heads == ["drums", "vocals"]
    quick = ["train.steps=2", "train.batch_size=1", "train.chunk_seconds=0.5", "train.validate_every=2"]
    quick += ["train.warmup_steps=0", "train.workers=0", "log.wandb=off", "data.validation_tracks=[song-0]"]
    small = ["head.hidden_layers=1", "head.hidden_factor=0.5", f"data.root={songs}"]
    assert main(["transfer", "--base", NAME, "--target", "bass", *quick, *small]) == 0
    assert RunFolder(Path("runs") / f"{NAME}-to-bass").head_names() == ["bass"]


def test_a_name_that_is_nothing_says_where_names_come_from():
    with pytest.raises(RecipeError, match="no run 'mel-roformer-vocals-kin'.*Did you mean 'mel-roformer-vocals-kim'"):
        find_model("mel-roformer-vocals-kin")


# --- the model in the package -----------------------------------------------------------------------------------------


def write_run(run, **values):
    recipe = micro_recipe(None, **values)
    torch.manual_seed(0)
    write_text(run.recipe, dump_recipe(recipe))
    save_weights(run, BSRNN.from_recipe(recipe))
    return run


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A small run as the package's own model, in 16 bits."""
    run = write_run(RunFolder(Path("runs") / "mtl"))
    for head in run.head_names():
        trained = {"run": "mtl", "steps": 9, "audio_hours": 2.5, "data": {"name": "corpus", "n_tracks": 12}}
        score = {"split": "test", "n_tracks": 4, "usdr": 3.21, "csdr": 3.0}
        note_in_head(run.head(head), trained=trained, score=score)
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "package")
    return export(run, tmp_path / "package" / "small", half=True)


def test_half_an_export_is_half_as_large_and_loads_as_float32(packaged):
    run, half = RunFolder(Path("runs") / "mtl"), packaged
    assert verify(half) == {"backbone": "ok", "drums": "ok", "vocals": "ok"}
    whole, small = load_model(run), load_model(half)
    for name, tensor in whole.state_dict().items():
        assert small.state_dict()[name].dtype == torch.float32
        assert torch.equal(small.state_dict()[name], tensor.half().float()), name
    payload = sum(tensor.numel() for tensor in whole.backbone.state_dict().values())
    assert run.backbone.stat().st_size - half.backbone.stat().st_size == pytest.approx(2 * payload, abs=200)


def test_a_half_head_belongs_to_its_half_backbone_alone(packaged):
    whole = Separator.from_pretrained("mtl", heads=["vocals"])
    with pytest.raises(UserError, match="is a head of the backbone"):
        whole.load_head(packaged.head("drums"))
    half = Separator.from_pretrained(packaged.path, heads=["vocals"])
    assert half.load_head(packaged.head("drums")) == "drums"


def test_numbers_beyond_16_bits_are_refused(tmp_path):
    run = write_run(RunFolder(Path("runs") / "loud"))
    model = load_model(run)
    with torch.no_grad():
        next(model.backbone.parameters()).view(-1)[0] = 1e5
    save_weights(run, model)
    with pytest.raises(UserError, match="numbers beyond 65504, which 16 bits cannot hold; leave --half out"):
        export(run, tmp_path / "out", half=True)
    assert not (tmp_path / "out").exists()


def test_without_a_name_the_package_has_its_own_and_says_what_to_expect(packaged, capfd):
    assert Separator.from_pretrained().heads == ["drums", "vocals"]
    messages = " ".join(capfd.readouterr().err.split())
    assert (
        "Model small, which comes with the package (heads drums, vocals); trained on corpus (12 songs) for 2.5 h"
        in messages
    )
    assert "expect about drums 3.2, vocals 3.2 dB uSDR" in messages
    assert "best public model for this: obsrnn-4stems" in messages
    Separator.from_pretrained(heads=["vocals"])
    assert "best public model for this: mel-roformer-vocals-kim (913 MB" in capfd.readouterr().err


def test_a_package_without_a_model_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "nothing")
    with pytest.raises(RecipeError, match="has no model of its own.*models list"):
        Separator.from_pretrained()


def test_separate_needs_no_model(packaged, songs, capfd):
    song = str(songs / "test" / "song-0" / "mixture.wav")
    assert main(["separate", song]) == 0
    assert "Model small" in capfd.readouterr().err
    assert sorted(p.name for p in Path("separated/small").glob("*/*")) == ["drums.wav", "vocals.wav"]
    assert main(["separate", song, "--quiet", "--overwrite"]) == 0
    assert capfd.readouterr().err == ""


def test_best_is_the_catalogues_best_for_the_heads(packaged, monkeypatch, listed, songs, capfd):
    values = yaml.safe_load(Path(os.environ["REFINED_BSRNN_MODELS"]).read_text())
    Path(os.environ["REFINED_BSRNN_MODELS"]).write_text(yaml.dump({**values, "best": [NAME]}))
    song = str(songs / "test" / "song-0" / "mixture.wav")
    assert main(["separate", song, "--model", "best", "--head", "vocals"]) == 0
    assert [p.name for p in Path(f"separated/{NAME}").glob("*/*")] == ["vocals.wav"]
    assert Separator.from_pretrained("best", heads="vocals").heads == ["vocals"]


def test_a_head_learnt_on_the_packages_model_is_found_by_its_name(packaged, songs, capfd):
    quick = ["train.steps=2", "train.validate_every=2", "train.warmup_steps=0", f"data.root={songs}"]
    quick += ["data.validation_tracks=[song-0]", "log.wandb=off"]
    assert main(["transfer", "--base", str(packaged.path), "--target", "bass", *quick]) == 0
    song = str(songs / "test" / "song-0" / "mixture.wav")
    assert main(["separate", song, "--head", "bass,vocals"]) == 0
    assert sorted(p.name for p in Path("separated").glob("*/*/*")) == ["bass.wav", "vocals.wav"]


def test_the_app_offers_the_packages_heads_and_those_learnt_on_it(packaged, songs, capfd, monkeypatch):
    app = pytest.importorskip("refined_bsrnn.apps.browser.app")
    quick = ["train.steps=2", "train.validate_every=2", "train.warmup_steps=0", f"data.root={songs}"]
    quick += ["data.validation_tracks=[song-0]", "log.wandb=off"]
    for target in (["bass"], ["vocals", "--overwrite"]):
        assert main(["transfer", "--base", str(packaged.path), "--target", *target, *quick]) == 0
    served = []
    monkeypatch.setattr(app, "serve", served.append)
    capfd.readouterr()
    assert main(["app", "--device", "cpu", "--port", "0"]) == 0
    assert sorted(served[0].studio.separator.heads) == ["bass", "drums", "vocals"]
    assert served[0].studio.label == "small"
    messages = capfd.readouterr().err
    assert "With the head bass, learnt in runs/small-to-bass." in messages
    assert "runs/small-to-vocals has a head vocals too, which is not shown" in messages
    assert main(["app", "--model", "small-to-bass", "--device", "cpu", "--port", "0"]) == 0
    assert "runs/small-to-bass has a head" not in capfd.readouterr().err  # its own heads are there already
