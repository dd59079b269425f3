"""The feature cache: the same losses as without it, finished where cut off, not trusted where damaged, bounded."""

import json
import re
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.errors import RecipeError, UserError
from refined_bsrnn.runs.folder import read_provenance, read_tensors
from refined_bsrnn.system import cache_folder
from refined_bsrnn.training.feature_cache import BLOCK, Array, CachedMixes, FeatureCache, Remembered, fill
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import transfer, transfer_recipe
from tests.conftest import STEMS, micro_recipe, write_songs

QUICK = ["train.steps=10", "train.validate_every=5", "train.warmup_steps=0", "train.log_every=1", "train.ema=0"]


@pytest.fixture
def base(tmp_path):
    root = write_songs(tmp_path / "songs", stems=(*STEMS, "guitar"))
    recipe = micro_recipe(root, train={"steps": 1, "validate_every": 1})
    return train(replace(recipe, run=replace(recipe.run, name="mtl")))[0]


def transfer_to(base, name, *overrides, watch=None, **how):
    overrides = [*QUICK, f"run.name={name}", *overrides]
    return transfer(transfer_recipe(base, ["guitar", "bass"], "transfer", overrides, **how), watch)[0]


def log(run, key="loss"):
    events = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [event[key] for event in events if key in event]


CACHED = ("cache.enabled=true", "cache.pool=24")


@pytest.mark.parametrize("more", [(), ("input.normalise=none", "augment.remix=0.5")], ids=["default", "half coherent"])
def test_training_from_the_cache_gives_the_losses_of_training_without_it(base, more, capsys):
    without = transfer_to(base, "without", *more)
    cached = transfer_to(base, "cached", *CACHED, *more)
    messages = capsys.readouterr().err
    assert "Feature cache: 20 mixtures of" in messages
    assert messages.index("Feature cache: 20 mixtures of") < messages.index(
        "2 of 2 blocks to compute"
    )  # and before it is made
    assert len(log(without)) == 10
    np.testing.assert_allclose(log(cached), log(without), rtol=2e-3)
    for key in ("validation/guitar/usdr", "validation/bass/usdr"):
        np.testing.assert_allclose(log(cached, key), log(without, key), atol=0.02)
    assert read_provenance(cached)["cache"]["pool"] == 20  # 10 steps of 2 need no more
    assert read_provenance(without)["cache"] is None


def test_with_a_normalised_input(tmp_path):
    root = write_songs(tmp_path / "songs", stems=(*STEMS, "guitar"))
    recipe = micro_recipe(root, input={"normalise": "standardise"})
    base = train(replace(recipe, run=replace(recipe.run, name="mtl")))[0]
    np.testing.assert_allclose(log(transfer_to(base, "cached", *CACHED)), log(transfer_to(base, "without")), rtol=2e-3)


def test_the_backbone_does_not_run_once_the_cache_is_there(base, monkeypatch):
    first = transfer_to(base, "first", *CACHED)

    def refuse(self, spectrogram):
        assert not spectrogram.any(), "the backbone ran"  # it may be asked for its shapes
        return forward(self, spectrogram)

    from refined_bsrnn.network.model import Backbone

    forward = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", refuse)
    second = transfer_to(base, "second", *CACHED)
    for target in ("guitar", "bass"):
        expected, found = (read_tensors(run.head(target), "head")[0] for run in (first, second))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_resumes_bit_for_bit_from_the_cache(base):
    from refined_bsrnn.runs.folder import RunFolder
    from refined_bsrnn.training.transfer import resume

    straight = transfer_to(base, "straight", *CACHED)

    def stop(trainer):
        if trainer.progress.step == 6:
            signal.raise_signal(signal.SIGTERM)

    halted = RunFolder(straight.path.parent / "halted")
    transfer_to(base, "halted", *CACHED, watch=stop)
    assert read_provenance(halted)["steps_done"] == 7
    assert resume(halted)[1]
    for target in ("guitar", "bass"):
        expected, found = (read_tensors(run.head(target), "head")[0] for run in (straight, halted))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ({"overrides": ["train.lr=0.5"]}, False),
        ({"overrides": ["train.steps=20", "cache.pool=20"]}, False),
        ({"overrides": ["head.hidden_layers=2"]}, False),
        ({"overrides": ["augment.remix=0.25"]}, True),
        ({"overrides": ["train.seed=3"]}, True),
        ({"overrides": ["train.chunk_seconds=0.2"]}, True),
        ({"overrides": ["cache.pool=8"]}, True),
        ({"overrides": ["data.validation_tracks=[song-1]"]}, True),
        ({"method": "random"}, True),
    ],
    ids=str,
)
def test_what_changes_the_numbers_is_another_cache(base, change, other):
    change = dict(change)
    overrides = change.pop("overrides", [])
    transfer_to(base, "first", *CACHED)
    transfer_to(base, "second", *CACHED, *overrides, **change)
    assert len([p for p in (cache_folder() / "features").iterdir() if p.is_dir()]) == (2 if other else 1)


