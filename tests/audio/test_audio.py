"""Reading, writing and resampling; every way a file can be bad."""

import errno
import io
import os
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refined_bsrnn.audio import (
    AudioWriter,
    Resampler,
    audio_info,
    fold_channels,
    match_channels,
    open_audio,
    quantise,
    read_audio,
    read_tags,
    resample,
    write_audio,
)
from refined_bsrnn.errors import AudioError

RATE = 22050


def noise(seconds=1.0, channels=2, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * RATE), channels))


@pytest.fixture
def song(tmp_path):
    soundfile.write(tmp_path / "song.wav", noise(), RATE)
    return tmp_path / "song.wav"


# --- reading


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.ogg", "a.mp3"])
def test_any_part_is_that_part_of_the_whole(tmp_path, name):
    soundfile.write(tmp_path / name, noise(3.0), RATE)
    whole, rate_hz = read_audio(tmp_path / name)
    assert rate_hz == RATE
    assert whole.shape[0] == 2
    assert whole.dtype == torch.float32
    assert audio_info(tmp_path / name).n_samples == whole.shape[1]
    for start, n_samples in ((0, 10), (1, 5000), (12345, 777), (whole.shape[1] - 9, 9)):
        part, _ = read_audio(tmp_path / name, start, n_samples)
        exact = 1e-7 if name == "a.mp3" else 0  # its decoder rounds as its buffers happen to lie
        torch.testing.assert_close(part, whole[:, start : start + n_samples], atol=exact, rtol=0)


@pytest.mark.parametrize(("subtype", "scale"), [("PCM_16", 2**15), ("PCM_24", 2**23), ("FLOAT", None)])
def test_samples_are_bit_true(tmp_path, subtype, scale):
    if scale:
        samples = np.random.default_rng(0).integers(-scale, scale, (1000, 2)) / scale
    else:
        samples = noise().astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype=subtype)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0].numpy().T, samples.astype(np.float32))


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "au", "caf", "flac"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_integers_become_the_floats_that_libsndfile_makes_of_them(tmp_path, suffix, subtype):
    """All of the 16-bit ones are read as they lie in the file and made floats here."""
    path = tmp_path / f"a.{suffix}"
    every = np.arange(-(2**15), 2**15, dtype=np.int16)
    soundfile.write(path, np.stack([every, every[::-1]], 1), RATE, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    got, _ = read_audio(path)
    assert got.is_contiguous()
    assert np.array_equal(got.numpy(), expected.T)


def test_info(song):
    info = audio_info(song)
    assert (info.n_samples, info.sample_rate_hz, info.n_channels, info.seconds) == (RATE, RATE, 2, 1.0)


@pytest.mark.parametrize("read", [audio_info, read_audio])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"bad.wav is empty \(0 bytes\)"),
        (
            b"this is a text, not audio" * 20,
            r"bad.wav \(500 bytes\) cannot be read as audio: invalid data .*export it as wav",
        ),
        (b"RIFF", "cannot be read as audio"),
    ],
)
def test_files_that_are_no_audio(tmp_path, read, content, message):
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(AudioError, match=message):
        read(tmp_path / "bad.wav")


@pytest.mark.parametrize("read", [audio_info, read_audio])
def test_missing_files_folders_and_unknown_formats(tmp_path, read):
    with pytest.raises(AudioError, match="there is no file .*nowhere.wav"):
        read(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "song.m4a").write_bytes(b"\0\0\0 ftypM4A " + bytes(500))
    with pytest.raises(AudioError, match=r"song.m4a \(512 bytes\) cannot be read as audio"):
        read(tmp_path / "song.m4a")
    (tmp_path / "song.raw").write_bytes(bytes(500))
    with pytest.raises(AudioError, match="song.raw (.* cannot be read as audio|has no sound)"):
        read(tmp_path / "song.raw")


