"""Ways to transfer: what is trained, what is kept, what is refused."""

import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.splits import use_part
from refined_bsrnn.data.tracks import tracks_of
from refined_bsrnn.data.whole import load_track
from refined_bsrnn.errors import CheckpointError, DataError, RecipeError
from refined_bsrnn.evaluation.forgetting import forgetting
from refined_bsrnn.metrics import usdr
from refined_bsrnn.recipe import BaseSpec
from refined_bsrnn.runs.folder import RunFolder, backbone_file, load_model, read_provenance, read_tensors
from refined_bsrnn.runs.heads import list_heads
from refined_bsrnn.separation.separator import Separator
from refined_bsrnn.training.optimiser import clip
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import METHODS, check_name_is_free, resume, transfer, transfer_recipe
from refined_bsrnn.training.validation import Validation
from tests.conftest import STEMS, micro_recipe, write_song, write_songs

ALL_STEMS = ["data.stems=[vocals,drums,bass,other,guitar]"]


@pytest.fixture
def base(tmp_path):
    root = write_songs(tmp_path / "songs", train=4, stems=(*STEMS, "guitar"))
    recipe = micro_recipe(root, backbone={"features": 4, "repeats": 2}, train={"steps": 1, "validate_every": 1})
    return train(replace(recipe, run=replace(recipe.run, name="mtl")))[0]


def transfer_to(base, *targets, overrides=(), watch=None, **how):
    quick = ["train.steps=3", "train.validate_every=3", "train.warmup_steps=0", *ALL_STEMS]
    return transfer(transfer_recipe(base, targets, "transfer", [*quick, *overrides], **how), watch)[0]


def state(model):
    return {name: t.clone() for name, t in model.backbone.state_dict().items()}


def changed(base, run):
    old, new = state(load_model(base)), state(load_model(run))
    return {name for name in old if not torch.equal(old[name], new[name])}


class Seen:
    """A trainer, with its backbone as it was before the first step: the file of a frozen one is never written."""

    def __call__(self, trainer):
        self.learner = trainer.learner
        if trainer.progress.step == 0:
            self.before = state(trainer.learner.model)


def check_what_was_trained(seen, method):
    """In the optimizer, and changed in memory by its steps, is what the method says, and nothing else."""
    model, before = seen.learner.model, seen.before
    names = {id(p): name for name, p in model.named_parameters()}
    in_optimizer = {names[id(p)] for group in seen.learner.optimizer.param_groups for p in group["params"]}
    backbone = {f"backbone.{name}" for name, _ in model.backbone.named_parameters()}
    last = {name for name in backbone if name.startswith("backbone.blocks.1.")}
    expected = {"frozen": set(), "random": set(), "lora": set(), "partial": last}.get(method, backbone)
    assert in_optimizer == {name for name in names.values() if name not in backbone} | expected
    assert any(name.startswith("adapters.") for name in in_optimizer) == (method == "lora")
    moved = {f"backbone.{name}" for name, tensor in state(model).items() if not torch.equal(tensor, before[name])}
    assert moved == expected
    assert model.backbone.training == (method not in ("frozen", "random", "lora"))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_changes_what_it_says_and_the_run_stands_alone(base, method):
    before, seen = base.backbone.read_bytes(), Seen()
    run = transfer_to(base, "guitar", method=method, watch=seen)
    assert base.backbone.read_bytes() == before
    check_what_was_trained(seen, method)
    assert run.path.name == ("mtl-to-guitar" if method == "frozen" else f"mtl-to-guitar-{method}")
    recipe, model = run.load_recipe(), load_model(run)
    assert recipe.base.method == method
    assert run.backbone.exists() == (method in ("partial", "full", "scratch", "random"))
    assert backbone_file(run).exists()
    names = changed(base, run)
    if method in ("frozen", "lora"):
        assert not names
    elif method == "partial":
        assert names
        assert all(name.startswith("blocks.1.") for name in names)
    else:  # every weight of the encoder, too
        assert {"encoder.linears.0.weight", "blocks.0.time.rnn.weight_ih_l0"} <= names
    assert bool(model.adapters) == (method == "lora")
    assert "guitar" in model.targets