def test_a_file_that_is_written_again_is_another_cache(base, tmp_path):
    transfer_to(base, "first", *CACHED)
    path = tmp_path / "songs" / "train" / "song-1" / "drums.wav"
    samples, rate = soundfile.read(path)
    samples[len(samples) // 3] = 0.9
    soundfile.write(path, samples, rate)  # of the same size
    transfer_to(base, "second", *CACHED)
    assert len([p for p in (cache_folder() / "features").iterdir() if p.is_dir()]) == 2


# --- the files


def small_cache(folder, pool=40, key="k"):
    arrays = {"features": Array((1, 2, 3, 4), "float16"), "mixture": Array((1, 5), "float32")}
    return FeatureCache({"key": key}, arrays, pool, folder)


class Numbered:
    def __getitem__(self, index):
        return {"mixture": torch.full((1, 5), float(index))}

    def __len__(self):
        return 40


def features(mixture):
    """(B, 1, 5) → (B, 1, 2, 3, 4), twice the number in it."""
    return 2 * mixture[:, :, :1, None, None].expand(-1, -1, 2, 3, 4)


def filled(folder, blocks=None):
    cache = small_cache(folder)
    cache.prepare()
    fill(cache, Numbered(), features, cache.missing_blocks() if blocks is None else blocks, torch.device("cpu"))
    return cache


def test_examples_come_back_as_they_were(tmp_path):
    cache = filled(tmp_path)
    assert cache.missing_blocks() == []
    for index in (0, 17, 39):
        example = cache.read(index)
        assert torch.equal(example["mixture"], torch.full((1, 5), float(index)))
        assert torch.equal(example["features"], torch.full((1, 2, 3, 4), 2.0 * index, dtype=torch.float16))


def test_one_that_was_cut_off_is_finished(tmp_path):
    cache = filled(tmp_path, blocks=[0, 2])
    assert cache.missing_blocks() == [1]
    again = small_cache(tmp_path)
    again.prepare()
    assert again.missing_blocks() == [1]
    made = []
    fill(again, Numbered(), lambda m: made.append(m) or features(m), again.missing_blocks(), torch.device("cpu"))
    assert [int(m[0, 0, 0]) for m in made] == list(range(BLOCK, 2 * BLOCK))
    assert torch.equal(again.read(20)["mixture"], torch.full((1, 5), 20.0))


def test_a_block_is_marked_after_it_is_written(tmp_path, monkeypatch):
    cache = small_cache(tmp_path)
    cache.prepare()
    monkeypatch.setattr(cache, "write_bytes", _fails_for("mixture.f32", cache.write_bytes))
    with pytest.raises(UserError, match="cannot be written: the disk is full"):
        fill(cache, Numbered(), features, [0], torch.device("cpu"))
    assert cache.missing_blocks() == [0, 1, 2]


def _fails_for(name, write):
    def fails(path, offset, data):
        if path.name == name:
            raise OSError(28, "No space left on device")
        write(path, offset, data)

    return fails


@pytest.mark.parametrize("damage", ["truncated", "gone", "about", "empty about", "marks"])
def test_a_damaged_one_is_made_again(tmp_path, damage):
    cache = filled(tmp_path)
    if damage == "truncated":
        with (cache.path / "features.f16").open("r+b") as file:
            file.truncate(100)
    elif damage == "gone":
        (cache.path / "mixture.f32").unlink()
    elif damage == "about":
        (cache.path / "about.json").write_text('{"key": "other"}')
    elif damage == "empty about":
        (cache.path / "about.json").write_text("")
    else:
        (cache.path / "done").unlink()
    again = small_cache(tmp_path)
    again.prepare()
    assert again.missing_blocks() == [0, 1, 2]


def test_one_with_holes_is_never_read(tmp_path):
    with pytest.raises(UserError, match="has changed while it was filled"):
        filled(tmp_path, blocks=[0, 2]).checked()
    cache = small_cache(tmp_path)
    assert filled(tmp_path, cache.missing_blocks()).checked().missing_blocks() == []


def test_a_second_training_waits_for_the_first(tmp_path, capsys):
    order = []

    def second():
        with small_cache(tmp_path).alone():
            order.append("second")

    with small_cache(tmp_path).alone():
        thread = threading.Thread(target=second)
        thread.start()
        for _ in range(200):
            if "waiting" in capsys.readouterr().err:
                break
            time.sleep(0.02)
        else:
            pytest.fail("nobody waits")
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: File exists"), small_cache(tmp_path / "file").alone():
        pass
    with pytest.raises(UserError, match="cannot be written"):
        small_cache(tmp_path / "file").prepare()


def test_the_time_to_fill_adds_up(tmp_path):
    cache = filled(tmp_path)
    cache.add_seconds(1.5)
    small_cache(tmp_path).add_seconds(2.0)
    assert cache.describe()["seconds_to_fill"] == 3.5


def test_features_that_do_not_fit_16_bits_are_told(tmp_path):
    cache = small_cache(tmp_path)
    cache.prepare()
    with pytest.raises(UserError, match="a feature is too large for 16 bits; train without --cache"):
        fill(cache, Numbered(), lambda m: features(m) + 1e6, [0], torch.device("cpu"))


def test_its_size_is_known_before_and_bounded(tmp_path, monkeypatch):
    cache = small_cache(tmp_path)
    assert cache.n_bytes == 40 * (24 * 2 + 5 * 4)
    assert not tmp_path.joinpath("features").exists()
    assert "40 mixtures" in cache.check_room(1.0)
    with pytest.raises(
        RecipeError, match=r"--cache-max-gb \(cache\.max_gb\) allows 1e-06\. Allow more, or cache\.pool=14"
    ):
        cache.check_room(1e-6)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="the disk has 0.00 GB left"):
        cache.check_room(1.0)
    assert not cache.path.exists()
    filled_one = filled(tmp_path)
    assert filled_one.check_room(1.0)  # nothing is left to write
    on_disk = sum((filled_one.path / name).stat().st_size for name in ("features.f16", "mixture.f32"))
    assert on_disk == filled_one.n_bytes