def test_a_file_without_samples(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(AudioError, match="none.wav holds no samples"):
        audio_info(tmp_path / "none.wav")


@pytest.mark.parametrize("length", [0, 0x7FFFF024, 0xFFFFFFFF])
def test_a_wav_of_unknown_length_is_read(song, length):
    """Programs that stream a wav cannot go back to write its length."""
    data = bytearray(song.read_bytes())
    data[4:8] = length.to_bytes(4, "little")
    song.write_bytes(bytes(data))
    assert read_audio(song)[0].shape == (2, RATE)


def test_an_mp3_without_its_length_is_decoded_to_the_end(tmp_path):
    """libsndfile would guess from the first frame and drop the rest of the song."""
    soundfile.write(tmp_path / "a.mp3", noise(3.0), RATE)
    whole = read_audio(tmp_path / "a.mp3")[0]
    data = (tmp_path / "a.mp3").read_bytes()
    assert data.count(b"Xing") + data.count(b"Info") == 1
    (tmp_path / "b.mp3").write_bytes(data.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4)))
    untagged = read_audio(tmp_path / "b.mp3")[0]
    assert 3 * RATE <= untagged.shape[1] < 3 * RATE + 4000  # with the encoder's padding, which the tag told of
    assert audio_info(tmp_path / "b.mp3").n_samples == untagged.shape[1]
    lag = max(range(3000), key=lambda i: float((untagged[0, i : i + RATE] * whole[0, :RATE]).sum()))
    torch.testing.assert_close(untagged[:, lag : lag + 3 * RATE], whole, atol=2e-4, rtol=0)


def test_an_mp3_with_names_and_pictures_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", noise(3.0), RATE)
    picture = b"ID3\x04\0\0" + bytes([0, 1, 2, 3]) + bytes(1 << 14 | 2 << 7 | 3)
    (tmp_path / "b.mp3").write_bytes(2 * picture + (tmp_path / "a.mp3").read_bytes())
    assert torch.equal(read_audio(tmp_path / "b.mp3")[0], read_audio(tmp_path / "a.mp3")[0])


