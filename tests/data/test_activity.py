"""Active segments: the specification's vectors, the cached table, and excerpts drawn from it."""

import datasets
import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.data import activity
from refined_bsrnn.data.activity import ActivityPart, active_segments, active_starts, chunk_energies
from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.names import REST
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import tracks_of
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.errors import DataError
from refined_bsrnn.recipe import DataSpec
from tests.conftest import RATE, micro_recipe

RATE_HZ = 44100
SEGMENTS = 19  # of 60 s


def starts(audio, energy, rate_hz=RATE_HZ):
    """From (samples,): which of the segments every 3 s are active."""
    signal = torch.from_numpy(audio)[None]

    def read(start, n_samples):
        return signal[:, start : start + n_samples]

    energies = chunk_energies(read, len(audio), rate_hz, energy)
    found = active_starts(energies, round(0.6 * rate_hz))
    assert not (found % (3 * rate_hz)).any()
    return (found // (3 * rate_hz)).tolist()


@pytest.fixture(scope="module")
def vectors():
    """The specification's, one after the other from one generator: a burst in silence, noise, the burst with bleed."""
    random = np.random.default_rng(0)
    burst = np.zeros(60 * RATE_HZ)
    burst[20 * RATE_HZ : 40 * RATE_HZ] = 0.1 * random.standard_normal(20 * RATE_HZ)
    noise = 0.1 * random.standard_normal(60 * RATE_HZ)
    return {"burst": burst, "noise": noise, "bleed": burst + 0.002 * random.standard_normal(60 * RATE_HZ)}


@pytest.mark.parametrize("energy", ["rms", "power"])
def test_a_burst_in_silence(vectors, energy):
    assert starts(vectors["burst"], energy) == list(range(6, 13))


@pytest.mark.parametrize("energy", ["rms", "power"])
def test_silence_has_no_active_segment(energy):
    assert starts(np.zeros(60 * RATE_HZ), energy) == []


@pytest.mark.parametrize("energy", ["rms", "power"])
def test_the_quantile_of_the_track_rejects_a_few_segments_of_stationary_noise(vectors, energy):
    assert len(starts(vectors["noise"], energy)) == 17


def test_whether_bleed_counts_depends_on_the_energy(vectors):
    """Noise of −54 dBFS under everything: above −60 dBFS (rms), below −30 (power)."""
    assert len(starts(vectors["bleed"], "rms")) == SEGMENTS
    assert starts(vectors["bleed"], "power") == list(range(6, 13))


def test_energies_by_hand_and_in_blocks():
    """Two channels, 0.6 s chunks; a tail that is no whole chunk is left out; silence is 1e-5."""
    audio = torch.zeros(2, 1000)
    audio[0, 60:120] = 0.5
    pieces = []

    def read(start, n_samples):
        pieces.append(n_samples)
        return audio[:, start : start + n_samples]

    energies = chunk_energies(read, 1000, 100, "rms")
    assert len(energies) == 16
    assert energies[1] == pytest.approx(np.sqrt(0.125))
    assert energies[0] == 1e-5
    assert len(pieces) == 1
    assert chunk_energies(read, 1000, 100, "power")[1] == pytest.approx(0.125)
    many = chunk_energies(lambda start, n: torch.full((1, n), float(start)), 250 * 60, 100, "rms")
    assert len(many) == 250
    assert sorted(set(many.tolist())) == [1e-5, 6000.0, 12000.0]  # in blocks of a minute


def test_a_track_under_six_seconds_has_no_segment():
    assert starts(0.1 * np.ones(5 * RATE_HZ), "rms") == []


# --- the table


def noisy(path, loud_seconds, seconds=24, rate=RATE):
    """A stereo file that is loud from … to … and silent elsewhere."""
    samples = np.zeros((seconds * rate, 2))
    start, stop = (round(s * rate) for s in loud_seconds)
    samples[start:stop] = 0.2 * np.random.default_rng(len(str(path))).standard_normal((stop - start, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return samples


@pytest.fixture
def long_songs(tmp_path):
    """Two songs of 24 s: vocals sound from 12 s on, drums in the first 9 s."""
    for name in ("a", "b"):
        folder = tmp_path / "songs" / "train" / name
        total = noisy(folder / "vocals.wav", (12, 24)) + noisy(folder / "drums.wav", (0, 9))
        soundfile.write(folder / "mixture.wav", total, RATE, subtype="FLOAT")
    return tmp_path / "songs"


def parts_of(root, targets=("vocals",), **spec):
    tracks = tracks_of(track_table(root, ["train"]))
    return make_parts(tracks, list(targets), DataSpec(excerpts="active", **spec))


def active_of(root, **spec):
    """(track, part) → the first samples of its active segments."""
    songs = parts_of(root, **spec).songs
    return {(song.track.name, part): starts.tolist() for song in songs for part, starts in song.active.items()}


def test_each_part_has_segments_of_its_own(long_songs):
    parts = parts_of(long_songs)
    assert set(parts.songs[0].active) == {"vocals", "drums"}
    assert (parts.songs[0].active["vocals"] / RATE).tolist() == [12, 15, 18]
    assert (parts.songs[0].active["drums"] / RATE).tolist() == [0, 3]
    assert any("10 active segments of 6 s (data.energy=rms); 0 of 4 parts have none" in note for note in parts.notes)


def test_the_table_is_made_once_and_says_how(long_songs, tmp_path, monkeypatch):
    before = active_of(long_songs)
    (path,) = (tmp_path / "cache" / "activity").glob("*.parquet")
    rows = datasets.Dataset.from_parquet(str(path))
    assert set(rows["energy"][:]) == {"rms"}
    assert set(rows["segment_seconds"][:]) == {6.0}
    monkeypatch.setattr(activity, "chunk_energies", None)  # nothing is read again
    assert active_of(long_songs) == before
    long_songs.rename(tmp_path / "elsewhere")  # the same content elsewhere
    assert active_of(tmp_path / "elsewhere") == before
    with pytest.raises(TypeError):  # another energy is another table
        parts_of(tmp_path / "elsewhere", energy="power")


def test_a_damaged_table_is_made_again(long_songs, tmp_path):
    before = active_of(long_songs)
    (path,) = (tmp_path / "cache" / "activity").glob("*.parquet")
    path.write_bytes(b"")
    assert active_of(long_songs) == before


def test_changed_content_is_another_table(long_songs):
    before = active_of(long_songs)
    noisy(long_songs / "train" / "a" / "vocals.wav", (6, 24))
    assert len(active_of(long_songs)["a", "vocals"]) > len(before["a", "vocals"])


def test_excerpts_begin_in_the_active_segments_of_their_part(long_songs):
    """A remix takes each part from where it sounds; one song, from where a target does."""
    recipe = micro_recipe(long_songs, targets=["vocals"], train={"chunk_seconds": 3.0})
    mixes = RandomMixes(parts_of(long_songs), recipe, 40)
    for example in (mixes[i] for i in range(40)):
        loud = example["stems"][0].abs().amax(0) > 1e-3
        assert loud.float().mean() > 0.9
        rest = (example["mixture"] - example["stems"][0]).abs().amax(0) > 1e-3
        assert rest.any()
    together = RandomMixes(parts_of(long_songs), micro_recipe(long_songs, targets=["vocals"], augment={"remix": 0}), 20)
    assert all(together[i]["stems"].any() for i in range(20))


def test_excerpts_end_in_the_active_segments_too(long_songs):
    recipe = micro_recipe(long_songs, targets=["drums"], train={"chunk_seconds": 3.0})
    planner = RandomMixes(parts_of(long_songs, ("drums",)), recipe, 40)
    starts = [e.start for i in range(40) for e in planner.plan(i).excerpts if "drums" in e.parts]
    assert len(starts) == 40
    assert max(starts) <= 6 * RATE  # the last segment ends at 9 s
    assert max(starts) > 5 * RATE


def test_the_rest_of_a_mixture_has_segments_too(long_songs):
    for name in ("a", "b"):
        (long_songs / "train" / name / "drums.wav").unlink()
    parts = parts_of(long_songs)
    assert (parts.songs[0].active[REST] / RATE).tolist() == [0, 3]


def test_tracks_without_a_segment(songs):
    with pytest.raises(
        DataError, match="no part of 3 tracks has an active segment of 6 s .* need data.excerpts=random"
    ):
        parts_of(songs)


def test_a_cache_that_cannot_be_written(long_songs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFINED_BSRNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="file/activity cannot be written .* set REFINED_BSRNN_CACHE"):
        parts_of(long_songs)


def test_of_two_processes_one_makes_the_table(tmp_path):
    """The second waits for the lock and finds the table there."""
    from concurrent.futures import ThreadPoolExecutor

    reads = []

    def read(start, n_samples):
        reads.append(start)
        return torch.ones(1, n_samples)

    parts = [ActivityPart("same", "track", "drums", 20 * RATE, RATE, read)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: active_segments(parts, "rms", tmp_path / "tables"), range(2)))
    assert reads == [0]
    assert found[0][0].tolist() == found[1][0].tolist()