@pytest.mark.parametrize("method", METHODS)
def test_each_method_resumes_bit_for_bit(base, method):
    straight = transfer_to(base, "guitar", method=method, overrides=["run.name=straight"])
    halted = RunFolder(straight.path.parent / "halted")
    transfer_to(base, "guitar", method=method, overrides=["run.name=halted"], watch=stop_after_one)
    assert read_provenance(halted)["steps_done"] == 2
    assert resume(halted)[1]
    for file in (straight.head("guitar"), straight.backbone):
        if file.exists():
            expected = read_tensors(file, "head" if file != straight.backbone else "backbone")[0]
            again = halted.path / file.relative_to(straight.path)
            found = read_tensors(again, "head" if file != straight.backbone else "backbone")[0]
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[name], found[name]) for name in expected)


def stop_after_one(trainer):
    if trainer.progress.step == 1:
        signal.raise_signal(signal.SIGTERM)


def test_a_random_backbone_is_what_the_seed_says_and_is_not_trained(base):
    run = transfer_to(base, "guitar", method="random")
    again = transfer_to(base, "guitar", method="random", overrides=["run.name=again"])
    longer = transfer_to(base, "guitar", method="random", overrides=["run.name=longer", "train.steps=5"])
    other = transfer_to(base, "guitar", method="random", overrides=["run.name=other", "train.seed=1"])
    assert not changed(run, again)
    assert not changed(run, longer)
    assert changed(run, other)


