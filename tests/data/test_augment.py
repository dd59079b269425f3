"""Every augmentation by what it does to tones and clicks; all of them by what must hold for any."""

import math

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import lfilter

from refined_bsrnn.audio import stretch, through_codec
from refined_bsrnn.data.augment import AUGMENTATIONS, Streams, augmented, equalise, is_on, low_pass, music_taken, reverb
from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import tracks_of
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.errors import AudioError, RecipeError
from refined_bsrnn.recipe import AUGMENT_PRESETS, AugmentSpec, load_recipe, make_recipe
from tests.conftest import RATE, STEMS, micro_recipe, micro_values

# Each of them on, as often as not.
EVERYTHING = {
    **{name: 0.5 for name in AUGMENTATIONS if name != "gain_db"},
    "gain_db": [-6.0, 6.0],
    "drop": 0.1,
    "low_pass_hz": [1000.0, 3000.0],
}
RATE_HZ = 44100


@pytest.fixture(autouse=True)
def own_noise(tmp_path, monkeypatch):
    folder = tmp_path / "noise"
    folder.mkdir()
    soundfile.write(folder / "hiss.wav", np.random.default_rng(5).uniform(-0.5, 0.5, (8000, 2)), 8000)
    monkeypatch.setitem(EVERYTHING, "noise_folder", str(folder))


def mixes(root, n_examples=8, **values):
    recipe = micro_recipe(root, **values)
    return RandomMixes(
        make_parts(tracks_of(track_table(root, ["train"])), recipe.targets, recipe.data), recipe, n_examples
    )


def tone(hz, seconds=1.0, rate=RATE_HZ):
    t = np.arange(round(seconds * rate)) / rate
    return torch.from_numpy(np.stack([0.5 * np.sin(2 * np.pi * hz * t)] * 2)).float()


def frequency(audio, rate=RATE_HZ):
    """The strongest one of the middle of (C, L), Hz, to a tenth of a bin."""
    middle = audio[0, len(audio[0]) // 8 : -len(audio[0]) // 8].double()
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle), dtype=torch.double), 8 * len(middle)).abs()
    return float(spectrum.argmax()) * rate / (8 * len(middle))


def level_db(audio, reference):
    return 10 * math.log10(float(audio.square().mean() / reference.square().mean()) + 1e-20)


def drawn(name, n=400, **spec):
    """What the augmentation draws for so many examples."""
    spec = AugmentSpec(**spec)
    return [AUGMENTATIONS[name].draw(spec, Streams(0, i)[name]) for i in range(n)]


# --- what must hold for any


def test_every_augmentation_is_a_key_of_the_recipe_and_off_by_one_word():
    for name in AUGMENTATIONS:
        on = make_recipe({"targets": ["a"], "augment": EVERYTHING}).augment
        assert is_on(on, name)
        for text in ("off", "0" if name != "gain_db" else "[0, 0]"):
            off = make_recipe({"targets": ["a"], "augment": EVERYTHING}, [f"augment.{name}={text}"]).augment
            assert not is_on(off, name)
            assert all(is_on(off, other) for other in AUGMENTATIONS if other != name)


