"""The built-in stems: the same by seed, exact sums, music-like spectra, and a folder that is whole or not there."""

import errno
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from refined_bsrnn.data import synth
from refined_bsrnn.data.synth import BAND_RATE_HZ, MANIFEST, STEMS, builtin_root, synthesise_song, write_band
from refined_bsrnn.errors import DataError
from refined_bsrnn.temporary import LOCK, owned_folder

SECONDS = 6.0
SEEDS = (0, 1, 2, 3)
SMALL = {"train": 2, "valid": 1, "test": 1}
remembered = functools.cache(synthesise_song)


@pytest.fixture(scope="module")
def songs() -> dict[int, dict[str, np.ndarray]]:
    return {seed: synthesise_song(seed, SECONDS) for seed in SEEDS}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synth, "synthesise_song", remembered)
        return write_band(tmp_path_factory.mktemp("band") / "root", SMALL, seconds=1.0, seed=5)


@pytest.fixture
def quick_songs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the folder: a song that was made for `made` is not computed again."""
    monkeypatch.setattr(synth, "synthesise_song", remembered)


@pytest.fixture
def band(made: Path, tmp_path: Path) -> Path:
    """A finished folder that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "root"))


def power(signal: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft(signal.astype(float).mean(0))) ** 2


def share(signal: np.ndarray, low_hz: float, high_hz: float) -> float:
    """The part of the energy between two frequencies."""
    spectrum = power(signal)
    hz = np.fft.rfftfreq(signal.shape[1], 1 / BAND_RATE_HZ)
    return float(spectrum[(hz >= low_hz) & (hz < high_hz)].sum() / spectrum.sum())


def rms_db(signal: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(signal.astype(float) ** 2)))


def harmonicity(frame: np.ndarray) -> float:
    """The highest autocorrelation at a lag between 1/700 and 1/70 s: near 1 for a sung note, low for noise."""
    frame = (frame - frame.mean()) * np.hanning(len(frame))
    spectrum = np.abs(np.fft.rfft(frame, 2 * len(frame))) ** 2
    lags = np.fft.irfft(spectrum)
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(len(frame)), 2 * len(frame))) ** 2)
    first, last = BAND_RATE_HZ // 700, BAND_RATE_HZ // 70
    return float((lags[first:last] / lags[0] / (window[first:last] / window[0])).max())