def test_a_streamed_flac_is_decoded_to_the_end(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(), RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # STREAMINFO: 36 bits of length, 0 where it is not known
    data[22:26] = bytes(4)
    (tmp_path / "b.flac").write_bytes(bytes(data))
    assert torch.equal(read_audio(tmp_path / "b.flac")[0], read_audio(tmp_path / "a.flac")[0])
    assert audio_info(tmp_path / "b.flac").n_samples == RATE


# --- what only FFmpeg reads


def encode(path, samples, codec, rate=44100, video=False):
    """(n, channels) float32 into any container."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if codec == "wmav2":
            stream.bit_rate = 128_000
        if video:
            picture = container.add_stream("mpeg4", rate=25, width=16, height=16, pix_fmt="yuv420p")
            container.mux(picture.encode(av.VideoFrame(16, 16, "yuv420p")))
            container.mux(picture.encode())
        if not stream.codec_context.is_open:
            stream.codec_context.open()
        step = stream.codec_context.frame_size
        for start in range(0, len(samples), step):
            part = np.ascontiguousarray(samples[start : start + step].T, np.float32)
            frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for converted in av.AudioResampler(stream.format.name, layout, rate).resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode())
    return path


def tone(n_samples, channels=2, rate=44100, hz=30):
    t = np.arange(n_samples)[:, None] / rate
    return (0.3 * np.sin(2 * np.pi * hz * (1 + np.arange(channels)) * t)).astype(np.float32)


@pytest.mark.parametrize("n_samples", [2000, 44100, 150001])
@pytest.mark.parametrize(
    ("name", "codec", "video", "bits"),
    [
        ("a.m4a", "aac", False, None),
        ("a.mp4", "aac", True, None),
        ("a.mka", "flac", False, 16),
        ("a.m4a", "alac", False, 24),
    ],
)
def test_what_ffmpeg_reads(tmp_path, name, codec, video, bits, n_samples):
    samples = tone(n_samples, hz=300)
    path = encode(tmp_path / name, samples, codec, video=video)
    info = audio_info(path)
    assert (info.n_samples, info.n_channels, info.sample_rate_hz) == (n_samples, 2, 44100)
    whole, _ = read_audio(path)
    error = whole.numpy().T - samples
    if bits:
        assert np.abs(error).max() < 2**-15
    else:  # the encoder is no good at tones, but where it puts them is told by their phase
        assert (error[1500:-1500] ** 2).sum() <= 0.05 * (samples[1500:-1500] ** 2).sum()
    for start, wanted in ((0, 10), (1, n_samples - 1), (n_samples - 9, 9), (n_samples * 2 // 3, 100)):
        # AAC has the decoder make up noise, which goes on from what was decoded before
        part, exact = read_audio(path, start, wanted)[0], 0 if bits else 1e-5
        torch.testing.assert_close(part, whole[:, start : start + wanted], atol=exact, rtol=0)
    with open_audio(path) as reader:
        assert reader.lossless_bits == bits
        assert abs(reader.about_samples - n_samples) < 4000
        assert torch.equal(torch.cat(list(reader.blocks(777)), dim=1), whole)
    for start, wanted in ((-1, 4), (n_samples, 1), (n_samples - 3, 4), (n_samples, None)):
        with pytest.raises(AudioError, match=r"has .*; samples .* were asked for"):
            read_audio(path, start, wanted)
    with open_audio(path) as reader:
        assert reader.skip(10**20) == n_samples  # more than FFmpeg has numbers for


class Slow(io.BytesIO):
    """A pipe that has 1024 bytes whenever it is asked, and how much of it was taken."""

    taken = 0

    def read1(self, size=-1):
        data = super().read(1024)
        self.taken += len(data)
        return data

    read = None

    def seekable(self):
        return False


def test_a_stream_is_heard_as_it_comes(tmp_path):
    """Of a wav no more is taken than FFmpeg needs to know it, then no more than was asked for."""
    path = write_audio(tmp_path / "song.wav", torch.rand(2, 20 * RATE) - 0.5, RATE, "PCM_16")
    pipe = Slow(path.read_bytes())
    with open_audio(pipe) as reader:
        reader.read(RATE // 50)
        assert pipe.taken < 100_000  # half a second
        before = pipe.taken
        for _ in range(50):
            assert reader.read(RATE // 50).shape[1] == RATE // 50
        assert pipe.taken - before <= 4 * RATE
        assert sum(block.shape[1] for block in reader.blocks(1 << 16)) == 20 * RATE - 51 * (RATE // 50)


@pytest.mark.parametrize("after", [0, 4096, 200_000])
def test_an_interrupt_while_a_stream_is_read(tmp_path, after):
    """FFmpeg asks Python for bytes, and what is raised there must come out behind it, once."""
    path = write_audio(tmp_path / "song.wav", torch.rand(2, 20 * RATE) - 0.5, RATE, "PCM_16")

    class Interrupted(Slow):
        asked = 0

        def read1(self, size=-1):
            if self.taken < after:
                return super().read1(size)
            self.asked += 1
            raise KeyboardInterrupt

    pipe = Interrupted(path.read_bytes())
    with pytest.raises(KeyboardInterrupt), open_audio(pipe) as reader:
        list(reader.blocks(RATE // 50))
    assert pipe.asked == 1


def test_an_mp4_whose_index_is_at_its_end_is_no_stream(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w") as container:
        encoded = container.add_stream("aac", rate=44100, layout="stereo")
        for start in range(0, 1024 * 40, 1024):
            frame = av.AudioFrame.from_ndarray(np.random.default_rng(0).uniform(-1, 1, (2, 1024)).astype("f4"), "fltp")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(encoded.encode(frame))
        container.mux(encoded.encode())
    with pytest.raises(AudioError, match="its end, which cannot be read from a stream; give it as a file"):
        list(open_audio(Slow(path.read_bytes())).blocks(1024))


def test_a_stream_that_cannot_go_back(song):
    class Pipe(io.BytesIO):
        def seek(self, *_):
            raise OSError("no")

        def seekable(self):
            return False

    with open_audio(Pipe(song.read_bytes())) as reader:
        assert torch.equal(torch.cat(list(reader.blocks(1000)), dim=1), read_audio(song)[0])


def test_a_playlist_opens_nothing_else(tmp_path):
    encode(tmp_path / "a.aac", tone(44100), "aac")
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXTINF:10,", f"file://{tmp_path}/a.aac", "#EXT-X-ENDLIST", ""]
    (tmp_path / "list.m3u8").write_text("\n".join(lines))
    with pytest.raises(AudioError, match=r"list.m3u8 .* cannot be read as audio"):
        read_audio(tmp_path / "list.m3u8")


def test_a_film_without_sound(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        picture = container.add_stream("mpeg4", rate=25, width=16, height=16, pix_fmt="yuv420p")
        container.mux(picture.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(picture.encode())
    with pytest.raises(AudioError, match=r"a.mp4 has no sound: FFmpeg finds video stream 0 in it"):
        read_audio(tmp_path / "a.mp4")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_cut_off_m4a(tmp_path, keep):
    path = encode(tmp_path / "a.m4a", tone(150000), "aac")
    path.write_bytes(path.read_bytes()[: round(keep * path.stat().st_size)])
    with pytest.raises(AudioError, match=r"a.m4a .* cannot be read as audio: .*copy it again"):
        read_audio(path)


@pytest.mark.parametrize("layout", ["3.0", "5.0", "5.1", "6.1", "7.1"])
def test_channels_of_ogg_are_in_the_order_of_wav(tmp_path, layout):
    order = av.AudioLayout(layout)
    n = order.nb_channels
    audio = torch.from_numpy(tone(20000, n).T.copy())
    for suffix in ("ogg", "wav", "flac"):
        back, _ = read_audio(write_audio(tmp_path / f"a.{suffix}", audio, 44100))
        assert ((back - audio)[:, 3000:-3000].abs().amax(1) < 0.1).all(), suffix
    with av.open(str(tmp_path / "a.ogg")) as container:
        assert container.streams.audio[0].layout.name == layout


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    samples = noise()
    samples[RATE // 2, 1] = value
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"bad.wav holds NaN or infinite samples, the first at 0.500 s"):
        read_audio(tmp_path / "bad.wav")
    with pytest.raises(AudioError, match="the first at 0.500 s"):
        read_audio(tmp_path / "bad.wav", 5000, RATE - 5000)
    assert read_audio(tmp_path / "bad.wav", 0, 100)[0].shape == (2, 100)


@pytest.mark.parametrize(("start", "n_samples"), [(-1, 5), (0, RATE + 1), (RATE, None), (RATE - 3, 4), (5, 0)])
def test_parts_beyond_the_file(song, start, n_samples):
    with pytest.raises(AudioError, match=rf"has {RATE} samples; samples {start} to .* were asked for"):
        read_audio(song, start, n_samples)


# --- writing


def test_written_float_wav_comes_back_exactly_above_full_scale_too(tmp_path):
    audio = torch.randn(3, 1000) * 2
    path = write_audio(tmp_path / "new" / "a.wav", audio, RATE)
    back, rate_hz = read_audio(path)
    assert rate_hz == RATE
    assert torch.equal(back, audio)
    assert soundfile.info(path).subtype == "FLOAT"


def test_written_flac_comes_back_within_a_step(tmp_path):
    audio = torch.rand(2, 1000) - 0.5
    back, _ = read_audio(write_audio(tmp_path / "a.flac", audio, RATE))
    assert (back - audio).abs().max() <= 2**-23


def test_integers_never_clip_silently(tmp_path):
    with pytest.raises(AudioError, match=r"a.flac would clip: the peak is 6.02 dB above full scale"):
        write_audio(tmp_path / "a.flac", torch.full((1, 10), 2.0), RATE)
    with pytest.raises(AudioError, match="would clip"):
        write_audio(tmp_path / "a.wav", torch.full((1, 10), 2.0), RATE, subtype="PCM_16")
    assert not list(tmp_path.iterdir())


def test_unknown_suffix(tmp_path):
    with pytest.raises(
        AudioError, match=r"a.xyz cannot be written; expected one of the suffixes .wav, .flac, .mp3, .ogg"
    ):
        write_audio(tmp_path / "a.xyz", torch.zeros(1, 10), RATE)


@pytest.mark.parametrize(
    ("audio", "rate_hz", "subtype", "message"),
    [
        (torch.full((1, 10), torch.nan), RATE, None, "a.flac cannot be written: the audio holds NaN or infinite"),
        (torch.zeros(10), RATE, None, r"the audio has the shape \(10,\); expected \(channels, samples\)"),
        (torch.zeros(1, 2, 10), RATE, None, r"the audio has the shape \(1, 2, 10\)"),
        (torch.zeros(2, 0), RATE, None, r"the audio has the shape \(2, 0\)"),
        (torch.zeros(1, 10), RATE, "FLOAT", "with subtype FLOAT; expected one of .*PCM_24"),
        (torch.zeros(1, 10), 1_000_000, None, "a.flac cannot be written: flac does not support this sample rate"),
        (torch.zeros(9, 10), RATE, None, "a.flac cannot be written"),
    ],
)
def test_audio_that_cannot_be_written(tmp_path, audio, rate_hz, subtype, message):
    with pytest.raises(AudioError, match=message):
        write_audio(tmp_path / "a.flac", audio, rate_hz, subtype)
    assert not list(tmp_path.iterdir())


def test_a_tensor_in_a_graph_is_written(tmp_path):
    audio = torch.rand(1, 10, requires_grad=True)
    assert torch.equal(read_audio(write_audio(tmp_path / "a.wav", audio, RATE))[0], audio.detach())


@pytest.fixture
def most_bytes():
    """Called with a number: no file may become larger, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("short", [1, 1000, 20_000])
@pytest.mark.parametrize("name", ["a.wav PCM_16", "a.flac PCM_16", "a.flac PCM_24", "a.mp3", "a.ogg", "a.ogg OPUS"])
def test_the_last_bytes_do_not_fit_on_the_disk(tmp_path, most_bytes, name, short):
    """libsndfile writes the end of a coded file as it closes it, and says nothing if it could not."""
    name, *subtype = name.split()
    audio = 0.1 * torch.randn(2, 48_000)
    path = write_audio(tmp_path / name, audio, 48_000, *subtype)
    before = path.read_bytes()
    most_bytes(max(1, len(before) - short))
    with pytest.raises(AudioError, match=f"{name} cannot be written: File too large. Free some space or choose"):
        write_audio(path, audio, 48_000, *subtype)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["soundfile.SoundFile.write", "refined_bsrnn.system.os.fsync"])