def test_mixture_and_stems_agree_whatever_is_done(songs):
    made = mixes(songs, 20, targets=list(STEMS), augment={**EVERYTHING, "noise": "off"})
    for example in (made[i] for i in range(20)):
        assert torch.allclose(example["mixture"], example["stems"].sum(0), atol=1e-5)
        assert example["mixture"].shape == (2, RATE // 4)
        assert torch.isfinite(example["mixture"]).all()


def test_an_example_is_the_same_bit_for_bit_whatever_the_number_of_workers(songs):
    made = mixes(songs, 8, augment=EVERYTHING)
    expected = torch.stack([made[i]["mixture"] for i in range(8)])
    assert torch.equal(expected, torch.stack([mixes(songs, 8, augment=EVERYTHING)[i]["mixture"] for i in range(8)]))
    for workers in (1, 2):
        loader = torch.utils.data.DataLoader(made, batch_size=2, num_workers=workers)
        assert torch.equal(torch.cat([batch["mixture"] for batch in loader]), expected)


@pytest.mark.parametrize("name", sorted(name for name, a in AUGMENTATIONS.items() if a.apply))
def test_the_number_of_threads_changes_no_bit(name):
    """Workers have one thread, the main process as many as there are processors."""
    random = np.random.default_rng(3)
    spec = make_recipe({"targets": ["a"], "augment": EVERYTHING}).augment
    setting = next(s for s in (AUGMENTATIONS[name].draw(spec, random) for _ in range(100)) if s is not None)
    audio = torch.randn(2, 70001, generator=torch.Generator().manual_seed(0))
    try:
        torch.set_num_threads(2)
        on_two = AUGMENTATIONS[name].apply(audio, setting, 44100)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(on_two, AUGMENTATIONS[name].apply(audio, setting, 44100))


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS.keys() - {"remix"}))
def test_switching_one_off_leaves_the_others_as_they_are(songs, name):
    """Where it is not done to an example, the example is the same with and without it."""
    with_it, without = (
        mixes(songs, 24, augment={**EVERYTHING, name: value})
        for value in ([-6, 6] if name == "gain_db" else 0.2, "off")
    )
    streams = [Streams(0, i)[name] for i in range(24)]
    done = [
        [AUGMENTATIONS[name].draw(with_it.planner.augment, stream) is not None for _ in range(8)] for stream in streams
    ]
    untouched = [i for i in range(24) if not any(done[i])]
    assert bool(untouched) == (name != "gain_db")  # which is always done
    for i in untouched[:3]:
        assert torch.equal(with_it[i]["mixture"], without[i]["mixture"])
    assert any(not torch.equal(with_it[i]["mixture"], without[i]["mixture"]) for i in range(24) if any(done[i]))


@pytest.mark.parametrize("name", sorted(name for name, a in AUGMENTATIONS.items() if a.apply))
def test_length_and_silence_stay(name):
    augmentation = AUGMENTATIONS[name]
    spec = AugmentSpec(**{key: tuple(v) if isinstance(v, list) else v for key, v in EVERYTHING.items()})
    settings = [augmentation.draw(spec, Streams(1, i)[name]) for i in range(40)]
    setting = next(value for value in settings if value is not None)
    factor = augmentation.faster(setting) if augmentation.faster else 1.0
    audio = tone(440, 0.5)
    assert augmentation.apply(audio, setting, RATE_HZ).shape[-1] == pytest.approx(audio.shape[-1] / factor, abs=2)
    assert not augmentation.apply(torch.zeros(2, 8000), setting, RATE_HZ).abs().max() > 1e-6
    assert not torch.allclose(
        augmentation.apply(tone(440) + tone(9000), setting, RATE_HZ)[:, :9000], tone(440)[:, :9000]
    )


# --- what is drawn


def test_probabilities_and_ranges():
    for name, low, high in (("speed", 95, 105), ("tempo", 95, 105), ("pitch", 94, 106)):
        values = drawn(name, **{name: 0.5})
        done = [value for value in values if value is not None]
        assert 160 < len(done) < 240
        if name == "speed":
            assert (min(done), max(done)) == (low, high)
    shifts = drawn("time_shift", time_shift=1.0, time_shift_seconds=(-0.2, 0.1))
    assert -0.2 <= min(shifts) < -0.19
    assert 0.09 < max(shifts) <= 0.1
    assert set(drawn("codec", codec=1.0)[0]) & {"mp3", "ogg"}
    cutoffs = drawn("low_pass", low_pass=1.0, low_pass_hz=(1000.0, 4000.0))
    assert np.median(cutoffs) == pytest.approx(2000, rel=0.1)  # octaves are drawn alike
    assert drawn("drop", drop=0.0) == [None] * 400


def test_gains_are_uniform_in_db_or_in_amplitude():
    in_db = [20 * math.log10(gain) for gain in drawn("gain_db", 2000)]
    assert (min(in_db), max(in_db)) == (pytest.approx(-10, abs=0.1), pytest.approx(10, abs=0.1))
    assert np.mean(in_db) == pytest.approx(0, abs=0.4)
    preset = make_recipe({"targets": ["a"], "augment": {"preset": "umx"}}).augment
    amplitudes = [AUGMENTATIONS["gain_db"].draw(preset, Streams(0, i)["gain_db"]) for i in range(2000)]
    assert (min(amplitudes), max(amplitudes)) == (pytest.approx(0.25, abs=0.01), pytest.approx(1.25, abs=0.01))
    assert np.mean(amplitudes) == pytest.approx(0.75, abs=0.02)