def loud_frames(stem: np.ndarray, length: int = 2048) -> list[np.ndarray]:
    mono = stem.astype(float).mean(0)
    frames = [mono[i : i + length] for i in range(0, len(mono) - length, length)]
    return sorted(frames, key=lambda frame: -float((frame**2).sum()))[: len(frames) // 4]


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# --- songs ------------------------------------------------------------------------------------------------------------


def test_a_song_is_five_stereo_stems_of_the_asked_length(songs):
    for song in songs.values():
        assert tuple(song) == STEMS
        for stem in song.values():
            assert stem.dtype == np.int16
            assert stem.shape == (2, round(SECONDS * BAND_RATE_HZ))


@pytest.mark.parametrize(("seconds", "rate"), [(1.0, 44100), (2.3, 16000), (1.7, 48000)])
def test_any_length_and_rate_gives_five_audible_stems(seconds, rate):
    for stem in synthesise_song(11, seconds, rate).values():
        assert stem.shape == (2, round(seconds * rate))
        assert rms_db(stem) > 20


def test_the_same_seed_gives_the_same_samples():
    once, again = (synthesise_song(SEEDS[0], 1.5) for _ in range(2))
    assert all(np.array_equal(once[stem], again[stem]) for stem in STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_another_seed_gives_another_song(songs, stem):
    one, two = (songs[seed][stem].astype(float).mean(0) for seed in SEEDS[:2])
    lags = np.fft.irfft(np.fft.rfft(one, 2 * len(one)).conj() * np.fft.rfft(two, 2 * len(two)))
    alike = np.abs(lags).max() / np.sqrt((one**2).sum() * (two**2).sum())  # 1 for the same sound at any shift
    assert alike < 0.7


def test_seeds_change_tempo_key_and_chords():
    scores = [synth.compose(np.random.default_rng(seed), 44100 * 8, 44100) for seed in range(20)]
    assert all(80 <= score.bpm <= 150 for score in scores)
    assert len({round(score.bpm) for score in scores}) > 10
    assert len({(score.tonic, score.scale) for score in scores}) > 8
    assert len({score.progression for score in scores}) > 4


def test_every_bar_is_played_by_three_stems_and_some_stems_rest():
    scores = [synth.compose(np.random.default_rng(seed), 44100 * 16, 44100) for seed in range(20)]
    playing = [np.stack(list(score.plays.values())) for score in scores]
    assert all((bars.sum(0) >= 3).all() for bars in playing)
    assert any(not bars.all() for bars in playing)
    assert all(bars.any(1).all() for bars in playing)


def test_the_mixture_peaks_between_3_and_1_db_below_full_scale(songs):
    for song in songs.values():
        peak = np.abs(np.sum(list(song.values()), axis=0, dtype=np.int32)).max()
        assert -3.05 < 20 * np.log10(peak / 32768) < -0.95


def test_stems_are_as_loud_as_in_music_and_have_no_dc(songs):
    for song in songs.values():
        mixture = np.sum(list(song.values()), axis=0, dtype=np.int32)
        for name, stem in song.items():
            assert -14 < rms_db(stem) - rms_db(mixture) < -3, name
            assert 20 * np.log10(np.abs(stem.mean(-1)).max() + 1e-9) < rms_db(stem) - 50, name


def test_each_stem_has_the_spectrum_of_its_instrument(songs):
    for song in songs.values():
        assert share(song["bass"], 25, 400) > 0.9
        assert share(song["bass"], 4000, 22050) < 1e-3
        assert share(song["vocals"], 80, 5000) > 0.8
        assert share(song["guitar"], 70, 5000) > 0.8
        assert share(song["other"], 70, 5000) > 0.8
        hats = {name: share(stem, 7000, 16000) * 10 ** (rms_db(stem) / 10) for name, stem in song.items()}
        assert hats["drums"] > 2 * max(level for name, level in hats.items() if name != "drums")


def test_the_voice_is_harmonic_and_the_drums_are_not(songs):
    for seed, song in songs.items():
        voice = np.median([harmonicity(frame) for frame in loud_frames(song["vocals"])])
        noise = np.random.default_rng(seed).standard_normal(2048)
        assert voice > 0.8
        assert harmonicity(noise) < 0.5 < voice  # the measure itself tells them apart


def test_the_voice_wavers_around_its_pitch():
    """A held pitch would have one frequency; the sung one moves by half a semitone once the vibrato has set in."""
    rate, pitch = 44100, 60
    voice = synth.note(synth.VOICE._replace(harmonics=(1.0,)), pitch, rate, rate)
    rising = np.flatnonzero((voice[:-1] < 0) & (voice[1:] >= 0))
    start = rising - voice[rising] / (voice[rising + 1] - voice[rising])  # between the samples
    sung = 69 + 12 * np.log2(rate / np.diff(start) / 440)
    early, late = sung[rising[1:] < 0.09 * rate], sung[(rising[1:] > 0.35 * rate) & (rising[1:] < 0.9 * rate)]
    assert early == pytest.approx(pitch, abs=0.05)
    assert (late.max() - pitch, late.min() - pitch) == pytest.approx((0.5, -0.5), abs=0.1)


@pytest.mark.parametrize("pitch", [40, 52, 64, 76])
def test_a_plucked_note_is_in_tune_and_fades(pitch):
    sound = synth.note(synth.GUITAR, pitch, 44100, 44100)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(44100), 8 * 44100))
    f0_hz = 440 * 2 ** ((pitch - 69) / 12)
    near = slice(round(8 * f0_hz * 0.97), round(8 * f0_hz * 1.03))
    found_hz = (near.start + np.argmax(spectrum[near])) / 8
    assert abs(1200 * np.log2(found_hz / f0_hz)) < 5  # cents
    assert rms_db(sound[-4410:]) < rms_db(sound[:4410]) - 12


