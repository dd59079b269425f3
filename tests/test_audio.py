"""Reading, writing and resampling; every way a file can be bad."""

import errno

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.audio import audio_info, match_channels, read_audio, resample, write_audio
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
        torch.testing.assert_close(part, whole[:, start : start + n_samples], atol=0, rtol=0)


@pytest.mark.parametrize(("subtype", "scale"), [("PCM_16", 2**15), ("PCM_24", 2**23), ("FLOAT", None)])
def test_samples_are_bit_true(tmp_path, subtype, scale):
    if scale:
        samples = np.random.default_rng(0).integers(-scale, scale, (1000, 2)) / scale
    else:
        samples = noise().astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype=subtype)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0].numpy().T, samples.astype(np.float32))


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
            r"bad.wav \(500 bytes\) cannot be read as audio: .* ffmpeg -i bad.wav bad.wav",
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
    with pytest.raises(AudioError, match=r"song.m4a .* can be converted: ffmpeg -i song.m4a song.wav"):
        read(tmp_path / "song.m4a")
    (tmp_path / "song.raw").write_bytes(bytes(500))
    with pytest.raises(AudioError, match="cannot be read as audio"):
        read(tmp_path / "song.raw")


def test_a_file_without_samples(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(AudioError, match="none.wav holds no samples"):
        audio_info(tmp_path / "none.wav")


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "au", "flac", "mp3"])
def test_cut_off_files(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, noise(3.0), RATE)
    assert read_audio(path)[0].shape == (2, 3 * RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"cut.* (is cut off|is damaged)"):
        read_audio(path)


@pytest.mark.parametrize("length", [0, 0x7FFFF024, 0xFFFFFFFF])
def test_a_wav_of_unknown_length_is_read(song, length):
    """Programs that stream a wav cannot go back to write its length."""
    data = bytearray(song.read_bytes())
    data[4:8] = length.to_bytes(4, "little")
    song.write_bytes(bytes(data))
    assert read_audio(song)[0].shape == (2, RATE)


@pytest.mark.parametrize("read", [audio_info, read_audio])
def test_an_mp3_without_its_length_is_refused(tmp_path, read):
    """libsndfile would guess from the first frame and drop the rest of the song."""
    soundfile.write(tmp_path / "a.mp3", noise(3.0), RATE)
    data = (tmp_path / "a.mp3").read_bytes()
    assert data.count(b"Xing") + data.count(b"Info") == 1
    (tmp_path / "a.mp3").write_bytes(data.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4)))
    with pytest.raises(AudioError, match="a.mp3 does not say how long it is. Convert it: ffmpeg -i a.mp3 a-converted"):
        read(tmp_path / "a.mp3")


def test_an_mp3_with_names_and_pictures_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", noise(3.0), RATE)
    picture = b"ID3\x04\0\0" + bytes([0, 1, 2, 3]) + bytes(1 << 14 | 2 << 7 | 3)
    (tmp_path / "b.mp3").write_bytes(2 * picture + (tmp_path / "a.mp3").read_bytes())
    assert torch.equal(read_audio(tmp_path / "b.mp3")[0], read_audio(tmp_path / "a.mp3")[0])


@pytest.mark.parametrize("read", [audio_info, read_audio])
def test_a_streamed_flac_is_refused(tmp_path, read):
    soundfile.write(tmp_path / "a.flac", noise(), RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # STREAMINFO: 36 bits of length, 0 where it is not known
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(bytes(data))
    with pytest.raises(AudioError, match="a.flac does not say how long it is"):
        read(tmp_path / "a.flac")


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
    with pytest.raises(AudioError, match=r"a.xyz cannot be written; expected the suffix .wav or .flac"):
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


@pytest.mark.parametrize("problem", [soundfile.LibsndfileError(2), AssertionError()])
def test_libsndfile_on_a_full_disk_leaves_the_old_file(song, monkeypatch, problem):
    before = song.read_bytes()

    def full(path, *args, **kwargs):
        path.write_bytes(b"half")
        raise problem

    monkeypatch.setattr("refined_bsrnn.audio.soundfile.write", full)
    with pytest.raises(AudioError, match="song.wav cannot be written: the disk is full"):
        write_audio(song, torch.zeros(1, 10), RATE)
    assert song.read_bytes() == before
    assert list(song.parent.iterdir()) == [song]


@pytest.mark.parametrize("where", ["refined_bsrnn.audio.soundfile.write", "refined_bsrnn.files.os.fsync"])
def test_full_disk_leaves_the_old_file_and_nothing_else(song, monkeypatch, where):
    before = song.read_bytes()

    def full(path, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(AudioError, match=r"song.wav cannot be written: the disk is full. Free some space"):
        write_audio(song, torch.zeros(1, 10), RATE)
    assert song.read_bytes() == before
    assert list(song.parent.iterdir()) == [song]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AudioError, match="cannot be written"):
        write_audio(tmp_path / "file" / "a.wav", torch.zeros(1, 10), RATE)


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


def test_rates_that_cannot_be_resampled():
    """44100 to 44101 would build a table of 8 GB."""
    with pytest.raises(AudioError, match="from 44100 to 44101 Hz would take too much memory; convert the file first"):
        resample(torch.zeros(1, 10), 44100, 44101)
    with pytest.raises(AudioError, match="audio at 0 Hz cannot be resampled to 44100 Hz"):
        resample(torch.zeros(1, 10), 0, 44100)


def test_channels():
    stereo = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert match_channels(stereo, 2) is stereo
    assert torch.equal(match_channels(stereo, 1), torch.tensor([[2.0, 4.0]]))
    assert torch.equal(match_channels(stereo[:1], 2), torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    with pytest.raises(AudioError, match="audio with 2 channels cannot become 6; expected 6 or 1"):
        match_channels(stereo, 6)