# --- what is done


def test_polarity_swap_and_gain_by_hand():
    audio = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    done = augmented(audio, {"gain_db": 0.5, "polarity": True, "channel_swap": True}, RATE_HZ)
    assert done.tolist() == [[-1.5, -2.0], [-0.5, -1.0]]


def test_speed_moves_pitch_and_tempo_together():
    done = augmented(tone(440), {"speed": 105}, RATE_HZ)
    assert done.shape[-1] == pytest.approx(RATE_HZ / 1.05, abs=1)
    assert frequency(done) == pytest.approx(440 * 1.05, abs=0.3)


def test_tempo_keeps_the_pitch_and_pitch_keeps_the_tempo():
    faster = augmented(tone(440, 2.0), {"tempo": 110}, RATE_HZ)
    assert faster.shape[-1] == pytest.approx(2 * RATE_HZ / 1.1, abs=1)
    assert frequency(faster) == pytest.approx(440, abs=0.5)
    higher = augmented(tone(440, 2.0), {"pitch": 112}, RATE_HZ)
    assert higher.shape[-1] == pytest.approx(2 * RATE_HZ, abs=3)
    assert frequency(higher) == pytest.approx(440 * 1.12, abs=0.8)
    assert level_db(higher[:, 9000:-9000], tone(440)) == pytest.approx(0, abs=0.5)


def test_what_comes_from_one_place_is_stretched_as_one_sound():
    """Whatever is found to overlap best, it is the same for all: the sum of the stems stays the mixture."""
    random = torch.Generator().manual_seed(0)
    stems = torch.cat([tone(330), 0.3 * torch.randn(2, RATE_HZ, generator=random), tone(97)])  # (6, L)
    mixture = stems.unflatten(0, (3, 2)).sum(0)
    done = stretch(torch.cat([stems, mixture]), RATE_HZ, 0.93)
    assert torch.allclose(done[:6].unflatten(0, (3, 2)).sum(0), done[6:], atol=1e-5)