def test_no_harmonic_folds_back():
    """At a rate of 8 kHz only the harmonics below 4 kHz are made: of 1,046.5 Hz three."""
    rate = 8000
    sound = synth.note(synth.Timbre((1.0, 1.0, 1.0, 1.0, 1.0), 0.01, 0.01), 84, rate, rate)
    power_of = np.abs(np.fft.rfft(sound * np.hanning(rate))) ** 2
    peaks = [power_of[round(k * 1046.5) - 10 : round(k * 1046.5) + 10].sum() for k in (1, 2, 3)]
    assert peaks == pytest.approx(3 * [power_of.sum() / 3], rel=1e-3)


@pytest.mark.parametrize(("seed", "seconds"), [(-1, 2.0), (0, 0.5)])
def test_a_song_that_cannot_be_made_is_refused(seed, seconds):
    with pytest.raises(ValueError, match="at least 1 second"):
        synthesise_song(seed, seconds)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_the_folder_has_the_layout_of_musdb(made):
    tracks = sorted(str(p.relative_to(made)) for p in made.glob("*/*") if p.is_dir())
    names = ["test/builtin-test-01", "train/builtin-train-01", "train/builtin-train-02", "valid/builtin-valid-01"]
    assert tracks == names
    for track in tracks:
        assert {p.name for p in (made / track).iterdir()} == {f"{name}.wav" for name in ("mixture", *STEMS)}
        info = sf.info(made / track / "mixture.wav")
        assert (info.samplerate, info.channels, info.subtype) == (44100, 2, "PCM_16")
        assert info.frames == 44100


def test_mixtures_are_the_sums_of_their_stems_to_the_last_bit(made):
    for folder in made.glob("*/*/"):
        audio = {p.stem: sf.read(p, dtype="int16")[0].astype(np.int64) for p in folder.glob("*.wav")}
        mixture = audio.pop("mixture")
        assert np.array_equal(mixture, sum(audio.values()))
        assert np.abs(mixture).max() < 32000


def test_no_song_comes_twice_in_any_split(made):
    mixtures = [p.read_bytes() for p in made.glob("*/*/mixture.wav")]
    assert len(set(mixtures)) == len(mixtures) == 4
    seeds = [seed for which in (0, 1) for seed, *_ in synth._tracks(synth._manifest(synth.DEFAULT_TRACKS, 16.0, which))]
    assert len(set(seeds)) == len(seeds)


def test_the_folder_says_that_it_is_synthetic(made):
    readme = (made / "README.txt").read_text(encoding="utf-8")
    assert "SYNTHETIC" in readme
    assert "refined_bsrnn" in readme
    assert "CC0" in readme
    assert "synthetic" in json.loads((made / MANIFEST).read_text())["about"]


def test_the_same_arguments_give_the_same_bytes(made, tmp_path):
    calls: list[tuple[int, int]] = []
    again = write_band(tmp_path / "again", SMALL, seconds=1.0, seed=5, on_track=lambda *call: calls.append(call))
    assert files_of(again) == files_of(made)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_complete_folder_is_returned_untouched(band, monkeypatch):
    monkeypatch.setattr(synth, "synthesise_song", lambda *_: pytest.fail("made again"))
    before = {p: p.stat().st_mtime_ns for p in band.rglob("*")}
    assert write_band(band, SMALL, seconds=1.0, seed=5) == band
    assert {p: p.stat().st_mtime_ns for p in band.rglob("*")} == before


def test_other_arguments_make_other_songs_in_place(band, made):
    write_band(band, {"train": 1}, seconds=1.0, seed=6)
    assert [p.name for p in band.glob("*/*")] == ["builtin-train-01"]
    assert sf.info(band / "train/builtin-train-01/bass.wav").frames == 44100
    assert [p.name for p in band.parent.iterdir()] == ["root"]


@pytest.mark.usefixtures("quick_songs")
@pytest.mark.parametrize("spoil", ["no manifest", "missing file", "short file", "broken manifest"])
def test_a_half_made_folder_is_made_again(band, made, spoil):
    victim = band / "valid/builtin-valid-01/other.wav"
    if spoil == "no manifest":
        (band / MANIFEST).unlink()
        victim.unlink()
    elif spoil == "missing file":
        victim.unlink()
    elif spoil == "short file":
        victim.write_bytes(victim.read_bytes()[:-4])
    else:
        (band / MANIFEST).write_text('{"about": ')
        victim.write_bytes(b"")
    write_band(band, SMALL, seconds=1.0, seed=5)
    assert files_of(band) == files_of(made)
    assert [p.name for p in band.parent.iterdir()] == ["root"]