def test_full_disk_leaves_the_old_file_and_nothing_else(song, monkeypatch, where):
    before = song.read_bytes()

    def full(path, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(AudioError, match=r"song.wav cannot be written: the disk is full. Free some space"):
        write_audio(song, torch.zeros(1, 10), RATE)
    assert song.read_bytes() == before
    assert list(song.parent.iterdir()) == [song]


@pytest.mark.skipif(os.name != "posix", reason="names may be longer here")
def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(AudioError, match=r"x.wav cannot be written: its name is too long. Choose a shorter one"):
        write_audio(tmp_path / f"{'x' * 260}.wav", torch.zeros(1, 10), RATE)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AudioError, match="cannot be written"):
        write_audio(tmp_path / "file" / "a.wav", torch.zeros(1, 10), RATE)


# --- writing as a stream


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("flac", "PCM_24")]
)
def test_integers_come_back_as_they_were_read(tmp_path, suffix, subtype):
    steps = 2 ** (15 if subtype == "PCM_16" else 23)
    audio = torch.randint(-steps, steps, (2, 5000)) / steps
    path = tmp_path / f"a.{suffix}"
    with AudioWriter(path, RATE, 2, subtype) as writer:
        for block in audio.split(999, dim=1):
            writer.write(block)
    assert torch.equal(read_audio(path)[0], audio)
    assert torch.equal(quantise(audio, subtype), audio)
    assert writer.peak == audio.abs().max()
    loud = 3 * torch.randn(2, 500)
    with AudioWriter(path, RATE, 2, subtype) as writer:
        writer.write(loud)
    assert torch.equal(read_audio(path)[0], quantise(loud, subtype))


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
@pytest.mark.parametrize("length", [1, 2, 1151, 1152, 1153, 30001])
def test_lossy_files_have_the_length_that_was_written(tmp_path, suffix, length):
    audio = torch.from_numpy(tone(length).T.copy())
    path = write_audio(tmp_path / f"a.{suffix}", audio, 44100)
    assert read_audio(path)[0].shape == audio.shape
    assert (read_audio(path)[0] - audio)[:, 2000:-2000].abs().sum() < 0.05 * max(1, length)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_tags_are_carried(tmp_path, suffix):
    tags = {"title": "Ein Lied für 日本", "artist": "Jemand", "album": "Lieder", "date": "2001", "genre": "Folk"}
    if suffix == "mp3":  # which says how its texts are coded, and has a frame of its own kind for some
        tags |= {"tracknumber": "7", "comment": "schön", "copyright": "©", "license": "CC-BY 4.0 – frei"}
    with AudioWriter(tmp_path / f"a.{suffix}", RATE, 1, tags={**tags, "unknown": "x"}) as writer:
        writer.write(torch.zeros(1, 5000))
    assert read_tags(tmp_path / f"a.{suffix}") == tags
    assert read_audio(tmp_path / f"a.{suffix}")[0].shape == (1, 5000)
    assert read_tags(tmp_path / "nowhere.wav") == {}


