"""The separator: lengths, rates, channels, seams."""

import gc
import io
import re
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refined_bsrnn.audio import resample
from refined_bsrnn.errors import AudioError, RecipeError, UserError
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.separation.chunks import BatchSize, cut_chunks, fade_weights, overlap_add
from refined_bsrnn.separation.device import check_device, compute_a_little
from refined_bsrnn.separation.separator import Separator
from refined_bsrnn.separation.source import Source
from tests.conftest import RATE, micro_recipe

ROOT = Path(__file__).parents[2]


class Identity(BSRNN):
    """Every head gives the mixture back."""

    def forward(self, mixture, targets=None, level=None):
        return {target: mixture.clone() for target in self.check_targets(targets)}


def separator(model=BSRNN, recipe=None, **options):
    torch.manual_seed(0)
    return Separator(model.from_recipe(micro_recipe(None, **(recipe or {}))), **options)


def noise(channels, length, seed=0):
    return 0.1 * torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))


def joined(blocks):
    blocks = list(blocks)
    return {name: torch.cat([block[name] for block in blocks], dim=1) for name in blocks[0]}


@given(
    length=st.integers(1, 500),
    chunk=st.integers(1, 120),
    share=st.floats(0, 0.99),
    block=st.integers(1, 200),
    batch=st.integers(1, 5),
)
def test_chunks_cover_everything_and_fit_together(length, chunk, share, block, batch):
    overlap = min(round(share * chunk), chunk - 1)
    signal = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    chunks = list(cut_chunks(signal.split(block, dim=1), chunk, overlap))
    bounds = reference_bounds(length, chunk, overlap)
    assert [(start, start + piece.shape[1]) for start, piece in chunks] == bounds
    for start, piece in chunks:
        assert torch.equal(piece, signal[:, start : start + chunk])
    # a function that is not the identity and that differs from chunk to chunk
    whole = torch.zeros(length, dtype=torch.float64)
    weight = torch.zeros(length, dtype=torch.float64)
    for start, stop in bounds:
        fade = fade_weights(stop - start, overlap).double()
        whole[start:stop] += fade * (signal[0, start:stop] + signal[1, start:stop].mean())
        weight[start:stop] += fade

    def run(pieces):
        return pieces[:, :1] + pieces[:, 1:].mean(2, keepdim=True)

    blocks = list(overlap_add(signal.split(block, dim=1), chunk, overlap, run, BatchSize(batch, grows=False)))
    torch.testing.assert_close(torch.cat(blocks, dim=1)[0].double(), whole / weight, atol=1e-5, rtol=0)