def test_two_heads_trained_together_equal_two_trained_apart(base):
    together = transfer_to(base, "guitar", "bass")
    for target in ("guitar", "bass"):
        apart = transfer_to(base, target)
        expected, found = (read_tensors(run.head(target), "head")[0] for run in (apart, together))
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("base", "norms"), [(None, [0.6, 0.8]), ({"run": "runs/mtl"}, [1.0, 1.0])])
def test_heads_on_a_frozen_backbone_are_clipped_each_by_itself(base, norms):
    recipe = micro_recipe(None, base=base, train={"clip_norm": 1.0})
    trained = {name: nn.Parameter(torch.zeros(1)) for name in ("heads.vocals.weight", "heads.drums.weight")}
    for parameter, gradient in zip(trained.values(), (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    norm, norms_before = clip(trained, recipe)
    assert norm == 5.0
    assert list(norms_before.values()) == [3.0, 4.0]
    assert [float(parameter.grad) for parameter in trained.values()] == pytest.approx(norms, abs=1e-5)


def test_each_head_is_kept_at_its_own_best(base, monkeypatch):
    """One rises, the other falls: the mean says nothing about either."""
    scores = iter([(0.0, 3.0), (1.0, 2.0), (5.0, 1.0)])

    def faked(*_):
        guitar, bass = next(scores)
        return {"validation/guitar/usdr": guitar, "validation/bass/usdr": bass, "validation/usdr": (guitar + bass) / 2}

    monkeypatch.setattr(Validation, "scores", faked)
    run = transfer_to(base, "guitar", "bass", overrides=["train.steps=6", "train.validate_every=2"])
    trained = {head.name: head.trained for head in list_heads(run)}
    assert (trained["guitar"]["steps"], trained["guitar"]["validation_usdr"]) == (6, 5.0)
    assert (trained["bass"]["steps"], trained["bass"]["validation_usdr"]) == (2, 3.0)


def test_with_low_rank_updates_recurrent_layers_are_in_training_mode(base, monkeypatch):
    """cuDNN gives no gradient otherwise, which no CPU would tell."""
    modes = []
    forward = torch.nn.LSTM.forward

    def spy(self, *args):
        modes.append((torch.is_grad_enabled(), self.training))
        return forward(self, *args)

    monkeypatch.setattr(torch.nn.LSTM, "forward", spy)
    transfer_to(base, "guitar", method="lora")
    assert (True, True) in modes
    assert (True, False) not in modes


def test_a_head_starts_from_another(base):
    recipe = transfer_recipe(base, ["guitar"], "transfer", ALL_STEMS, init_from="drums")
    from refined_bsrnn.training.transfer import transfer_model

    model = transfer_model(recipe, base)
    drums = load_model(base).heads["drums"].state_dict()
    assert all(torch.equal(t, drums[name]) for name, t in model.heads["guitar"].state_dict().items())


def test_starting_from_a_head_with_low_rank_updates_says_that_they_stay_behind(base, capsys):
    bent = transfer_to(base, "guitar", method="lora")
    run = transfer_to(bent, "bass", init_from="guitar")
    assert "'guitar' was trained with low-rank updates of the backbone, which the new" in capsys.readouterr().err
    assert not load_model(run).adapters
    assert not changed(base, run)


def test_what_cannot_be_is_refused(base):
    with pytest.raises(RecipeError, match=r"has no head 'drum'\. Did you mean 'drums'\? Heads: drums, vocals"):
        transfer_to(base, "guitar", init_from="drum")
    with pytest.raises(RecipeError, match="a trained head cannot start on a random backbone"):
        transfer_to(base, "guitar", init_from="drums", method="scratch")
    with pytest.raises(RecipeError, match=r"the new head is \{'kind': 'mlp_mask', 'options': \{'hidden_layers': 2\}\}"):
        transfer_to(base, "guitar", init_from="drums", overrides=["head.hidden_layers=2"])
    with pytest.raises(RecipeError, match=r"base\.blocks is 3; the backbone has 2 blocks"):
        transfer_to(base, "guitar", method="partial", blocks=3)
    with pytest.raises(RecipeError, match=r"base\.method is 'melt'; expected one of frozen, partial, lora"):
        transfer_to(base, "guitar", method="melt")
    with pytest.raises(RecipeError, match=r"has a head 'drums' already\. Call the new one otherwise with --as drums2"):
        check_name_is_free(base, "drums")


def test_head_files_say_where_the_head_came_from(base):
    import json

    run = transfer_to(base, "guitar", overrides=["data.use_tracks=2"])
    facts = json.loads(read_tensors(run.head("guitar"), "head")[1]["trained"])
    assert facts["run"] == "mtl-to-guitar"
    assert facts["method"] == "frozen"
    assert facts["steps"] == 3
    assert facts["data"]["n_tracks"] == 2
    assert facts["data"]["fingerprint"] == read_provenance(run)["data"]["fingerprint"]
    assert facts["audio_hours"] == round(3 * 2 * 0.25 / 3600, 3)


@pytest.fixture
def tracks(tmp_path):
    root = write_songs(tmp_path / "many", train=6, seconds=6.0, rate=1000)
    return tracks_of(track_table(root, ("train",)))


def test_a_part_of_the_tracks_is_nested_and_set_by_the_seed(tracks):
    def names(seed=0, targets=("drums",), **spec):
        recipe = micro_recipe(None)
        return [t.name for t in use_part(tracks, targets, replace(recipe.data, **spec), seed)]

    assert names() == [t.name for t in tracks]
    assert len(names(use_tracks=3)) == 3
    assert set(names(use_tracks=2)) < set(names(use_tracks=3))
    assert len(names(use_fraction=0.5)) == 3
    assert len(names(use_fraction=0.01)) == 1
    assert len(names(use_minutes=0.15)) == 2  # of 6 s each: 9 s need two
    assert len(names(use_minutes=0.1)) == 1
    assert len(names(use_minutes=0.5, use_tracks=2)) == 2
    assert len(names(use_tracks=99)) == 6
    assert len({tuple(names(seed, use_tracks=2)) for seed in range(8)}) > 1
    assert names(targets=("zither",), use_tracks=2) == names()  # what is made of them says that there is none


def test_of_several_targets_each_has_a_song_among_few(tmp_path):
    root = tmp_path / "mixed"
    for i, stem in enumerate(["guitar", "guitar", "guitar", "guitar", "piano"]):
        write_song(root / "train" / f"song-{i}", i, ("drums", stem), seconds=1.0, rate=1000)
    tracks = tracks_of(track_table(root, ("train",)))
    for seed in range(6):
        spec = replace(micro_recipe(None).data, use_tracks=2)
        two = use_part(tracks, ("guitar", "piano"), spec, seed)
        assert {stem for track in two for stem in track.stems} == {"drums", "guitar", "piano"}
        three = use_part(tracks, ("guitar", "piano"), replace(spec, use_tracks=3), seed)
        assert {t.name for t in two} < {t.name for t in three}


@pytest.fixture
def few(tmp_path):
    """A base on songs of which only one, not the first one that is taken, has a piano."""
    root = write_songs(tmp_path / "songs", train=4, stems=(*STEMS, "guitar"))
    write_song(root / "train" / "with-piano", 7, (*STEMS, "piano"))
    recipe = micro_recipe(root)
    return train(replace(recipe, run=replace(recipe.run, name="mtl")))[0]


def test_few_songs_need_not_have_every_stem_of_the_mixtures(few):
    stems = "data.stems=[vocals,drums,bass,other,guitar,piano]"
    run = transfer_to(few, "guitar", overrides=[stems, "data.use_tracks=2", "data.missing_stem=silent"])
    data = read_provenance(run)["data"]
    assert len(data["train_tracks"]) == 2
    assert "piano" not in data["parts"]
    with pytest.raises(DataError, match=r"none of the 1 tracks that data\.use_tracks .* has a stem 'piano'; o"):
        transfer_to(few, "guitar", "piano", overrides=[stems, "data.use_tracks=1"])
    with pytest.raises(DataError, match=r"no track has a stem 'lute'.* Stems found in 4 tracks: bass, drums, guitar"):
        transfer_to(few, "lute", overrides=[stems, "data.use_tracks=2"])


def test_more_than_all_is_refused():
    with pytest.raises(RecipeError, match=r"data\.use_fraction is 1\.5; expected 1 or less"):
        micro_recipe(None, data={"use_fraction": 1.5})


def test_the_methods_of_the_recipe_are_those_there_are():
    import typing

    assert typing.get_args(typing.get_type_hints(BaseSpec)["method"]) == tuple(METHODS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rank", "4"], "--rank requires --method lora"),
        (["--blocks", "1", "--method", "lora"], "--blocks requires --method partial"),
        (["--cache-max-gb", "1"], "--cache-max-gb requires --cache"),
        (["--tracks", "0"], "--tracks is 0; expected 1 or more"),
        (["--minutes", "0"], "--minutes is 0; expected more than 0"),
        (["--as", "a", "b"], "--as gives 2 names for 1 targets"),
    ],
)
def test_words_that_would_do_nothing_are_refused(base, words, message, capsys):
    assert main(["transfer", "--base", "mtl", "--target", "guitar", *words]) == 2
    assert message in capsys.readouterr().err


def test_resuming_without_the_base_says_so(base):
    run = transfer_to(base, "guitar", overrides=["train.checkpoint_every=1"])
    base.path.rename(base.path.with_name("elsewhere"))
    with pytest.raises(CheckpointError, match=r"was transferred from \.\./mtl, and there is no run at"):
        resume(run)


def test_what_a_base_forgets_when_it_is_trained_on(base, tmp_path):
    tuned = transfer_to(base, "guitar", method="full", overrides=["train.lr=0.05"])
    found = forgetting(tuned)
    models = {"before": load_model(base), "after": load_model(base)}
    models["after"].backbone.load_state_dict(load_model(tuned).backbone.state_dict())
    track = tracks_of(track_table(tmp_path / "songs", ("test",)))[0]
    mixture, stems, _ = load_track(track, ["vocals", "drums"])
    for when, model in models.items():
        estimates = Separator(model).separate(mixture, track.sample_rate_hz)
        for name in ("vocals", "drums"):
            assert found[when][name] == pytest.approx(usdr(stems[name], estimates[name]), abs=1e-4)
            assert found["change"][name] == pytest.approx(found["after"][name] - found["before"][name])
    assert found["mean"] != 0
    assert forgetting(transfer_to(base, "guitar", method="lora"))["mean"] == 0.0
    with pytest.raises(RecipeError, match="is no transfer"):
        forgetting(base)
    other = write_songs(tmp_path / "other", stems=("flute",))
    with pytest.raises(DataError, match="no test track has a stem of the base's heads"):
        forgetting(tuned, str(other))