@pytest.mark.parametrize(
    ("name", "channels", "rate", "message"),
    [
        ("a.mp3", 6, 44100, "6 channels at 44100 Hz; mp3 holds at most 2 channels at 8000, .*48000 Hz. Take another"),
        ("a.mp3", 2, 96000, "2 channels at 96000 Hz; mp3 holds"),
        ("a.flac", 9, 44100, "9 channels at 44100 Hz; flac holds at most 8 channels. Take another format, as wav"),
    ],
)
def test_what_a_format_cannot_hold(tmp_path, name, channels, rate, message):
    with pytest.raises(AudioError, match=message):
        write_audio(tmp_path / name, torch.zeros(channels, 100), rate)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("about", [None, 200, 10**9])
def test_a_wav_beyond_4_gb_has_64_bit_lengths(tmp_path, monkeypatch, about):
    """However long it was thought to be: nothing is lost."""
    monkeypatch.setattr("refined_bsrnn.audio.write.WAV_LIMIT", 4000)
    with AudioWriter(tmp_path / "a.wav", RATE, 2, n_samples=about, tags={"title": "Lied"}) as writer:
        for _ in range(6):
            writer.write(torch.full((2, 100), 0.5))
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"
    assert torch.equal(read_audio(tmp_path / "a.wav")[0], torch.full((2, 600), 0.5))
    assert read_tags(tmp_path / "a.wav")["title"] == "Lied"


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_wav_that_did_not_become_long_is_a_plain_one(tmp_path, channels, subtype):
    path, audio = tmp_path / "a.wav", torch.rand(channels, 101).round(decimals=1)
    with AudioWriter(path, RATE, channels, subtype, tags={"title": "Lied"}) as writer:
        writer.write(audio)
    head = path.read_bytes()
    assert (head[:4], int.from_bytes(head[4:8], "little") + 8) == (b"RIFF", path.stat().st_size)
    assert soundfile.info(path).format in ("WAV", "WAVEX")
    torch.testing.assert_close(read_audio(path)[0], audio, atol=2**-15, rtol=0)
    assert read_tags(path)["title"] == "Lied"