def reference_bounds(length, chunk, overlap):
    starts = [0]
    while starts[-1] + chunk < length:
        starts.append(starts[-1] + chunk - overlap)
    starts[-1] = max(0, length - chunk)
    return [(start, min(start + chunk, length)) for start in starts]


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 30000),
    channels=st.integers(1, 8),
    rate=st.sampled_from([4000, 8000, 11025, 44100, 44101, 96000, 192000]),
    chunk_seconds=st.sampled_from([0.1, 0.37, 5.0]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    shifts=st.sampled_from([1, 1, 3]),
    batch=st.sampled_from(["auto", 2]),
)
def test_the_output_contract(length, channels, rate, chunk_seconds, overlap, shifts, batch):
    """The input's rate, length and channels; no seam."""
    mixture = noise(channels, length, length)
    options = {"chunk_seconds": chunk_seconds, "overlap": overlap, "shifts": shifts, "batch": batch}
    blocks = list(separator(Identity, **options).stream(mixture, rate))
    assert all(block["vocals"].shape == block["drums"].shape for block in blocks)
    estimates = joined(blocks)
    assert {name: x.shape for name, x in estimates.items()} == {"vocals": mixture.shape, "drums": mixture.shape}
    if rate == RATE:  # no resampling: exact
        assert (estimates["drums"] - mixture).abs().max() < 1e-5
    elif rate > RATE and length > rate // 4:  # what the network's rate can hold comes back
        wanted = resample(resample(mixture, rate, RATE), RATE, rate)[:, :length]
        assert (estimates["drums"] - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("rate", [RATE, 11025])
@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"input": {"normalise": "peak"}},
        {"backbone": {"features": 4, "repeats": 1, "stereo": "tac"}},
        {"backbone": {"features": 4, "repeats": 1, "stereo": "joint"}},
    ],
)
def test_a_stream_is_the_whole(rate, recipe, tmp_path):
    """A real network, from a file read block by block, against one chunk that holds everything and plain resampling."""
    mixture = noise(2, 3 * rate + 17)
    soundfile.write(tmp_path / "a.wav", mixture.numpy().T, rate, subtype="FLOAT")
    s = separator(recipe=recipe, chunk_seconds=10.0)
    whole = s.separate(mixture, rate)
    streamed = joined(s.stream(tmp_path / "a.wav"))
    with torch.no_grad():
        plain = s.model(resample(mixture, rate, RATE)[None])["vocals"][0]
    for name in whole:
        torch.testing.assert_close(streamed[name], whole[name], atol=1e-6, rtol=0)
    assert whole["vocals"].abs().max() > 1e-4
    torch.testing.assert_close(whole["vocals"], resample(plain, RATE, rate)[:, : mixture.shape[1]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalise", ["none", "peak", "standardise"])
def test_chunks_of_a_file_are_those_of_its_waveform(normalise, tmp_path):
    """Over many chunks and batches, and with a level that is measured over the whole track first."""
    mixture = 0.1 * noise(2, 5 * RATE)
    mixture[:, 30000:30010] *= 20  # the peak is in one chunk only
    soundfile.write(tmp_path / "a.flac", mixture.numpy().T, RATE, subtype="PCM_24")
    s = separator(recipe={"input": {"normalise": normalise}}, chunk_seconds=0.7, overlap=0.5)
    in_pairs = separator(recipe={"input": {"normalise": normalise}}, chunk_seconds=0.7, overlap=0.5, batch=3)
    from_file = joined(s.stream(tmp_path / "a.flac"))["drums"]
    torch.testing.assert_close(from_file, s.separate(mixture)["drums"], atol=1e-5, rtol=0)
    torch.testing.assert_close(from_file, in_pairs.separate(mixture)["drums"], atol=1e-5, rtol=0)
    # by hand: every chunk with the level of the track
    level = s.model.level(mixture[None], of_whole_track=True)
    assert (level is None) == (normalise != "peak")
    total, weight = torch.zeros(2, 5 * RATE), torch.zeros(5 * RATE)
    for start, stop in reference_bounds(5 * RATE, s.chunk, s.overlap):
        with torch.no_grad():
            estimate = s.model(mixture[None, :, start:stop], ["drums"], level=level)["drums"][0]
        fade = fade_weights(stop - start, s.overlap)
        total[:, start:stop] += estimate * fade
        weight[start:stop] += fade
    torch.testing.assert_close(from_file, total / weight, atol=1e-5, rtol=0)


def test_away_from_borders_chunks_are_the_whole():
    """A network without memory beyond its frames: chunks whose borders lie on the STFT's grid change nothing inside."""
    recipe = {"backbone": {"features": 4, "repeats": 1, "norm": "ln", "time": "conv"}}
    s = separator(recipe=recipe, chunk_seconds=2.048, overlap=0.5)
    mixture = noise(1, 40000)
    with torch.no_grad():
        whole = s.model(mixture[None])["drums"][0]
    first = slice(0, s.chunk - s.overlap - 31 * 64)  # the convolutions see 31 frames
    chunked = s.separate(mixture)["drums"]
    torch.testing.assert_close(chunked[:, : s.chunk // 4], whole[:, : s.chunk // 4], atol=1e-5, rtol=0)
    assert (chunked - whole)[:, first].abs().max() < 1e-5
    seam = s.chunk - s.overlap
    assert (chunked - whole)[:, seam : seam + s.overlap].abs().max() < 0.1 * whole.abs().max()


def test_surround_goes_in_pairs():
    """5.1 (L R C LFE Ls Rs): stereo pairs together, centre and LFE each with itself."""
    mixture = noise(6, RATE)
    for stereo in ("tac", "joint"):
        s = separator(recipe={"backbone": {"features": 4, "repeats": 1, "stereo": stereo}})
        got = s.separate(mixture)["drums"]
        for pair in ([0, 1], [4, 5]):
            torch.testing.assert_close(got[pair], s.separate(mixture[pair])["drums"], atol=1e-6, rtol=0)
        for alone in (2, 3):
            twice = s.separate(mixture[[alone, alone]])["drums"].mean(0)
            torch.testing.assert_close(got[alone], twice, atol=1e-6, rtol=0)
            torch.testing.assert_close(s.separate(mixture[alone])["drums"][0], twice, atol=1e-6, rtol=0)
    apart = separator()
    got = apart.separate(mixture)["drums"]
    torch.testing.assert_close(got[4], apart.separate(mixture[4])["drums"][0], atol=1e-6, rtol=0)


def test_a_part_of_a_file(tmp_path):
    mixture = noise(1, 3 * RATE)
    soundfile.write(tmp_path / "a.wav", mixture.numpy().T, RATE, subtype="FLOAT")
    s = separator(Identity)
    part = joined(s.stream(tmp_path / "a.wav", start_seconds=1.0, duration_seconds=0.5))["drums"]
    torch.testing.assert_close(part, mixture[:, RATE : RATE + RATE // 2])
    to_the_end = joined(s.stream(mixture, start_seconds=2.5, duration_seconds=9))["drums"]
    torch.testing.assert_close(to_the_end, mixture[:, RATE * 5 // 2 :])
    assert torch.equal(joined(s.stream(mixture, duration_seconds=1e306))["drums"], s.separate(mixture)["drums"])
    for audio, name in ((tmp_path / "a.wav", "a.wav"), (mixture, "the audio")):
        for start in (3.0, 1e15, 1e306):
            with pytest.raises(AudioError, match=re.escape(f"{name} has ended before {start:g} s")):
                list(s.stream(audio, start_seconds=start))
    with pytest.raises(RecipeError, match="start -1 s"):
        s.stream(mixture, start_seconds=-1)


def test_shifts_average_over_places_of_the_borders():
    mixture = noise(1, 3 * RATE)
    s = separator(chunk_seconds=0.5, overlap=0.2, shifts=4)
    one = separator(chunk_seconds=0.5, overlap=0.2)
    step = one.chunk - one.overlap
    parts = []
    for i in range(4):
        zeros = torch.zeros(1, round(i * step / 4))
        parts.append(one.separate(torch.cat([zeros, mixture], dim=1))["drums"][:, zeros.shape[1] :])
    assert (parts[0] - parts[1]).abs().max() > 1e-5
    torch.testing.assert_close(s.separate(mixture)["drums"], torch.stack(parts).mean(0), atol=1e-6, rtol=0)


class Small(Identity):
    """Has memory for two chunks."""

    tried: list

    def forward(self, mixture, targets=None, level=None):
        self.tried.append(len(mixture))
        if len(mixture) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return super().forward(mixture, targets, level)


def test_out_of_memory_halves_the_batch_and_goes_on():
    s = separator(Small, chunk_seconds=0.1, batch=8)
    s.model.tried, s.model.room = [], 2
    mixture = noise(1, RATE * 2)
    torch.testing.assert_close(s.separate(mixture)["drums"], mixture)
    assert s.model.tried[:4] == [8, 4, 2, 2]
    assert max(s.model.tried[2:]) == 2
    s.model.room = 0
    with pytest.raises(UserError, match="memory is too small for a chunk of 800 samples. Make chunk_seconds smaller"):
        s.separate(mixture)


def test_other_errors_are_not_taken_for_memory():
    s = separator()
    s.model.backbone.forward = lambda *_: (_ for _ in ()).throw(RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        s.separate(noise(1, 100))


def test_the_batch_grows_while_that_pays():
    batch = BatchSize("auto", grows=True)
    sizes = []
    for seconds in (1.0, 1.2, 1.6, 3.2, 3.2, 3.2):  # per batch of 1, 2, 4, 8, ...
        sizes.append(batch.size)
        batch.took(batch.size, seconds)
    assert sizes == [1, 2, 4, 8, 4, 4]
    assert BatchSize("auto", grows=False).size == 1


def test_several_threads_use_one_separator():
    s = separator(chunk_seconds=0.3)
    mixtures = [noise(2, 4000 + 1000 * i, i) for i in range(6)]
    alone = [s.separate(mixture)["drums"] for mixture in mixtures]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda mixture: s.separate(mixture)["drums"], mixtures))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


def test_features():
    s = separator()
    assert s.features(np.zeros(1000)).shape == (1, 3, 16, 4)
    batch = noise(2, 3000)[None].repeat(3, 1, 1)
    apart = s.features(batch, channels="apart")
    assert apart.shape == (3, 2, 3, 47, 4)
    with torch.no_grad():
        assert torch.equal(apart, s.model.features(batch))
    features = s.features(batch)
    assert torch.equal(features, (apart[:, 0] + apart[:, 1]) / 2)
    assert torch.equal(s.features(batch[0, :1]), s.features(batch[0, :1], channels="apart")[:, 0])  # mono: the same
    assert not features.is_inference()  # others may train on them
    assert s.features(batch, 2 * RATE).shape == (3, 3, 24, 4)
    with pytest.raises(AudioError, match="shape"):
        s.features(torch.zeros(1, 0, 5))
    with pytest.raises(RecipeError, match="channels 'each'; expected 'mean' or 'apart'"):
        s.features(batch, channels="each")


MEMORY = """
import resource, sys
sys.path.insert(0, {tests!r})
from tests.separation.test_separator import Identity, separator
s = separator(Identity, chunk_seconds=6.0)
for path in sys.argv[1:]:
    print(sum(block["drums"].shape[1] for block in s.stream(path)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    """20 s, then 5 minutes of stereo at 48 kHz: the latter is 115 MB as float samples, for every head."""
    block, paths = (1000 * noise(2, 48000, 1).numpy().T).astype(np.int16), []
    for seconds in (20, 300):
        paths.append(tmp_path / f"{seconds}.wav")
        with soundfile.SoundFile(paths[-1], "w", 48000, 2, "PCM_16") as file:
            for _ in range(seconds):
                file.write(block)
    code = MEMORY.format(tests=str(ROOT))
    words = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    short, first_kib, long, second_kib = map(int, done.stdout.split())
    assert (short, long) == (20 * 48000, 300 * 48000)
    assert second_kib < first_kib + 40 * 1024


def test_a_network_that_was_in_training_is_in_eval_mode():
    model = BSRNN.from_recipe(micro_recipe(None)).train()
    ready = Separator(model)
    assert not model.training
    assert not ready.add_head("bass").training


class Gain(BSRNN):
    """Every head gives the gain that the mixture is normalised by."""

    def forward(self, mixture, targets=None, level=None):
        return {target: level.gain.expand_as(mixture) for target in self.check_targets(targets)}


def test_the_level_of_a_track_is_that_of_its_loudest_block():
    ready, audio = separator(Gain, {"input": {"normalise": "peak"}}, chunk_seconds=0.3), noise(2, RATE)
    audio[:, RATE // 3] = 2.0
    source = Source(RATE, 2, RATE, lambda: iter(audio.split(RATE // 4, 1)))
    gain = joined(ready.stream_source(source, ["drums"]))["drums"]
    torch.testing.assert_close(gain, torch.full((2, RATE), 0.1 / 2.0), atol=1e-6, rtol=0)


def test_one_chunk_equals_the_model():
    s = separator(chunk_seconds=10.0)
    mixture = torch.randn(2, 3 * RATE)
    with torch.inference_mode():
        assert torch.allclose(s.separate(mixture)["vocals"], s.model(mixture[None])["vocals"][0], atol=1e-6)


def test_a_chunk_may_be_longer_than_any_audio():
    mixture = noise(2, RATE)
    whole = separator(chunk_seconds=1e6).separate(mixture)["drums"]
    longest = separator(chunk_seconds=1e300).separate(mixture)["drums"]
    torch.testing.assert_close(longest, whole, atol=1e-6, rtol=0)


def test_heads_that_are_loaded(tmp_path):
    separator().save_pretrained(tmp_path / "both")
    assert Separator.from_pretrained(tmp_path / "both", heads="drums").heads == ["drums"]
    assert Separator.from_pretrained(tmp_path / "both", heads=["drums", "drums"]).heads == ["drums"]


def test_only_the_heads_asked_for_run():
    s = separator()
    s.model.heads["drums"].bands = None  # running it would fail
    assert list(s.separate(torch.randn(1, 500), heads=["vocals"])) == ["vocals"]
    with pytest.raises(UserError, match="no head 'vocal'. Did you mean 'vocals'"):
        s.separate(torch.randn(1, 500), heads=["vocal"])


def test_arrays_and_single_channels_come_in_too():
    assert separator().separate(np.zeros(500))["vocals"].shape == (1, 500)


def test_progress_ends_at_one():
    seen = []
    separator(chunk_seconds=0.1).separate(torch.randn(1, RATE), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 5


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(2, 0), r"shape \(2, 0\); expected \(channels, samples\)"),
        (torch.zeros(2, 3, 4), r"shape \(2, 3, 4\)"),
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinite"),
        (np.zeros((44100, 2)), r"shape \(44100, 2\); expected \(channels, samples\), .* at most 256 channels"),
        (
            np.zeros((2, 100), np.int16),
            "type int16; expected floats, full scale at ±1: divide 16-bit integers by 32768",
        ),
        (torch.zeros(2, 100, dtype=torch.int32), "type torch.int32; expected floats"),
        (np.zeros((2, 100), complex), "type complex128; expected floats"),
        (np.full((1, 5000), 1e30), r"reaches 1e\+30, too much to calculate with; expected full scale at ±1"),
        (torch.full((1, 5000), 2e12), r"no sample above 1e\+12. Lower its level"),
    ],
)
def test_audio_that_cannot_be_used(audio, message):
    with pytest.raises(AudioError, match=message):
        separator().separate(audio)


def test_what_is_just_not_too_loud_is_separated_as_if_it_were_quiet():
    s, quiet = separator(), noise(2, RATE)
    loud = s.separate(quiet / quiet.abs().max() * 1e12)["drums"]
    torch.testing.assert_close(loud * quiet.abs().max() / 1e12, s.separate(quiet)["drums"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [0, -1, 22050.5, float("nan")])
def test_rates_that_are_none(rate):
    with pytest.raises(AudioError, match=f"the audio is at {rate} Hz; expected a whole number, at least 1"):
        separator().separate(np.zeros(500), rate)
    with pytest.raises(AudioError, match="expected a whole number"):
        separator().features(np.zeros(500), rate)


@pytest.mark.filterwarnings("error")
def test_arrays_of_any_make():
    s, audio = separator(), noise(2, 1000).numpy()
    wanted = s.separate(audio, 16000.0)["drums"]
    fixed = audio.copy()
    fixed.setflags(write=False)
    backwards = np.ascontiguousarray(audio[:, ::-1])[:, ::-1]
    for other in (fixed, backwards, np.asfortranarray(audio), audio.astype(">f4"), audio.tolist()):
        assert torch.equal(s.separate(other, 16000)["drums"], wanted)
    assert torch.equal(s.separate(torch.from_numpy(audio).requires_grad_(), 16000, "drums")["drums"], wanted)


def test_no_heads():
    with pytest.raises(UserError, match="no heads are chosen; expected some of vocals, drums"):
        separator().separate(np.zeros(500), heads=[])


def test_bad_options():
    for options in ({"batch": "x"}, {"batch": 1.5}, {"batch": 0}, {"shifts": 1.5}):
        with pytest.raises(RecipeError, match="expected whole numbers, at least 1 each, or the batch auto"):
            separator(**options)
    with pytest.raises(RecipeError, match="overlap 1.0; expected"):
        separator(overlap=1.0)
    with pytest.raises(RecipeError, match="device 'gpu7' cannot be used here"):
        check_device("gpu7")


# --- files that are open, and what is no audio


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("normalise", ["none", "peak"])  # the latter is read twice
def test_open_files(tmp_path, suffix, normalise):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(2, 3000).numpy().T, 44100)
    s = separator(recipe={"input": {"normalise": normalise}})
    wanted = s.separate(path)["drums"]
    content = path.read_bytes()
    with path.open("rb") as file, socket_of(content) as stream, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(content)
        spooled.seek(0)
        for audio in (io.BytesIO(content), file, stream, spooled, content, bytearray(content), memoryview(content)):
            assert torch.equal(s.separate(audio)["drums"], wanted)
    blocks = list(s.stream(io.BytesIO(content), start_seconds=0.05))
    gc.collect()
    assert sum(block["drums"].shape[1] for block in blocks) == wanted.shape[1] - 2205


@contextmanager
def socket_of(content):
    """A file that can be read once and not be gone back in."""
    reader, writer = socket.socketpair()
    thread = threading.Thread(target=lambda: (writer.sendall(content), writer.close()))
    thread.start()
    with reader, reader.makefile("rb") as file:
        yield file
    thread.join()


def test_what_is_kept_of_an_open_file_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1, 500).numpy().T, 16000)
    stream = separator().stream(io.BytesIO(path.read_bytes()))
    assert len(list(tmp_path.glob("refined-bsrnn-*"))) == 1
    list(stream)
    del stream
    gc.collect()
    assert list(tmp_path.iterdir()) == [path]


class Failing(io.RawIOBase):
    def read(self, n=-1):
        raise OSError(104, "Connection reset by peer")


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (io.BytesIO(b""), "the BytesIO has no bytes left to read. Go to its beginning first: file.seek(0)"),
        (io.BytesIO(b"no audio at all" * 9), "the BytesIO (135 bytes) cannot be read as audio"),
        (io.StringIO("text"), "the StringIO gives text; expected bytes: open it with the mode 'rb'"),
        (Failing(), "the Failing cannot be read: [Errno 104] Connection reset by peer"),
        (b"no audio", "the BytesIO (8 bytes) cannot be read as audio"),
        ("https://example.org/a.wav", "https://example.org/a.wav is an address; expected a file. Download it first"),
        ("s3://bucket/a.wav", "s3://bucket/a.wav is an address"),
        ("file:///tmp/a.wav", "file:///tmp/a.wav is an address"),
        (
            np.zeros((200, 2)),
            "(200, 2); expected (channels, samples), neither empty, at most 256 channels. More than 8",
        ),
        (torch.zeros(44100, 2), "if these are (samples, channels), give audio.T"),
        (np.zeros((9, 8)), "give audio.T"),
        (np.zeros((2, 0)), "(2, 0); expected (channels, samples)"),
        ([[0.0, 1.0], [0.0]], "audio is no array of numbers"),
        (None, "audio is of the type object"),
        ({"a": 1}, "audio is of the type object"),
        (np.array("song.wav"), "audio is of the type"),
    ],
)
def test_what_is_no_audio(audio, message):
    with pytest.raises(AudioError) as caught:
        separator().separate(audio)
    assert message in str(caught.value)


def test_shapes_that_are_not_doubtful():
    for shape in ((8, 1), (2, 1), (6, 3), (9, 9), (256, 256)):
        assert separator().separate(np.zeros(shape))["drums"].shape == shape


def test_the_rate_of_a_file_is_its_own(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1, 500).numpy().T, 44100)
    for audio in (path, str(path), path.read_bytes()):
        with pytest.raises(AudioError, match=r"the file is at 44100 Hz, not at 48000 Hz. Leave out sample_rate_hz"):
            separator().separate(audio, 48000)
    assert separator().separate(path, 44100)["drums"].shape == (1, 500)
    for rate in (["drums"], "48000", None.__class__, float("nan"), 44100.5, -1):
        with pytest.raises(AudioError, match="expected a whole number, at least 1"):
            separator().separate(path, rate)


# --- devices


@pytest.mark.parametrize(
    ("present", "compute", "warned", "device", "message"),
    [
        (True, None, "", "cuda", ""),
        (False, None, "", "cpu", ""),
        (False, None, "The NVIDIA driver on your system is too old (found version 9). Please update", "cpu", "too old"),
        (
            True,
            RuntimeError("CUDA error: no kernel image is available\nmore"),
            "",
            "cpu",
            "(CUDA error: no kernel image",
        ),
        (True, torch.OutOfMemoryError("CUDA out of memory. Tried to"), "", "cpu", "(CUDA out of memory)"),
        (True, AssertionError("Torch not compiled with CUDA enabled"), "", "cpu", "not compiled"),
        (True, RuntimeError(""), "", "cpu", "(RuntimeError)"),
    ],
)
def test_auto_takes_what_can_be_used(present, compute, warned, device, message, monkeypatch, capsys):
    def available():
        if warned:
            warnings.warn(warned, stacklevel=2)
        return present

    def computing(name):
        if compute:
            raise compute

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("refined_bsrnn.separation.device.compute_a_little", computing)
    assert str(check_device("auto")) == device
    err = capsys.readouterr().err
    assert message in err
    assert (err != "") == (message != "")
    assert not err or (err.startswith("The device cuda is there but cannot be used (") and "the CPU is used" in err)


def test_the_trial_computation_works_where_it_can():
    compute_a_little("cpu")