def test_a_crash_leaves_nothing_behind(tmp_path):
    def crash(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_band(tmp_path / "root", SMALL, seconds=1.0, on_track=crash)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_go(tmp_path):
    old = tmp_path / ".root-0123"
    (old / "root/train").mkdir(parents=True)
    (old / LOCK).touch()  # which nobody holds any more
    with owned_folder(tmp_path, ".root-") as new:  # another process is at work in it
        write_band(tmp_path / "root", {"train": 1}, seconds=1.0)
        assert (old.exists(), new.exists()) == (False, True)


def test_the_slower_of_two_processes_uses_what_the_quicker_made(tmp_path):
    root, arguments = tmp_path / "root", {"n_tracks": {"train": 1}, "seconds": 1.0}
    quicker: dict[Path, int] = {}

    def another_process(_done: int, _total: int) -> None:
        write_band(root, **arguments)
        quicker.update({p: p.stat().st_ino for p in root.rglob("*")})

    assert write_band(root, **arguments, on_track=another_process) == root
    assert {p: p.stat().st_ino for p in root.rglob("*")} == quicker != {}
    assert list(tmp_path.iterdir()) == [root]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    own = tmp_path / "root/train/My Song/vocals.wav"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"years of work")
    with pytest.raises(DataError, match="My Song"):
        write_band(tmp_path / "root", SMALL, seconds=1.0)
    assert own.read_bytes() == b"years of work"


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dev.*train, valid, test"):
        write_band(tmp_path / "root", {"dev": 1})


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default band is one short song here, and no variable of the machine counts."""
    monkeypatch.setattr(synth, "DEFAULT_TRACKS", {"train": 1, "valid": 0, "test": 0})
    monkeypatch.setattr(write_band, "__defaults__", (None, 1.0, 0, None))
    monkeypatch.delenv("REFINED_BSRNN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.mark.usefixtures("quick_band")
def test_the_cache_is_where_the_variables_say(tmp_path, monkeypatch):
    name = f"builtin-stems-v{synth.GENERATOR_VERSION}-seed0"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert builtin_root() == tmp_path / "home/.cache/refined_bsrnn" / name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert builtin_root() == tmp_path / "xdg/refined_bsrnn" / name
    monkeypatch.setenv("REFINED_BSRNN_CACHE", str(tmp_path / "own"))
    assert builtin_root() == tmp_path / "own" / name
    assert builtin_root(tmp_path / "named") == tmp_path / "named" / name
    assert (tmp_path / "named" / name / "train/builtin-train-01/mixture.wav").is_file()


@pytest.mark.usefixtures("quick_band")
@pytest.mark.parametrize("in_the_way", ["cache", "cache/builtin-stems"])
def test_a_file_in_the_way_is_told(tmp_path, in_the_way):
    name = f"builtin-stems-v{synth.GENERATOR_VERSION}-seed0"
    file = tmp_path / in_the_way.replace("builtin-stems", name)
    file.parent.mkdir(exist_ok=True)
    file.write_text("a file")
    with pytest.raises(DataError, match=r"cache.*set REFINED_BSRNN_CACHE"):
        builtin_root(tmp_path / "cache")
    assert file.read_text() == "a file"


@pytest.mark.usefixtures("quick_band")
def test_a_disk_that_fills_up_is_told_and_left_clean(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synth, "write_wav", full)
    with pytest.raises(DataError, match=r"the disk is full.*set REFINED_BSRNN_CACHE"):
        builtin_root(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick_band")
def test_a_disk_too_small_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(synth.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(synth, "synthesise_song", lambda *_: pytest.fail("work was done"))
    with pytest.raises(DataError, match=r"MB free.*set REFINED_BSRNN_CACHE"):
        builtin_root(tmp_path)