def test_the_pool_comes_in_its_own_order_first_and_then_in_others(tmp_path):
    examples = CachedMixes(filled(tmp_path), seed=0, n_examples=120)
    turns = [[int(examples[i]["mixture"][0, 0]) for i in range(40 * turn, 40 * turn + 40)] for turn in range(3)]
    assert turns[0] == list(range(40))
    assert sorted(turns[1]) == sorted(turns[2]) == turns[0]
    assert turns[1] != turns[0] != turns[2] != turns[1]
    again = CachedMixes(filled(tmp_path), seed=0, n_examples=120)
    assert [int(again[i]["mixture"][0, 0]) for i in (100, 5, 41)] == [turns[2][20], 5, turns[1][1]]


def test_validation_features_are_remembered_by_content_up_to_a_size(tmp_path):
    calls = []
    compute = lambda x: calls.append(1) or x[:, :, :, :, :1].contiguous()  # noqa: E731
    remembered = Remembered(tmp_path, max_gb=400e-9)
    first, second = (torch.randn(1, 1, 20, 5, 2) for _ in range(2))
    expected = remembered(first, compute)
    assert torch.equal(remembered(first.clone(), compute), expected)
    assert len(calls) == 1
    remembered(second, compute)
    assert torch.equal(Remembered(tmp_path, 400e-9)(first, compute), expected)
    assert len(calls) == 2
    next(tmp_path.glob("*.npy")).write_bytes(b"")  # a damaged one is computed again
    Remembered(tmp_path, 400e-9)(first, compute)
    Remembered(tmp_path, 400e-9)(second, compute)
    assert len(calls) == 3
    calls.pop()
    third = torch.randn(1, 1, 20, 5, 2)
    remembered(third, compute)
    remembered(third, compute)  # no room for it
    assert len(calls) == 4


