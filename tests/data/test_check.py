"""What is wrong with data is found, said in one sentence, and the same sentence is said by training."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.data.check.checker import check
from refined_bsrnn.data.check.edge import sharp_edge
from refined_bsrnn.data.check.facts import known_facts, track_facts
from refined_bsrnn.data.check.findings import duplicates, findings_of
from refined_bsrnn.data.check.fingerprints import same_audio
from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.scan import scan
from refined_bsrnn.data.tracks import read_stem
from refined_bsrnn.data.training_data import training_data
from refined_bsrnn.data.whole import load_track
from refined_bsrnn.errors import UserError, alike
from refined_bsrnn.recipe import DataSpec, dump_recipe, make_recipe
from refined_bsrnn.system import write_text
from refined_bsrnn.training.train import train
from tests.audio.test_audio import encode
from tests.audio.test_claims import damage
from tests.conftest import RATE, STEMS, micro_recipe, micro_values, write_song, write_songs

facts_module = sys.modules["refined_bsrnn.data.check.facts"]


def read(path):
    return soundfile.read(path, always_2d=True)[0]


def write(path, samples, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)


def kinds(root):
    return sorted({f.kind for f in check(DataSpec(root=str(root))).findings})


def text_of(root, kind):
    [finding] = [f for f in check(DataSpec(root=str(root))).findings if f.kind == kind]
    return finding.text


def music(seed, seconds=12.0, rate=RATE):
    """Notes that change: unlike noise it has something that a fingerprint can hold on to."""
    random = np.random.default_rng(seed)
    t = np.arange(round(0.25 * rate)) / rate
    notes = [
        sum(
            a * np.sin(2 * np.pi * f * t)
            for a, f in zip(random.uniform(0.2, 1, 5), random.uniform(200, 1900, 5), strict=True)
        )
        for _ in range(round(seconds / 0.25))
    ]
    return 0.1 * np.concatenate(notes)[:, None].repeat(2, 1) * [1.0, 0.8]


def facts_of(root):
    return [track_facts(t) for t in scan(DataSpec(root=str(root)), ("train", "valid", "test")).usable()]


# --- what is fine


def test_nothing_is_wrong_with_good_data(songs):
    found = check(DataSpec(root=str(songs)))
    assert not found.findings
    assert not found.stops
    for facts in found.facts:
        assert facts.residual_db < -100
        assert sorted(facts.sum_of) == sorted(STEMS)
    splits = found.splits()
    assert [(split, row["tracks"]) for split, row in splits.items()] == [("train", 3), ("test", 1)]
    assert splits["train"]["targets"]["drums"] == {"tracks": 3, "hours": pytest.approx(6 / 3600)}


def test_facts_are_those_of_the_samples(songs):
    [facts] = [f for f in facts_of(songs) if (f.split, f.track) == ("train", "song-1")]
    samples = read(songs / "train" / "song-1" / "drums.wav")
    drums = facts.stems["drums"]
    assert drums.peak == pytest.approx(np.abs(samples).max(), rel=1e-6)
    assert drums.rms_db == pytest.approx(10 * np.log10((samples**2).mean()), abs=1e-4)
    assert (drums.seconds, drums.n_channels, drums.clips, drums.mono) == (2.0, 2, 0, False)


def test_long_tracks_are_read_in_blocks(songs, monkeypatch):
    whole = facts_of(songs)[0]
    monkeypatch.setattr("refined_bsrnn.data.check.facts.BLOCK_HOPS", 3)
    parts = facts_of(songs)[0]
    assert parts.residual_db < -100
    for name, stem in whole.stems.items():
        assert parts.stems[name].peak == stem.peak
        assert parts.stems[name].rms_db == pytest.approx(stem.rms_db, abs=1e-4)
        assert len(parts.stems[name].prints) == len(stem.prints)


# --- files that cannot be used


def break_empty(path):
    path.write_bytes(b"")


def break_unreadable(path):
    path.write_bytes(b"this is no audio at all")


def break_truncated(path):
    path.write_bytes(path.read_bytes()[:-5000])


def break_flac(path):
    """A flac whose header promises what is not there: only reading to its end tells."""
    samples = read(path)
    write(path.with_suffix(".flac"), samples)
    path.unlink()
    data = path.with_suffix(".flac").read_bytes()
    path.with_suffix(".flac").write_bytes(data[: len(data) // 2])


def break_nan(path):
    samples = read(path).astype(np.float32)
    samples[len(samples) // 2] = np.nan
    write(path, samples, subtype="FLOAT")


def break_length(path):
    write(path, read(path)[:-100])


def break_rate(path):
    write(path, read(path), rate=2 * RATE)


BROKEN = {
    "empty": (break_empty, r"bass.wav is empty \(0 bytes\)"),
    "unreadable": (break_unreadable, r"bass.wav .* cannot be read as audio"),
    "truncated": (break_truncated, r"bass.wav is cut off: its header promises"),
    "nan": (break_nan, r"bass.wav holds NaN or infinite samples, the first at 1.000 s"),
    "length": (break_length, r"song-1 differ in samples: bass 15900"),
    "rate": (break_rate, r"song-1 differ in Hz: bass 16000"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_used_is_named_and_training_says_the_same(songs, kind, capsys):
    spoil, message = BROKEN[kind]
    spoil(songs / "train" / "song-1" / "bass.wav")
    found = check(DataSpec(root=str(songs)))
    [finding] = [f for f in found.findings if f.stops]
    assert finding.kind == kind
    assert main(["check-data", str(songs)]) == 1
    assert finding.text in capsys.readouterr().err
    with pytest.raises(UserError, match=message) as error:
        train(micro_recipe(songs, targets=list(STEMS)))
    assert str(error.value) == finding.text


def test_a_flac_that_was_cut_off(songs):
    break_flac(songs / "train" / "song-1" / "bass.wav")
    [finding] = [f for f in check(DataSpec(root=str(songs))).findings if f.stops]
    assert finding.kind == "truncated"
    assert "bass.flac is cut off" in finding.text


def test_what_is_damaged_is_named_and_what_decodes_is_used(songs):
    """In a flac, which is read as it is, and in an m4a, of which a copy is read."""
    folder = songs / "train" / "song-1"
    flac, m4a = folder / "bass.flac", folder / "drums.m4a"
    write(flac, read(folder / "bass.wav"))
    encode(m4a, read(folder / "drums.wav").astype(np.float32), "alac", rate=RATE)
    for path in (flac, m4a):
        path.write_bytes(damage(path, 1.0))
        path.with_suffix(".wav").unlink()
    found = check(DataSpec(root=str(songs)))
    messages = [f for f in found.findings if f.kind == "damaged"]
    assert [Path(f.text.split(" is damaged: nothing can be decoded at ")[0]) for f in messages] == [m4a, flac]
    assert not any(f.stops for f in found.findings)
    [track] = [t for t in scan(DataSpec(root=str(songs)), ("train",)).tracks if t.name == "song-1"]
    assert track.n_samples == 2 * RATE
    train(micro_recipe(songs, targets=["drums"]))


def test_the_length_of_an_mp3_is_what_decodes(songs):
    folder = songs / "train" / "song-1"
    for path in sorted(folder.glob("*.wav")):
        write(path.with_suffix(".mp3"), read(path))
        data = bytearray(path.with_suffix(".mp3").read_bytes())
        place = max(data.find(b"Info"), data.find(b"Xing")) + 8
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") // 2).to_bytes(4, "big")
        path.with_suffix(".mp3").write_bytes(bytes(data))
        path.unlink()
    [track] = [t for t in scan(DataSpec(root=str(songs)), ("train",)).tracks if t.name == "song-1"]
    assert track.n_samples == 2 * RATE
    last = read_stem(track, "drums", track.n_samples - 4000, 4000)
    assert last.square().mean() > 0.2 * read_stem(track, "drums").square().mean()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_turns_out_bad_in_training_is_one_sentence(songs, workers):
    """Nothing was checked before: the first batches come upon it, in a worker or not."""
    for path in (songs / "train").glob("*/bass.wav"):
        samples = read(path).astype(np.float32)
        samples[:] = np.nan
        write(path, samples, subtype="FLOAT")
    data = {"root": str(songs), "stems": list(STEMS), "check": False}
    with pytest.raises(UserError, match=r"^/.*bass.wav holds NaN or infinite samples, .* export it again\.$"):
        train(micro_recipe(songs, targets=["drums"], data=data, train={"workers": workers}))


def test_a_training_reads_all_files_before_its_first_step(songs, monkeypatch):
    """The NaN is in no excerpt that would be drawn, and every bad file is named at once."""
    for name in ("song-1", "song-2"):
        samples = read(songs / "train" / name / "other.wav").astype(np.float32)
        samples[-1] = np.inf
        write(songs / "train" / name / "other.wav", samples, subtype="FLOAT")
    recipe = micro_recipe(songs)
    with pytest.raises(UserError, match=r"(?s)^2 problems.*song-1/other.wav holds NaN.*song-2/other.wav holds NaN"):
        train(recipe)
    found = check(recipe)  # a recipe's check ends in a report too, and says the same
    assert [(f.kind, f.where) for f in found.findings if f.stops] == [("nan", "train/song-1"), ("nan", "train/song-2")]
    for name in ("song-1", "song-2"):
        shutil.rmtree(songs / "train" / name)
    write_song(songs / "train" / "song-3", seed=5)
    training_data(recipe)
    monkeypatch.setattr("refined_bsrnn.data.check.facts.track_facts", None)  # nothing is read a second time
    training_data(recipe)


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_train(songs, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFINED_BSRNN_CACHE", str(tmp_path / "file" / "cache"))
    assert training_data(micro_recipe(songs)).opening[-1].startswith("3 tracks were never read to their ends")
    sentences = capsys.readouterr().err
    assert sentences.count("What was found is not kept, the next check reads all files again") == 1
    assert "cannot be written: Not a directory" in sentences
    (songs / "train" / "song-1" / "bass.wav").write_bytes(b"")
    assert main(["check-data", str(songs)]) == 1  # and it is checked all the same
    assert "bass.wav is empty" in capsys.readouterr().err


@pytest.mark.parametrize("n_channels", [3, 6])
def test_surround_sound_is_checked_and_trained_on(songs, n_channels):
    song = songs / "train" / "song-1"
    samples = read(song / "drums.wav")
    write(song / "drums.wav", np.pad(samples, ((0, 0), (0, n_channels - 2))))  # the same in front, nothing behind
    found = check(micro_recipe(songs, targets=list(STEMS)))
    assert [f.kind for f in found.findings] == ["channels"]  # and the mixture still is the sum
    data = training_data(micro_recipe(songs, targets=list(STEMS)))
    mixes = RandomMixes(data.parts, micro_recipe(songs, targets=list(STEMS), augment={"preset": "none"}), 8)
    assert all(torch.allclose(mixes[i]["stems"].sum(0), mixes[i]["mixture"], atol=1e-6) for i in range(8))


# --- what training goes on with


def test_silent_clipped_mono_one_channel_and_channels(songs):
    song = songs / "train" / "song-1"
    samples = read(song / "drums.wav")
    write(song / "bass.wav", 0 * samples)
    write(song / "vocals.wav", (40 * samples).clip(-1, 1))
    write(song / "drums.wav", samples[:, :1].repeat(2, 1))
    write(songs / "train" / "song-2" / "bass.wav", samples * [1, 0])
    write(songs / "train" / "song-2" / "vocals.wav", samples[:, :1])
    assert text_of(songs, "silent") == "train/song-1: silent from beginning to end: bass."
    assert text_of(songs, "mono") == "train/song-1: mono, the same in two channels: drums."
    assert text_of(songs, "one_channel") == "train/song-2: sounding in one channel only: bass."
    assert "train/song-2: files of different channels: mixture 2, bass 2" in text_of(songs, "channels")
    assert text_of(songs, "clipped").startswith("train/song-1: clipped: vocals in ")
    assert not check(DataSpec(root=str(songs))).stops


def test_clipping_is_counted_in_runs(tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal((RATE, 2))
    for start in range(100, 1100, 100):
        samples[start : start + 4, 1] = 1.0
    samples[5000:5002] = -1.0  # two at full scale happen
    samples = samples.clip(-1, 1)
    write(tmp_path / "a" / "drums.wav", samples)
    assert facts_of(tmp_path)[0].stems["drums"].clips == 10
    write(tmp_path / "a" / "drums.wav", 0.999 * samples)
    assert facts_of(tmp_path)[0].stems["drums"].clips == 0


@settings(max_examples=15, deadline=None)
@given(gain_db=st.floats(-12, 6), delay=st.integers(-3000, 3000), turned=st.booleans())
def test_gain_and_delay_of_a_mixture_are_found(tmp_path_factory, gain_db, delay, turned):
    folder = tmp_path_factory.mktemp("song") / "a"
    random = np.random.default_rng(1)
    stems = {name: 0.02 * random.standard_normal((3 * RATE, 2)) for name in ("drums", "bass")}
    gain = 10 ** (gain_db / 20) * (-1 if turned else 1)
    mixture = gain * np.roll(sum(stems.values()), delay, axis=0)
    for name, samples in {**stems, "mixture": mixture}.items():
        write(folder / f"{name}.wav", samples, subtype="FLOAT")
    [facts] = facts_of(folder.parent)
    if delay == 0 and abs(gain - 1) < 0.03:
        return
    assert facts.gain == pytest.approx(gain, rel=0.01)
    assert facts.delay_samples == delay
    [finding] = findings_of(facts)
    assert finding.kind == "mixture"
    assert finding.text.startswith("train/a: its mixture is the sum of")
    assert ("turned over" in finding.text) == turned
    assert (f"{abs(delay)} samples {'later' if delay > 0 else 'earlier'}" in finding.text) == bool(delay)


def test_a_mixture_that_is_no_sum(songs):
    song = songs / "train" / "song-1"
    write(song / "mixture.wav", 0.3 * np.random.default_rng(9).standard_normal((2 * RATE, 2)).clip(-3, 3))
    assert "train/song-1: its mixture is not the sum of" in text_of(songs, "mixture")
    assert "A stem may be missing" in text_of(songs, "mixture")


@pytest.mark.parametrize(
    ("in_mixture", "sentences"),
    [
        (lambda stem: stem, None),
        (lambda stem: np.roll(stem, 37, axis=0), r"guitar scaled by [+-]0.\d dB, 37 samples later does\.$"),
        (lambda stem: 0.5 * stem, r"guitar scaled by -[56].\d dB does\.$"),
        (lambda stem: -stem, r"guitar scaled by [+-]0.\d dB and turned over does\.$"),
        (lambda stem: 0 * stem, r" does\.$"),  # another song's
    ],
)
def test_a_mixture_and_one_stem_of_it_need_no_sum_but_the_stem_in_the_mixture(tmp_path, in_mixture, sentences):
    random = np.random.default_rng(4)
    stem, rest = (level * random.standard_normal((4 * RATE, 2)) for level in (0.08, 0.08))
    write(tmp_path / "a" / "guitar.wav", stem, subtype="FLOAT")
    write(tmp_path / "a" / "mixture.wav", in_mixture(stem) + rest, subtype="FLOAT")
    findings = [f for facts in facts_of(tmp_path) for f in findings_of(facts)]
    if sentences is None:
        assert findings == []
    else:
        [finding] = findings
        assert finding.text.startswith(
            "train/a: guitar is not in its mixture as it is: taking it away leaves more than "
        )
        assert re.search(sentences, finding.text)
        assert not finding.stops


def test_the_checkers_threads_are_the_only_ones(songs, monkeypatch):
    """Linear algebra with threads of its own inside them took twice the processor time and saved none."""
    seen = []

    def spy(track, unkept, measured=facts_module.measure_and_keep):
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return measured(track, unkept)

    monkeypatch.setattr(facts_module, "measure_and_keep", spy)
    with threadpool_limits(2, user_api="blas"):
        check(DataSpec(root=str(songs)), jobs=2)
    assert set(seen) == {1}


def test_parts_of_other_do_not_count_twice(songs):
    for folder in songs.glob("*/*"):
        shutil.copy(folder / "other.wav", folder / "guitar.wav")
    assert all(sorted(f.sum_of) == sorted(STEMS) for f in check(DataSpec(root=str(songs))).facts)
    assert "mixture" not in kinds(songs)


def test_a_rate_that_is_not_the_recipes(songs):
    found = check(micro_recipe(songs, stft={"sample_rate_hz": 16000, "n_fft": 512, "hop": 128}))
    [finding] = [f for f in found.findings if f.kind == "resampled"]
    assert "4 tracks are at 8000 Hz, are resampled to the recipe's 16000 Hz" in finding.text
    assert "nothing above 4.0 kHz: train/song-0" in finding.text


# --- the highest frequency


@pytest.mark.parametrize("edge_hz", [11000, 16000])
def test_a_low_pass_of_lossy_coding_is_found(tmp_path, edge_hz):
    random = np.random.default_rng(0)
    rate, noise = 44100, 0.1 * random.standard_normal((5 * 44100, 2))
    spectrum = np.fft.rfft(noise, axis=0)
    spectrum[round(edge_hz * 5) :] = 0
    write(tmp_path / "a" / "drums.wav", np.fft.irfft(spectrum, axis=0), rate)
    write(tmp_path / "a" / "bass.wav", noise, rate)
    stems = facts_of(tmp_path)[0].stems
    assert stems["drums"].highest_hz == pytest.approx(edge_hz, abs=300)
    assert stems["bass"].highest_hz is None
    assert f"drums above {stems['drums'].highest_hz / 1000:.1f} kHz" in text_of(tmp_path, "low_pass")


def test_an_mp3_shows_and_a_dull_stem_does_not(tmp_path):
    random = np.random.default_rng(0)
    noise = 0.1 * random.standard_normal((5 * 44100, 2))
    write(tmp_path / "a" / "drums.mp3", noise, 44100, bitrate_mode="CONSTANT", compression_level=0.9)
    dull = np.fft.rfft(noise, axis=0)
    hz = np.fft.rfftfreq(len(noise), 1 / 44100)
    dull *= (1 / (1 + (hz / 500) ** 4))[:, None]  # 24 dB per octave
    write(tmp_path / "a" / "bass.wav", np.fft.irfft(dull, n=len(noise), axis=0), 44100, subtype="PCM_24")
    from refined_bsrnn.audio import audio_info

    n_samples = audio_info(tmp_path / "a" / "drums.mp3").n_samples
    bass = read(tmp_path / "a" / "bass.wav")
    write(tmp_path / "a" / "bass.wav", np.resize(bass, (n_samples, 2)), 44100, subtype="PCM_24")
    stems = facts_of(tmp_path)[0].stems
    assert stems["drums"].highest_hz is not None
    assert stems["bass"].highest_hz is None


def test_an_edge_needs_something_below_it():
    power = np.full(2049, 1e-12)
    assert sharp_edge(power, 44100) is None
    power[:1000] = 1.0
    assert sharp_edge(power, 44100) == pytest.approx(1000 * 44100 / 4096, abs=200)


# --- the same audio


def song_of(folder, samples, **options):
    for name in ("drums", "mixture"):
        write(folder / f"{name}.{options.get('suffix', 'wav')}", samples, options.get("rate", RATE))


@pytest.mark.parametrize("change", ["flac", "mp3", "gain", "cut", "rate"])
def test_the_same_song_under_another_name_is_found(tmp_path, change):
    for i in range(4):
        song_of(tmp_path / "train" / f"song-{i}", music(i))
    same = music(2)
    if change == "gain":
        song_of(tmp_path / "test" / "other name", 0.3 * same)
    elif change == "cut":
        song_of(tmp_path / "test" / "other name", same[1234:-5000])
    elif change == "rate":
        song_of(tmp_path / "test" / "other name", music(2, rate=11025), rate=11025)
    else:
        song_of(tmp_path / "test" / "other name", same, suffix=change)
    [finding] = [f for f in check(DataSpec(root=str(tmp_path))).findings if f.kind == "duplicate"]
    assert finding.text.startswith("train/song-2 and test/other name hold the same audio in two splits")
    assert not finding.stops


def test_the_same_song_twice_in_one_split_and_a_stem_in_two_songs(tmp_path):
    song_of(tmp_path / "train" / "a", music(0))
    song_of(tmp_path / "train" / "b", music(0))
    assert "train/a and train/b hold the same audio twice (100 %" in text_of(tmp_path, "duplicate").replace(
        "100%", "100 %"
    )
    for name, seed in (("c", 5), ("d", 6)):
        write(tmp_path / "stems" / name / "drums.wav", music(3))
        write(tmp_path / "stems" / name / "mixture.wav", music(3) * 0.1 + music(seed))
    [finding] = duplicates(facts_of(tmp_path / "stems"))
    assert "c and train/d hold the same drums twice" in finding.text


def test_different_music_is_not_the_same(tmp_path):
    for i in range(12):
        song_of(tmp_path / f"song-{i}", music(i, seconds=20))
    assert duplicates(facts_of(tmp_path)) == []


def test_a_place_in_a_fingerprint():
    random = np.random.default_rng(0)
    whole = random.integers(1, 65536, 400).astype(np.uint16)
    others = [random.integers(1, 65536, 400).astype(np.uint16) for _ in range(5)]
    [(i, j, share, seconds)] = same_audio([*others, whole, whole[100:300]])
    assert (i, j, share) == (5, 6, 1.0)
    assert seconds == pytest.approx(100 * 0.0929)


# --- names


def test_a_name_that_may_be_misspelt_is_said_by_the_check_and_by_training(songs, tmp_path):
    song = songs / "train" / "song-1"
    (song / "drums.wav").rename(song / "Drum.wav")
    (song / "bass.wav").rename(song / "brass.wav")
    write(songs / "train" / "song-2" / "brass.wav", read(song / "brass.wav"))  # beside bass: something else
    text = text_of(songs, "spelling")
    assert text.startswith("1 tracks have 'Drum' and no 'drums', which 3 others have: train/song-1. If it is the same")
    recipe = micro_recipe(songs, data={"root": str(songs), "define": {"drums": ["drums", "Drum"]}})
    assert not [f for f in check(recipe).findings if f.kind == "spelling"]
    assert any(
        "have 'Drum' and no 'drums', which 2 others" in line for line in training_data(micro_recipe(songs)).opening
    )


def test_names_in_a_definition_that_match_nothing(songs):
    define = {"rhythm": ["drums", "bas"]}
    recipe = micro_recipe(songs, targets=["rhythm"], data={"root": str(songs), "define": define})
    messages = "data.define.rhythm names the stem 'bas', which no track has. Did you mean 'bass'?"
    assert [f.text for f in check(recipe).findings if f.kind == "spelling"] == [messages]
    assert messages in training_data(recipe).opening
    nothing = micro_recipe(
        songs, targets=["rhythm"], data={"root": str(songs), "define": {"rhythm": ["drumms", "nonsense"]}}
    )
    with pytest.raises(UserError, match="is the sum of 'drumms'. Did you mean 'drums'[?] 'nonsense'. Stems found"):
        training_data(nothing)


def test_a_name_close_to_another():
    assert alike("Vocal", {"vocals", "drums"}) == "vocals"
    assert alike("electric-guitar", {"electric_guitar"}) == "electric_guitar"
    assert alike("durms", {"drums", "bass"}) == "drums"
    assert alike("piano", {"drums", "bass"}) == ""


def test_validation_tracks_without_a_target_are_counted_and_named(songs):
    for stem in ("vocals", "drums"):
        (songs / "train" / "song-0" / f"{stem}.wav").unlink()
    text = (
        "1 of 1 validation tracks have no target and are left out: train/song-0. None is left: the weights of the last "
        "step are kept, good or bad."
    )
    assert [f.text for f in check(micro_recipe(songs)).findings if f.kind == "validation"] == [text]
    data = training_data(micro_recipe(songs))
    assert text in data.opening
    assert not data.validation


def test_tracks_of_another_rate_than_most_are_named_without_a_recipe(songs):
    write_song(songs / "train" / "song-3", seed=3, rate=2 * RATE)
    assert text_of(songs, "resampled") == (
        f"1 tracks are at {2 * RATE} Hz, most at {RATE} Hz: train/song-3. Training resamples them."
    )


# --- recipes, programs, training


def recipe_file(tmp_path, root, **values):
    write_text(tmp_path / "recipe.yaml", dump_recipe(micro_recipe(root, **values)))
    return str(tmp_path / "recipe.yaml")


def test_a_definition_of_its_own_name_hides_no_file(songs, tmp_path):
    for split in ("train", "test"):
        for song in (songs / split).iterdir():
            write(song / "choir.wav", 0.25 * read(song / "bass.wav"))
            write(song / "mixture.wav", sum(read(song / f"{stem}.wav") for stem in (*STEMS, "choir")))
    values = {"targets": ["vocals", "drums"], "data": {"root": str(songs), "define": {"vocals": ["vocals", "choir"]}}}
    spec = make_recipe(micro_values(songs, **values)).data
    assert not [f for f in check(spec).findings if f.kind == "mixture"]
    for song in (songs / "train").iterdir():
        (song / "mixture.wav").unlink()
    track = scan(spec, ("train",)).usable()[0]
    mixture, _, source_is = load_track(track, ["vocals"])
    stems = [read(songs / "train" / "song-0" / f"{stem}.wav") for stem in (*STEMS, "choir")]
    assert source_is == "sum"
    assert np.allclose(mixture.numpy().T, sum(stems), atol=1e-6)
    samples = read(songs / "train" / "song-1" / "vocals.wav")
    samples[-1] = np.nan
    write(songs / "train" / "song-1" / "vocals.wav", samples, subtype="FLOAT")
    assert "nan" in {f.kind for f in check(spec).findings}


def test_a_sum_of_which_a_mixture_may_hold_more_is_named(songs):
    for song in (songs / "train").iterdir():
        (song / "other.wav").unlink()
    define = {"accompaniment": ["drums", "bass", "other"]}
    values = {"targets": ["vocals", "accompaniment"], "data": {"root": str(songs), "define": define}}
    notes = check(make_recipe(micro_values(songs, **values))).scan.notes
    messages = (
        "3 of 3 tracks have only some of the stems that a target is made of, and mixtures that hold more than their "
    )
    assert any(note.startswith(f"{messages}stems (song-0: accompaniment without other;") for note in notes), notes


def test_damaged_facts_are_measured_again(songs, tmp_path):
    before = check(DataSpec(root=str(songs))).facts
    for i, path in enumerate(sorted((tmp_path / "cache" / "checks").glob("*.json"))):
        path.write_text(("", "{}", '{"stems": 1}', "[]")[i % 4])
    assert check(DataSpec(root=str(songs))).facts == before


def test_where_nothing_is_to_train_on_training_cannot_start(songs, tmp_path, capsys):
    shutil.rmtree(songs / "train")
    assert main(["check-data", str(songs)]) == 1
    assert "there is no track to train on" in capsys.readouterr().err
    assert main(["check-data", recipe_file(tmp_path, songs)]) == 1
    assert "there is no track to train on" in capsys.readouterr().err


def test_a_recipes_targets_are_checked(songs, tmp_path, capsys):
    assert main(["check-data", recipe_file(tmp_path, songs)]) == 0
    assert main(["check-data", recipe_file(tmp_path, songs, targets=["vocal"])]) == 1
    messages = capsys.readouterr().err
    assert "no track has a stem 'vocal'. Did you mean 'vocals'" in messages
    with pytest.raises(UserError, match="no track has a stem 'vocal'. Did you mean 'vocals'"):
        training_data(micro_recipe(songs, targets=["vocal"]))
    assert main(["check-data", recipe_file(tmp_path, songs), "data.validation_tracks=[nobody]"]) == 1
    assert "data.validation_tracks: of 3 tracks none is called 'nobody'" in capsys.readouterr().err


def test_json_for_programs(songs, capsys):
    (songs / "train" / "song-1" / "bass.wav").write_bytes(b"")
    assert main(["check-data", str(songs), "--json", "--jobs", "1"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert (values["ok"], values["splits"]["train"]["tracks"]) == (False, 2)
    assert values["findings"][0]["kind"] == "empty"
    assert values["tracks"][0]["stems"]["drums"]["clips"] == 0


def test_wrong_arguments(songs, tmp_path, capsys):
    assert main(["check-data", str(songs), "data.channels=1"]) == 2
    assert "overrides are for a recipe" in capsys.readouterr().err
    assert main(["check-data", str(tmp_path / "nowhere")]) == 2
    assert f"there is no folder or file '{tmp_path}/nowhere', and there is no recipe" in capsys.readouterr().err
    assert main(["check-data", " "]) == 2
    assert "what to check is ''; expected a recipe" in capsys.readouterr().err
    assert main(["check-data", "micro", "train.steps=0"]) == 2
    assert "there is no folder" not in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main(["check-data", str(tmp_path / "none"), "--json"]) == 1  # a program reads why, too
    values = json.loads(capsys.readouterr().out)
    assert not values["ok"]
    assert "no tracks in" in values["findings"][0]["text"]


def test_facts_are_kept_until_a_file_changes(songs, monkeypatch):
    check(DataSpec(root=str(songs)))
    tracks = scan(DataSpec(root=str(songs)), ("train",)).usable()
    assert known_facts(tracks[1]) == track_facts(tracks[1])
    monkeypatch.setattr("refined_bsrnn.data.check.facts.track_facts", None)  # nothing is read again
    assert not check(DataSpec(root=str(songs))).findings
    samples = read(songs / "train" / "song-1" / "bass.wav")
    write(songs / "train" / "song-1" / "bass.wav", 0 * samples)
    assert known_facts(scan(DataSpec(root=str(songs)), ("train",)).usable()[1]) is None


def test_facts_of_the_files_do_not_depend_on_what_a_recipe_defines(songs):
    check(DataSpec(root=str(songs)))
    spec = DataSpec(root=str(songs), define={"accompaniment": ("drums", "bass", "other")})
    [track, *_] = scan(spec, ("train",)).usable()
    assert "accompaniment" in track.files
    assert known_facts(track) is not None


def test_training_begins_with_what_is_known(songs, tmp_path):
    song = songs / "train" / "song-1"
    write(song / "bass.wav", 0 * read(song / "bass.wav"))
    recipe = micro_recipe(songs)
    first = training_data(recipe).opening
    assert first[0].startswith("Data: songs: 2 training tracks (vocals 0.00 h, drums 0.00 h), 1 for validation.")
    assert "train/song-1: silent from beginning to end: bass." in first
    assert not any("never read" in line for line in first)
    write(song / "bass.wav", 1e-9 * read(song / "drums.wav"), subtype="FLOAT")
    headers = training_data(micro_recipe(songs, data={"root": str(songs), "check": False})).opening
    assert headers[-1] == "1 tracks were never read to their ends; refined-bsrnn check-data does that."


def test_many_tracks_are_read_in_several_threads(tmp_path):
    root = write_songs(tmp_path / "songs", train=9, test=0, seconds=0.5)
    found = check(DataSpec(root=str(root)), jobs=2)
    assert [f.track for f in found.facts] == [f"song-{i}" for i in range(9)]
    assert not found.findings