@pytest.mark.skipif(os.name != "posix", reason="names of files are Unicode here")
def test_names_that_are_no_unicode(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_audio(path, torch.full((1, 100), 0.5), RATE)
    assert torch.equal(read_audio(path)[0], torch.full((1, 100), 0.5))
    assert read_tags(path) == {}
    with pytest.raises(AudioError, match="asked for"):
        read_audio(path, 100)


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path):
    def interrupted():
        yield torch.zeros(1, 100)
        raise KeyboardInterrupt

    def write():
        with AudioWriter(tmp_path / "a.flac", RATE, 1) as writer:
            for block in interrupted():
                writer.write(block)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


# --- resampling


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 22050), (48000, 44100), (22050, 44100), (8000, 11025)])
def test_a_tone_keeps_its_level_and_what_would_alias_is_gone(from_hz, to_hz):
    nyquist = min(from_hz, to_hz) / 2
    for frequency, decibel in (
        (0.05 * nyquist, 0.0),
        (0.5 * nyquist, 0.0),
        (0.9 * nyquist, 0.0),
        (1.05 * nyquist, -80.0),
    ):
        if frequency >= from_hz / 2:
            continue
        t = torch.arange(2 * from_hz).double() / from_hz
        tone = torch.sin(2 * torch.pi * frequency * t).float()
        middle = resample(tone[None], from_hz, to_hz)[0][to_hz // 2 : -to_hz // 2]
        level = 10 * np.log10(float((middle**2).mean()) / 0.5 + 1e-12)
        assert level == pytest.approx(decibel, abs=0.15) if decibel == 0 else level < decibel


@pytest.mark.parametrize("length", [1, 2, 999, 44100])
def test_length_is_rounded_up_and_the_same_rate_is_left_alone(length):
    audio = torch.randn(2, length)
    assert resample(audio, 44100, 48000).shape == (2, -(-length * 48000 // 44100))
    assert resample(audio, 44100, 44100) is audio


def test_unrelated_rates_and_rates_that_are_none():
    assert resample(torch.zeros(1, 44100), 44100, 44101).shape == (1, 44101)
    with pytest.raises(AudioError, match="audio at 0 Hz cannot be resampled to 44100 Hz"):
        resample(torch.zeros(1, 10), 0, 44100)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 20000),
    rates=st.tuples(st.integers(8000, 192000), st.integers(8000, 192000)),
    step=st.integers(1, 3000),
    channels=st.integers(1, 3),
)
def test_a_resampled_stream_is_the_resampled_whole(length, rates, step, channels):
    audio = torch.randn(channels, length, generator=torch.Generator().manual_seed(length))
    stream = Resampler(*rates, channels)
    pieces = [stream.push(audio[:, i : i + step]) for i in range(0, length, step)]
    whole = torch.cat([*pieces, stream.finish()], dim=1)
    assert whole.shape == (channels, -(-length * rates[1] // rates[0]))
    torch.testing.assert_close(whole, resample(audio, *rates), atol=1e-6, rtol=0)


def test_channels():
    stereo = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert match_channels(stereo, 2) is stereo
    assert torch.equal(match_channels(stereo, 1), torch.tensor([[2.0, 4.0]]))
    assert torch.equal(match_channels(stereo[:1], 2), torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    with pytest.raises(AudioError, match="audio with 2 channels cannot become 6; expected 6 or 1"):
        match_channels(stereo, 6)


def test_surround_sound_is_folded_to_stereo_and_stereo_is_its_front():
    front_left, front_right, middle, low, back_left, back_right = torch.eye(6)[:, :, None]  # (6, 1) each
    half = 0.5**0.5
    for channel, left, right in (
        (front_left, 1, 0),
        (front_right, 0, 1),
        (middle, half, half),
        (low, 0, 0),
        (back_left, half, 0),
        (back_right, 0, half),
    ):
        assert torch.allclose(fold_channels(channel, 2), torch.tensor([[left], [right]], dtype=torch.float32))
    stereo = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert torch.equal(fold_channels(fold_channels(stereo, 6), 2), stereo)
    assert fold_channels(stereo, 2) is stereo
    assert torch.equal(fold_channels(stereo, 1), torch.tensor([[2.0, 4.0]]))
    for n_channels in range(1, 13):
        sound = torch.randn(n_channels, 5)
        left, right = fold_channels(sound, 2)
        assert torch.allclose(fold_channels(2 * sound, 2), 2 * torch.stack([left, right]), atol=1e-6)
        assert fold_channels(sound, 8).shape == (8, 5)
        if n_channels > 2:  # each side hears its own first channel
            assert fold_channels(torch.eye(n_channels)[:, :1], 2)[0] > fold_channels(torch.eye(n_channels)[:, :1], 2)[1]


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_a_variable_bit_rate_is_read_on_from_where_it_was(tmp_path, suffix):
    """libsndfile cannot find a place again in such an MP3; every piece must be that of the whole."""
    tone = 0.5 * np.sin(np.arange(3 * 44100) / 30)[:, None].repeat(2, 1)
    soundfile.write(tmp_path / f"a.{suffix}", tone, 44100)
    whole, _ = read_audio(tmp_path / f"a.{suffix}")
    assert whole[:, 44100:88200].abs().max() > 0.4
    for start, n_samples in ((20000, 4096), (44100, 44100)):
        piece, _ = read_audio(tmp_path / f"a.{suffix}", start, n_samples)
        assert torch.equal(piece, whole[:, start : start + n_samples])
    with open_audio(tmp_path / f"a.{suffix}") as reader:
        assert torch.equal(torch.cat(list(reader.blocks(5000)), 1), whole)