def test_a_batch_is_remembered_item_by_item(tmp_path):
    sizes = []
    compute = lambda x: sizes.append(len(x)) or x[..., :1].contiguous()  # noqa: E731
    batch = torch.randn(3, 1, 20, 5, 2)
    remembered = Remembered(tmp_path, 1.0)
    expected = remembered(batch[:2], compute)
    assert torch.equal(remembered(batch, compute)[:2], expected)
    assert sizes == [2, 1]


def test_stem_weights_are_part_of_the_key(base, tmp_path):
    weights = tmp_path / "weights.csv"
    for weight in ("0.5", "0.25"):
        weights.write_text(f"track,stem,weight\nsong-1,guitar,{weight}\n")
        transfer_to(base, f"w{weight}", *CACHED, f"data.stem_weights={weights}")
    assert len([p for p in (cache_folder() / "features").iterdir() if p.is_dir()]) == 2


def test_no_more_is_cached_than_is_used(base):
    run = transfer_to(base, "few", "cache.enabled=true", "cache.pool=2000")
    assert read_provenance(run)["cache"]["pool"] == 10 * run.load_recipe().train.batch_size


# --- refusals


@pytest.mark.parametrize("method", ["partial", "lora", "full", "scratch"])
def test_only_what_stays_the_same_can_be_kept(base, method):
    with pytest.raises(RecipeError, match=f"with base.method={method}: features can be kept where the backbone stays"):
        transfer_to(base, "x", *CACHED, method=method)


def test_training_a_base_has_nothing_to_keep(songs):
    with pytest.raises(RecipeError, match=r"cache\.enabled \(--cache\) with no base"):
        micro_recipe(songs, cache={"enabled": True})


def test_on_the_command_line(base, capsys):
    command = ["transfer", "--base", "mtl", "--target", "guitar", "--cache", *QUICK, "cache.pool=16"]
    assert main([*command, "--cache-max-gb", "0.000001"]) == 2
    assert "allows 1e-06" in capsys.readouterr().err
    assert main(command) == 0


def test_all_that_will_be_written_is_told_before_it_is(base, capsys, monkeypatch):
    transfer_to(base, "first", *CACHED)
    folder, prepare, messages = cache_folder() / "features", FeatureCache.prepare, []
    before = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    capsys.readouterr()

    def spy(self):
        assert not self.path.exists()
        messages.append(capsys.readouterr().err)
        prepare(self)

    monkeypatch.setattr(FeatureCache, "prepare", spy)
    monkeypatch.setattr("refined_bsrnn.training.feature_cache.GB", 1.0)  # as few bytes are to be told
    transfer_to(base, "second", *CACHED, "train.seed=1", f"cache.max_gb={10**9}")
    (adds,) = re.findall(r", up to (\d+)\.00 GB more of validation tracks", messages[0])
    (others,) = re.findall(r"other caches in \S+ take (\d+)\.00 GB", messages[0])
    assert int(others) == before
    (second,) = (p for p in folder.iterdir() if p.is_dir() and json.loads((p / "about.json").read_text())["seed"] == 1)
    kept = sum(path.stat().st_size - 128 for path in (second / "validation").glob("*.npy"))  # without numpy's headers
    assert int(adds) == pytest.approx(kept, rel=0.1)