def test_attacks_stay_where_they_belong():
    clicks = torch.zeros(2, 2 * RATE_HZ)
    clicks[:, RATE_HZ // 2 :: RATE_HZ // 2] = 1.0
    found = np.flatnonzero(stretch(clicks, RATE_HZ, 1.05)[0] > 0.5) * 1.05 / RATE_HZ
    assert found == pytest.approx([0.5, 1.0, 1.5], abs=0.08)


def test_more_channels_than_ffmpeg_knows_and_rates_it_cannot():
    many = stretch(torch.rand(30, 4000), RATE_HZ, 1.1)
    assert many.shape == (30, 3636)
    with pytest.raises(AudioError, match="cannot be played 3 times as fast; expected 0.5 to 2.0"):
        stretch(torch.rand(1, 4000), RATE_HZ, 3)


def test_low_pass_is_flat_below_and_silent_above():
    for hz, expected_db in ((200, 0), (2600, 0), (3100, -100), (9000, -100)):
        done = low_pass(tone(hz), 3000.0, RATE_HZ)
        assert level_db(done[:, 4000:-4000], tone(hz)) == pytest.approx(expected_db, abs=0.1) or (
            expected_db < 0 and level_db(done[:, 4000:-4000], tone(hz)) < -60
        )
    kept = low_pass(tone(500), 3000.0, RATE_HZ)[:, 4000:-4000]
    assert torch.allclose(kept, tone(500)[:, 4000:-4000], atol=1e-3)  # without delay


@pytest.mark.parametrize("codec", ["mp3", "ogg"])
@pytest.mark.parametrize("level", [0.1, 3.0])
def test_a_codec_keeps_place_length_and_level(codec, level):
    audio = level * (tone(440) + 0.3 * tone(1500))  # may be above full scale
    decoded = through_codec(audio, RATE_HZ, codec, 0.5)
    assert decoded.shape == audio.shape
    error = (decoded - audio)[:, 3000:-3000]
    assert level_db(error, audio) < -20
    assert not torch.equal(decoded, audio)
    worse = through_codec(audio + level * 0.1 * torch.randn(2, RATE_HZ), RATE_HZ, codec, 0.95)
    assert level_db((worse - audio)[:, 3000:-3000], audio) > level_db(error, audio)


def test_reverberation_falls_by_60_db_in_its_time_and_has_its_level():
    click = torch.zeros(2, RATE_HZ)
    click[:, 100] = 1.0
    tail = reverb(click, (0.5, -10.0, 3), RATE_HZ) - click
    assert level_db(tail * RATE_HZ**0.5, torch.ones(2, RATE_HZ)) == pytest.approx(-10.0, abs=0.1)  # of all energy
    assert not tail[:, : 100 + 441].abs().max() > 1e-6  # nothing before the first reflection
    early, late = (tail[:, 100 + round(t * RATE_HZ) :][:, :2000] for t in (0.05, 0.3))
    assert level_db(late, early) == pytest.approx(-60 * 0.25 / 0.5, abs=1.5)
    assert torch.corrcoef(tail)[0, 1].abs() < 0.1  # the channels reflect for themselves
    assert torch.equal(reverb(click, (0.5, -10.0, 3), RATE_HZ) - click, tail)
    assert not torch.allclose(reverb(click, (0.5, -10.0, 4), RATE_HZ) - click, tail)


def cookbook(kind, gain_db, hz, q, rate_hz):
    """(b, a) as R. Bristow-Johnson's "Cookbook formulae for audio EQ biquad filter coefficients" has them."""
    a, w = 10 ** (gain_db / 40), 2 * math.pi * hz / rate_hz
    c, alpha = math.cos(w), math.sin(w) / (2 * q)
    if kind == "bell":
        return (1 + alpha * a, -2 * c, 1 - alpha * a), (1 + alpha / a, -2 * c, 1 - alpha / a)
    s, r = (1 if kind == "low" else -1), 2 * math.sqrt(a) * alpha
    b = (a * (a + 1 - s * (a - 1) * c + r), s * 2 * a * (a - 1 - s * (a + 1) * c), a * (a + 1 - s * (a - 1) * c - r))
    return b, (a + 1 + s * (a - 1) * c + r, -s * 2 * (a - 1 + s * (a + 1) * c), a + 1 + s * (a - 1) * c - r)


@pytest.mark.parametrize("rate_hz", [8000, 44100])
@pytest.mark.parametrize("setting", [(6.0, -4.0, 3.0, 1000.0), (-24.0, 24.0, -24.0, 4000.0), (24.0, 24.0, 24.0, 300.0)])
@pytest.mark.parametrize("level", [0.01, 40.0])
def test_the_equaliser_is_three_filters_of_the_cookbook(setting, rate_hz, level):
    audio = level * torch.randn(2, 20000, generator=torch.Generator().manual_seed(1))
    low_db, bell_db, high_db, bell_hz = setting
    expected = audio.double().numpy()
    for kind, gain_db, hz in (("low", low_db, 200), ("bell", bell_db, bell_hz), ("high", high_db, 5000)):
        expected = lfilter(*cookbook(kind, gain_db, min(hz, 0.45 * rate_hz), 0.707, rate_hz), expected)
    done = equalise(audio, setting, rate_hz)
    assert done.dtype == torch.float32
    assert np.abs(done.numpy() - expected).max() < 1e-6 * np.abs(expected).max()


def test_the_equaliser_moves_what_lies_there():
    settings = drawn("eq", eq=1.0, eq_db=(-3.0, 9.0))
    assert {len(setting) for setting in settings} == {4}
    for i in range(3):  # each gain over the whole range, by itself
        gains = [setting[i] for setting in settings]
        assert -3 <= min(gains) < -2.9
        assert 8.9 < max(gains) <= 9
    assert abs(np.corrcoef([setting[:3] for setting in settings], rowvar=False) - np.eye(3)).max() < 0.15
    assert np.median([setting[3] for setting in settings]) == pytest.approx(math.sqrt(300 * 4000), rel=0.15)
    for hz, expected_db in ((30, 6), (1000, -4), (16000, 3)):
        done = equalise(tone(hz), (6.0, -4.0, 3.0, 1000.0), RATE_HZ)
        assert level_db(done[:, 9000:], tone(hz)[:, 9000:]) == pytest.approx(expected_db, abs=0.3)


def test_rates_that_mp3_does_not_have():
    assert through_codec(tone(440, rate=30000), 30000, "mp3", 0.5).shape == (2, 30000)


def test_a_silent_target(songs):
    made = mixes(songs, 60, targets=["vocals", "drums"], augment={"preset": "none", "silent_target": 0.5})
    silent = [[not stem.any() for stem in made[i]["stems"]] for i in range(60)]
    assert 18 < sum(map(any, silent)) < 42
    assert not any(map(all, silent))  # one of them at a time
    assert all(made[i]["mixture"].any() and made[i]["present"].all() for i in range(60))
    assert {tuple(s) for s in silent} == {(False, False), (True, False), (False, True)}


def test_time_shift_moves_a_stem_against_the_others(songs):
    options = {"preset": "none", "time_shift": 1.0, "time_shift_seconds": [0.1, 0.1]}
    still, moved = (mixes(songs, 6, augment=augment) for augment in ({"preset": "none"}, options))
    shift = round(0.1 * RATE)
    for i in range(6):
        ours, theirs = still[i]["stems"][0][:, shift:], moved[i]["stems"][0][:, :-shift]
        assert torch.allclose(ours, theirs, atol=1e-6) or not torch.allclose(still[i]["mixture"], moved[i]["mixture"])
    assert any(torch.allclose(still[i]["stems"][0][:, shift:], moved[i]["stems"][0][:, :-shift]) for i in range(6))


def test_faster_music_takes_more_of_the_file(songs):
    assert music_taken({"speed": 104, "tempo": 110, "gain_db": 2.0}) == pytest.approx(1.04 * 1.1)
    made = mixes(songs, 4, augment={"preset": "none", "speed": 1.0, "speed_percent": [50, 50]})
    assert all(made[i]["mixture"][:, -200:].any() for i in range(4))  # full to the end


# --- presets and what is refused


def test_presets_are_what_was_published():
    paper, umx, none = (
        make_recipe({"targets": ["a"], "augment": {"preset": p}}).augment for p in ("paper", "umx", "none")
    )
    assert {name for name in AUGMENTATIONS if is_on(paper, name)} == {"remix", "gain_db", "drop"}
    assert (paper.remix, paper.gain_db, paper.drop) == (1.0, (-10.0, 10.0), 0.1)
    assert {name for name in AUGMENTATIONS if is_on(umx, name)} == {"remix", "gain_db", "channel_swap"}
    assert not any(is_on(none, name) for name in AUGMENTATIONS)
    assert AUGMENT_PRESETS["obsrnn"] == AUGMENT_PRESETS["umx"]


def test_a_preset_gives_way_to_what_the_same_layer_says_and_overrides_the_layers_below():
    recipe = make_recipe({"targets": ["a"], "augment": {"preset": "paper", "drop": 0.3}})
    assert (recipe.augment.drop, recipe.augment.channel_swap) == (0.3, 0.0)
    assert load_recipe("mtl_generic", ["augment.preset=none"]).augment.gain_db == (0.0, 0.0)
    assert load_recipe("mtl_generic", ["augment.preset=none", "augment.polarity=0.5"]).augment.polarity == 0.5


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            {"preset": "papper"},
            "augment.preset='papper' is unknown. Did you mean 'paper'. Known: none, obsrnn, paper, umx",
        ),
        ({"polarity": 1.5}, "augment.polarity is 1.5; expected 1 or less"),
        ({"pitch_semitones": [2, -2]}, r"pitch_semitones is \[2.0, -2.0\]; expected the lower value first"),
        ({"codec_level": [0.5, 1.0]}, "augment.codec_level is 1.0; expected 0.99 or less"),
        ({"low_pass_hz": [0, 4000]}, "augment.low_pass_hz is 0.0; expected 20 or more"),
        ({"eq_db": [-30, 0]}, "augment.eq_db is -30.0; expected -24 or more"),
        ({"revreb": 0.1}, "unknown recipe key 'augment.revreb'"),
    ],
)
def test_what_is_wrong_is_named(augment, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe({"targets": ["a"], "augment": augment})


def test_old_recipes_mean_what_they_meant():
    values = micro_values(None, augment={"remix": 0.5, "gain_db": [-3, 3], "channel_swap": 0.0, "drop": 0.2})
    spec = make_recipe(values).augment
    assert {name for name in AUGMENTATIONS if is_on(spec, name)} == {"remix", "gain_db", "drop"}
