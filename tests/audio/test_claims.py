"""Headers, tags and announcements are claims: what is in the file is read, all of it and in place."""

import io
import re
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.audio import audio_info, ogg, open_audio, read_audio
from refined_bsrnn.errors import AudioError
from tests.audio.test_audio import encode, tone

RATE = 44100
LENGTH = 3 * RATE
MP3_FRAME = 1152
MP3_DELAY = 576 + 529  # LAME's, as its tag says, and that of every decoder


def noise(n_samples=LENGTH, seed=0, channels=2):
    """Steps of 16 bits, loud in turns, so that frames of a variable bit rate differ."""
    rng = np.random.default_rng(seed)
    loud = 0.05 + 0.2 * (np.arange(n_samples) // 5000 % 2)[:, None]
    return np.round(loud * rng.standard_normal((n_samples, channels)) * 2**14).clip(-(2**15), 2**15 - 1) / 2**15


def remarks(path, **options):
    """(samples, what is said of the file when it has been read to its end)."""
    with open_audio(path, **options) as reader:
        samples = torch.cat(list(reader.blocks(10_000)), dim=1)
        assert reader.n_samples in (None, samples.shape[1])
        return samples, " ".join(reader.remarks())


def everything(path):
    """The samples; all ways of reading agree on them, and nothing is said."""
    samples, messages = remarks(path)
    assert messages == ""
    assert audio_info(path).n_samples == samples.shape[1]
    start = samples.shape[1] * 3 // 4
    # AAC has the decoder make up noise, which goes on from what was decoded before
    exact = 0.1 if path.suffix == ".m4a" else 0
    torch.testing.assert_close(read_audio(path, start, 1000)[0], samples[:, start : start + 1000], atol=exact, rtol=0)
    assert remarks(path, strict=True)[0].shape == samples.shape
    return samples


# --- mp3: lengths in tags


def mp3(path, tag=True, id3=False, seed=0):
    """An mp3 of `noise` at a variable bit rate, with or without LAME's tag before it."""
    options = {"write_xing": str(int(tag)), "id3v2_version": "3" if id3 else "0"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mp3", rate=RATE, layout="stereo", options={"q": "4"})
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(noise(seed=seed).T, np.float32), "fltp", "stereo")
        frame.sample_rate = RATE
        pieces = av.AudioResampler("s16p", "stereo", RATE, frame_size=MP3_FRAME)
        for converted in [*pieces.resample(frame), *pieces.resample(None)]:
            container.mux(stream.encode(converted))
        container.mux(stream.encode())
    return path.read_bytes()


def n_frames(data):
    place = max(data.find(b"Xing"), data.find(b"Info"))
    return int.from_bytes(data[place + 8 : place + 12], "big")


def test_two_mp3s_one_behind_the_other(tmp_path):
    data = mp3(tmp_path / "a.mp3", id3=True)
    alone = everything(tmp_path / "a.mp3")
    assert alone.shape[1] == LENGTH
    (tmp_path / "two.mp3").write_bytes(data + data)
    both = everything(tmp_path / "two.mp3")
    assert both.shape[1] == 2 * n_frames(data) * MP3_FRAME - MP3_DELAY
    second = both[:, n_frames(data) * MP3_FRAME :]
    torch.testing.assert_close(both[:, :LENGTH], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(second[:, 5000:LENGTH], alone[:, 5000:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", ["half", "one less", "one more", "none", "twice", "absent"])
def test_an_mp3s_number_of_frames_is_a_claim(tmp_path, count):
    data = bytearray(mp3(tmp_path / "a.mp3"))
    whole = everything(tmp_path / "a.mp3")
    n, place = n_frames(data), max(data.find(b"Xing"), data.find(b"Info"))
    if count == "absent":
        data[place + 7] &= 0xFE
        end = data.find(b"\xff\xfb", place)  # of the tag's frame
        data[place + 8 : end] = data[place + 12 : end] + bytes(4)
    else:
        claimed = {"half": n // 2, "one less": n - 1, "one more": n + 1, "none": 0, "twice": 2 * n}[count]
        data[place + 8 : place + 12] = claimed.to_bytes(4, "big")
    (tmp_path / "b.mp3").write_bytes(bytes(data))
    samples = everything(tmp_path / "b.mp3")
    assert LENGTH <= samples.shape[1] < LENGTH + 2 * MP3_FRAME  # LAME's padding where the tag no longer tells
    torch.testing.assert_close(samples[:, :LENGTH], whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bitrate", [64, 128, 160, 320])
@pytest.mark.parametrize("claimed", [1, 1 / 2, 0])
def test_an_mp3_with_another_tag(tmp_path, bitrate, claimed):
    """Fraunhofer's VBRI, in a frame of its own of any size."""
    data = mp3(tmp_path / "a.mp3", tag=False)
    whole = everything(tmp_path / "a.mp3")
    n = whole.shape[1] // MP3_FRAME
    header = bytes([0xFF, 0xFB, {64: 5, 128: 9, 160: 10, 320: 14}[bitrate] << 4, 0x44])
    tag = b"VBRI" + struct.pack(">HHHIIHHHH", 1, 0, 75, len(data), round(n * claimed), 0, 1, 2, 1)
    frame = (header + bytes(32) + tag).ljust(144 * bitrate * 1000 // RATE, b"\0")
    (tmp_path / "b.mp3").write_bytes(frame + data)
    torch.testing.assert_close(everything(tmp_path / "b.mp3"), whole, atol=1e-4, rtol=0)


def id3(size):
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


@pytest.mark.parametrize(
    "between",
    [
        id3(35) + bytes(35),
        id3(300_000) + np.random.default_rng(0).bytes(300_000),
        b"TAG" + b"x" * 125,
        b"APETAGEX" + struct.pack("<III", 2000, 3000, 1) + bytes(12) + b"x" * 3000,
    ],
    ids=["id3", "picture", "id3v1", "ape"],
)
def test_tags_in_the_middle_are_no_damage(tmp_path, between):
    data = mp3(tmp_path / "a.mp3", tag=False)
    alone = everything(tmp_path / "a.mp3")
    (tmp_path / "b.mp3").write_bytes(data + between + data)
    both = everything(tmp_path / "b.mp3")
    assert both.shape[1] == 2 * alone.shape[1]
    torch.testing.assert_close(both[:, alone.shape[1] + 5000 :], alone[:, 5000:], atol=1e-4, rtol=0)


def test_an_mp3_that_ends_in_the_middle_of_a_frame(tmp_path):
    data = mp3(tmp_path / "a.mp3")
    whole = everything(tmp_path / "a.mp3")
    with av.open(str(tmp_path / "a.mp3")) as container:
        packet = [p for p in container.demux(audio=0) if p.size][50]
    (tmp_path / "b.mp3").write_bytes(data[: packet.pos + packet.size // 2])
    samples, messages = remarks(tmp_path / "b.mp3")
    assert "b.mp3 is cut off: it ends in the middle of a frame, at 1.3" in messages
    torch.testing.assert_close(samples[:, : 45 * MP3_FRAME], whole[:, : 45 * MP3_FRAME], atol=1e-6, rtol=0)
    with pytest.raises(AudioError, match="is cut off"):
        remarks(tmp_path / "b.mp3", strict=True)


def test_an_mp3_in_a_wav(tmp_path):
    mp3(tmp_path / "a.mp3", tag=False)
    with av.open(str(tmp_path / "a.mp3")) as source, av.open(str(tmp_path / "m.wav"), "w") as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    torch.testing.assert_close(everything(tmp_path / "m.wav"), everything(tmp_path / "a.mp3"), atol=1e-6, rtol=0)


# --- chains


@pytest.mark.parametrize(
    ("suffix", "others"),
    [
        ("ogg", [(RATE, 2)]),
        ("ogg", [(48000, 2), (RATE, 1)]),
        ("opus", [(48000, 2), (48000, 1)]),
        ("flac", [(RATE, 2)]),
        ("flac", [(48000, 1), (RATE, 2), (RATE, 2)]),
    ],
)
@pytest.mark.parametrize("n_samples", [LENGTH, 20_000])
def test_files_one_behind_the_other(tmp_path, suffix, others, n_samples):
    """Every piece is what it is alone, at the rate and with the channels of the first."""
    chain, alone = b"", []
    rate = 48000 if suffix == "opus" else RATE
    for i, (hz, channels) in enumerate([(rate, 2), *others]):
        samples = noise(LENGTH if i == 0 else n_samples, seed=i, channels=channels)
        path = tmp_path / f"{i}.{suffix}"
        container = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
        soundfile.write(path, samples, hz, **container)
        chain += path.read_bytes()
        audio, _ = read_audio(path)
        same_rate = hz == rate
        expected = audio if same_rate else None
        alone.append((-(-audio.shape[1] * rate // hz), expected.expand(2, -1) if same_rate else None))
    (tmp_path / f"chain.{suffix}").write_bytes(chain)
    whole = everything(tmp_path / f"chain.{suffix}")
    pieces = whole.split([n for n, _ in alone], dim=1)
    assert sum(n for n, _ in alone) == whole.shape[1]
    for piece, (_, expected) in zip(pieces, alone, strict=True):
        assert piece.abs().max() > 0.1
        if expected is not None:
            assert torch.equal(piece, expected)


def test_the_same_flac_twice_is_twice_as_long(tmp_path):
    """Both have the same frame numbers: libFLAC finds the last sample of the first in the second."""
    soundfile.write(tmp_path / "a.flac", noise(), RATE)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "b.flac").write_bytes(data + data)
    alone = everything(tmp_path / "a.flac")
    assert torch.equal(everything(tmp_path / "b.flac"), torch.cat([alone, alone], dim=1))


@pytest.mark.parametrize("claimed", [LENGTH // 2, LENGTH - 20_000, LENGTH - 5_000, 0])
def test_a_flacs_length_is_a_claim(tmp_path, claimed):
    soundfile.write(tmp_path / "a.flac", noise(), RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[22:26] = claimed.to_bytes(4, "big")
    (tmp_path / "b.flac").write_bytes(bytes(data))
    assert torch.equal(everything(tmp_path / "b.flac"), everything(tmp_path / "a.flac"))


# --- wav and its kin: lengths in headers


def pcm(format_, subtype="PCM_16"):
    memory = io.BytesIO()
    soundfile.write(memory, noise(), RATE, format=format_, subtype=subtype)
    return bytearray(memory.getvalue())


def put(data, place, value, n_bytes=4, order="little"):
    data[place : place + n_bytes] = value.to_bytes(n_bytes, order)


def all_of(path, data, subtype="PCM_16"):
    path.write_bytes(bytes(data))
    samples, messages = remarks(path)
    assert np.array_equal(samples.numpy().T, noise().astype(np.float32))
    assert torch.equal(read_audio(path, 100_000, 1000)[0], samples[:, 100_000:101_000])
    return messages


@pytest.mark.parametrize("size", ["the file's", "more", "less", "nonsense", "none"])
@pytest.mark.parametrize("format_", ["WAV", "WAVEX", "AIFF"])
def test_the_size_of_the_whole_file_is_a_claim(tmp_path, format_, size):
    data = pcm(format_)
    value = {"the file's": len(data), "more": len(data) + 28, "less": 123, "nonsense": 3_000_000_000, "none": 0}[size]
    put(data, 4, value, order="big" if format_ == "AIFF" else "little")
    assert all_of(tmp_path / "a.wav", data) == ""


def test_a_chunk_behind_the_samples_is_no_sound(tmp_path):
    data = pcm("WAV")
    assert all_of(tmp_path / "a.wav", data + b"LIST" + struct.pack("<I", 4) + b"INFO") == ""
    assert all_of(tmp_path / "a.wav", data + bytes(512)) == ""  # up to the end of a sector


@pytest.mark.parametrize("kind", ["RIFF", "RIFX", "FORM"])
def test_a_second_chunk_of_samples_is_named(tmp_path, kind):
    """The formats allow one; FFmpeg alone would read the last, libsndfile none."""
    order = "<" if kind == "RIFF" else ">"
    if kind == "RIFX":
        soundfile.write(tmp_path / "b.wav", noise(), RATE, "PCM_16", "BIG", "WAV")
        data = bytearray((tmp_path / "b.wav").read_bytes())
        assert data[:4] == b"RIFX"
    else:
        data = pcm("WAV" if kind == "RIFF" else "AIFF")
    note = b"note" + struct.pack(order + "I", 3) + b"abc\0"
    second = (b"SSND" if kind == "FORM" else b"data") + struct.pack(order + "I", 400) + bytes(400)
    messages = all_of(tmp_path / "a.wav", data + note + second)
    assert (
        messages
        == f"{tmp_path / 'a.wav'} has more than one chunk of samples: only the first is read, 400 bytes are not."
    )


@pytest.mark.parametrize("share", [0, 0.5])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("format_", ["WAV", "WAVEX", "AIFF", "AU", "RF64", "W64"])
def test_a_header_that_was_never_finished(tmp_path, format_, subtype, share):
    """A recorder that lost its power leaves the lengths as they were when it began, or some time later."""
    data = pcm(format_, subtype)
    marks = {"W64": b"data\xf3", "AIFF": b"SSND", "AU": b".snd", "RF64": b"ds64"}
    found = data.find(marks.get(format_, b"data"))
    place = found + {"W64": 16, "AU": 8, "RF64": 16}.get(format_, 4)
    order = "big" if format_ in ("AIFF", "AU") else "little"
    n_bytes = 8 if format_ in ("RF64", "W64") else 4
    width = {"PCM_16": 4, "PCM_24": 6, "FLOAT": 8}[subtype]
    extra = {"W64": 24, "AIFF": 8}.get(format_, 0)
    put(data, place, round(share * LENGTH) * width + extra if share else 0, n_bytes, order)
    messages = all_of(tmp_path / "a.wav", data)
    assert "has a header that was never finished: all that follows it is read" in messages


def test_a_wav_without_samples_holds_none(tmp_path):
    memory = io.BytesIO()
    soundfile.write(memory, np.zeros((0, 2)), RATE, format="WAV")
    for behind in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        (tmp_path / "a.wav").write_bytes(memory.getvalue() + behind)
        with pytest.raises(AudioError, match="holds no samples"):
            read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("formats", ["WAV WAV", "WAV WAVEX WAV", "RF64 WAV", "AIFF AIFF", "WAV AIFF"])
def test_wavs_one_behind_the_other(tmp_path, formats, tail):
    pieces = formats.split()
    chunk = {piece: b"LIST" + struct.pack("<I", 4) + b"INFO" for piece in pieces} | {"AIFF": b"ANNO\0\0\0\4INFO"}
    (tmp_path / "a.wav").write_bytes(b"".join(bytes(pcm(piece)) + tail * chunk[piece] for piece in pieces))
    alone = torch.from_numpy(noise().T.astype(np.float32))
    assert torch.equal(everything(tmp_path / "a.wav"), torch.cat([alone] * len(pieces), dim=1))


@pytest.mark.parametrize("format_", ["WAV", "AIFF", "RF64", "CAF"])
def test_names_and_pictures_before_a_wav(tmp_path, format_):
    assert all_of(tmp_path / "a.wav", id3(35) + bytes(35) + pcm(format_)) == ""


def test_caf_whose_length_was_never_written(tmp_path):
    data = pcm("CAF")
    put(data, data.find(b"data") + 4, 2**64 - 1, 8)
    assert all_of(tmp_path / "a.caf", data) == ""


def test_a_flac_cut_in_its_last_frame_is_no_longer_than_it_says(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(), RATE)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:-3000])
    samples, said = remarks(tmp_path / "a.flac")
    assert samples.shape[1] == LENGTH
    assert "to 3.00 s; silence is there instead" in said


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "au", "flac"])
def test_what_is_left_of_a_cut_file_is_read(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, noise(), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    samples, messages = remarks(path)
    n = samples.shape[1]
    assert abs(n - LENGTH / 2) < 10_000
    assert np.array_equal(samples.numpy().T[: n - 5000], noise()[: n - 5000].astype(np.float32))
    assert f"cut.{suffix} is cut off: its header promises 3.00 s, and it has {n / RATE:.2f} s" in messages
    with pytest.raises(AudioError, match=r"is cut off|is damaged"):
        remarks(path, strict=True)


# --- sound that is packed as samples


def spdif():
    """AC-3 as a digital output carries it, in samples of 16 bits."""
    memory = io.BytesIO()
    with av.open(memory, "w", format="spdif") as container:
        stream = container.add_stream("ac3", rate=48000, layout="stereo")
        for start in range(0, 48000, 1536):
            block = np.ascontiguousarray(tone(49152, rate=48000, hz=300)[start : start + 1536].T)
            frame = av.AudioFrame.from_ndarray(block, "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return np.frombuffer(memory.getvalue(), np.int16).reshape(-1, 2)


def test_coded_sound_in_a_wav_is_decoded(tmp_path):
    soundfile.write(tmp_path / "a.wav", spdif(), 48000, subtype="PCM_16")
    samples = everything(tmp_path / "a.wav")
    assert samples.shape[1] == 32 * 1536
    audible = samples[0, 5000:45000].numpy()
    assert (
        max(np.corrcoef(audible, tone(49152, rate=48000, hz=300)[5000 - d : 45000 - d, 0])[0, 1] for d in (0, 256))
        > 0.99
    )


def test_coded_sound_that_cannot_be_decoded_is_no_music(tmp_path):
    samples = np.random.default_rng(0).integers(-3000, 3000, (100_000, 2)).astype(np.int16)
    samples[::1024] = np.frombuffer(b"\xfe\x7f\x01\x80", np.int16)  # DTS begins its frames so, in little endian
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    with pytest.raises(AudioError, match=r"a.wav is no music as it stands: DTS or another coded sound"):
        read_audio(tmp_path / "a.wav")
    samples[40 * 1024] = 0  # music may hold them by chance
    soundfile.write(tmp_path / "b.wav", samples[: 4 * 1024], RATE, subtype="PCM_16")
    assert read_audio(tmp_path / "b.wav")[0].shape == (2, 4096)


# --- m4a and video


def test_apples_tag_says_where_the_music_is(tmp_path):
    samples = tone(LENGTH, hz=300)
    priming, padding = 1024, -(LENGTH + 1024) % 1024
    tag = f" 00000000 {priming:08X} {padding:08X} {LENGTH:016X}" + 8 * " 00000000"
    encode(tmp_path / "edit.m4a", samples, "aac")
    options = {"use_editlist": "0", "movflags": "use_metadata_tags"}
    with av.open(str(tmp_path / "edit.m4a")) as source, av.open(str(tmp_path / "tag.m4a"), "w", options=options) as to:
        to.metadata["iTunSMPB"] = tag
        stream = to.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream, packet.pts = stream, packet.pts + 1024
                packet.dts = packet.pts
                to.mux(packet)
    torch.testing.assert_close(everything(tmp_path / "tag.m4a"), everything(tmp_path / "edit.m4a"), atol=1e-5, rtol=0)


def two_streams(path):
    """A film with two sound tracks, the second one marked as default: 1000 and 2000 of 32768."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=RATE, layout="stereo") for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if number else av.stream.Disposition(0)
        for number, stream in enumerate(streams):
            level = np.full((2, 4096), 1000 * (number + 1), np.int16)
            frame = av.AudioFrame.from_ndarray(level.T.reshape(1, -1), "s16", "stereo")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode())


def test_of_several_streams_the_default_one_is_read(tmp_path):
    path = tmp_path / "film.mkv"
    two_streams(path)
    samples, messages = remarks(path)
    assert samples.max() == 2000 / 2**15
    assert "film.mkv has the audio streams 0, 1; 1 is read. --stream N takes another" in messages
    assert read_audio(path, stream=0)[0].max() == 1000 / 2**15
    assert remarks(path, stream=1)[1] == ""
    with pytest.raises(AudioError, match="has no audio stream 2"):
        read_audio(path, stream=2)


# --- damage in the middle


def damage(path, at, n_bytes=40, fill=None):
    """Other bytes from the beginning of the packet at so many seconds on; returns them all."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packet = next(
            p
            for p in container.demux(stream)
            if p.size and p.pos is not None and p.pts * p.time_base - (stream.start_time or 0) * stream.time_base >= at
        )
    data = bytearray(path.read_bytes())
    place = packet.pos
    data[place : place + n_bytes] = np.random.default_rng(1).bytes(n_bytes) if fill is None else bytes([fill]) * n_bytes
    return bytes(data)


@pytest.mark.parametrize("fill", [None, 0])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *[("a.m4a", "alac"), ("a.mka", "flac"), ("a.flac", "flac"), ("a.ac3", "ac3"), ("a.aac", "aac")],
        *[("a.mp3", "mp3"), ("a.ogg", "vorbis"), ("a.opus", "opus"), ("a.ts", "aac"), ("a.m4a", "aac")],
        ("a.mkv", "aac"),
    ],
)
def test_damage_in_the_middle_is_silence_and_is_said(tmp_path, name, codec, fill):
    path = tmp_path / name
    if codec in ("vorbis", "opus") or name == "a.flac":
        options = {"format": "OGG", "subtype": codec.upper()} if codec != "flac" else {}
        soundfile.write(path, noise(2 * LENGTH), 48000 if codec == "opus" else RATE, **options)
    else:
        encode(path, noise(2 * LENGTH).astype(np.float32), codec)
    good = everything(path)
    path.write_bytes(damage(path, 3.0, fill=fill))
    bad, messages = remarks(path)
    assert bad.shape == good.shape
    with open_audio(path) as reader:
        list(reader.blocks(100_000))
        gaps, rate = reader.gaps, reader.sample_rate_hz
    assert 2 * rate < gaps[0][0] < gaps[-1][1] < 5.5 * rate
    assert (
        f"{name} is damaged: nothing can be decoded at {gaps[0][0] / rate:.2f} to {gaps[0][1] / rate:.2f} s" in messages
    )
    for start, stop in gaps:
        assert not bad[:, start + 3000 : stop - 3000].any()
    before, after = slice(0, gaps[0][0] - 6000), slice(gaps[-1][1] + 6000, None)
    for part in (before, after):
        assert (bad - good)[:, part].square().mean() < 0.1 * good[:, part].square().mean()
    with pytest.raises(AudioError, match=r"is damaged: .* Without --strict what is lost becomes silence"):
        remarks(path, strict=True)


def ogg_pages(path):
    data = path.read_bytes()
    return data, [page for page in ogg.pages(data) if page.granule > 0]


@pytest.mark.parametrize("codec", ["vorbis", "opus"])
@pytest.mark.parametrize("where", ["first", "last", "last but one", "middle", "mark", "missing", "two"])
def test_a_page_of_an_ogg_that_is_damaged(tmp_path, codec, where):
    """All before and behind it stays in place."""
    path, rate = tmp_path / "a.ogg", 48000 if codec == "opus" else RATE
    soundfile.write(path, noise(2 * LENGTH), rate, format="OGG", subtype=codec.upper())
    good = everything(path)
    data, found = ogg_pages(path)
    number = {"first": 0, "last": len(found) - 1, "last but one": len(found) - 2}.get(where, len(found) // 2)
    page, data = found[number], bytearray(data)
    if where == "missing":
        del data[page.start : page.stop]
    else:
        data[page.start + (0 if where == "mark" else (page.stop - page.start) // 2)] ^= 0xFF
    if where == "two":
        data[found[number - 2].stop - 1] ^= 0xFF
    path.write_bytes(bytes(data))
    bad, messages = remarks(path)
    first_lost = found[number - (3 if where == "two" else 1)].granule if number else 0
    if where == "last":
        assert abs(bad.shape[1] - first_lost) < 1000
        assert f"a.ogg is cut off: nothing behind {bad.shape[1] / rate:.2f} s can be decoded" in messages
    else:
        assert abs(bad.shape[1] - good.shape[1]) < 1000  # the end of the last page is no longer known exactly
        assert "a.ogg is damaged: nothing can be decoded at" in messages
    n = min(bad.shape[1], good.shape[1])
    before, behind = slice(0, max(0, first_lost - 2000)), slice(page.granule + 5000, n)
    for part in (before,) if where == "last but one" else (before, behind):
        assert (bad[:, :n] - good[:, :n])[:, part].square().sum() <= 1e-3 * good[:, part].square().sum()
    with pytest.raises(AudioError, match=r"is damaged|is cut off"):
        remarks(path, strict=True)


def test_damage_in_a_chain_is_in_place_also_behind_what_is_skipped(tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(2 * LENGTH), RATE, format="OGG", subtype="VORBIS")
    good, pages = ogg_pages(path)
    bad, page = bytearray(good), pages[len(pages) // 2]
    bad[(page.start + page.stop) // 2] ^= 0xFF
    path.write_bytes(good + bytes(bad))
    with open_audio(path) as reader:
        whole = torch.cat(list(reader.blocks(10_000)), dim=1)
        gaps = reader.gaps
    assert 2 * LENGTH < gaps[0][0] < gaps[0][1] < 4 * LENGTH
    with open_audio(path) as reader:
        assert reader.skip(2 * LENGTH + 1000) == 2 * LENGTH + 1000
        assert torch.equal(torch.cat(list(reader.blocks(10_000)), dim=1), whole[:, 2 * LENGTH + 1000 :])
        assert reader.gaps == gaps


def test_what_lies_around_an_ogg_is_no_damage(tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(), RATE, format="OGG", subtype="VORBIS")
    good = everything(path)
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert torch.equal(everything(path), good)


def test_the_checksum_of_a_page_by_its_definition():
    """RFC 3533, 6: polynomial 0x04c11db7, from 0, bit by bit, with its own four bytes as 0."""
    page = b"OggS\0\2" + np.random.default_rng(0).bytes(60)
    value = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    assert ogg.checksum(page) == value


def wrong_time_stamp(path, flipped):
    """Some bits of the time stamp of a packet at 0.9 s."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".ts":
        place = [match.start() for match in re.finditer(rb"\x00\x00\x01\xc0", data)][20] + 10
    else:
        with av.open(str(path)) as container:
            place = [packet.pos for packet in container.demux(audio=0)][40] + 1
    data[place] ^= flipped >> 8
    data[place + 1] ^= flipped & 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("suffix", "flipped"),
    [("mka", 0x0400), ("mka", 0x3000), ("mka", 0x8000), ("ts", 0x0080), ("ts", 0x0100), ("ts", 0x0200)],
)
def test_a_wrong_time_stamp_is_no_loss(tmp_path, suffix, flipped):
    """One packet claims another time, by 1 s to minutes; those behind it go on as before."""
    path = encode(tmp_path / f"a.{suffix}", noise().astype(np.float32), "aac")
    good = everything(path)
    wrong_time_stamp(path, flipped)
    samples, messages = remarks(path)
    assert messages == ""
    assert torch.equal(samples, good)


def test_an_aac_cut_in_its_last_frame(tmp_path):
    path = encode(tmp_path / "a.aac", noise().astype(np.float32), "aac")
    good = everything(path)
    path.write_bytes(path.read_bytes()[:-20])
    bad, messages = remarks(path)
    assert bad.shape == good.shape
    assert torch.equal(bad[:, :-2048], good[:, :-2048])
    assert not bad[:, -1024:].any()
    assert "is damaged: nothing can be decoded at" in messages


def test_a_file_of_which_most_is_lost_is_refused(tmp_path):
    path = encode(tmp_path / "a.m4a", noise().astype(np.float32), "aac")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in [p for p in container.demux(audio=0) if p.size][5:-5]:
            data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(bytes(data))
    with pytest.raises(AudioError, match=r"a.m4a is damaged: only \d.\d\d of its 3.0\d s can be decoded"):
        read_audio(path)


def test_time_stamps_that_jitter_are_no_damage(tmp_path):
    """As browsers record: every packet has the time at which it came."""
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "a.mka"), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="stereo")
        samples = (noise() * 2**15).astype(np.int16)
        for start in range(0, LENGTH - 4096, 4096):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[start : start + 4096].reshape(1, -1)), "s16", "stereo"
            )
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            for packet in stream.encode(frame):
                packet.pts += int(rng.integers(0, 2000))
                packet.dts = packet.pts
                container.mux(packet)
        container.mux(stream.encode())
    assert everything(tmp_path / "a.mka").shape[1] == LENGTH // 4096 * 4096


# --- siblings of the above in other formats


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("m4a", "aac"), ("wma", "wmav2"), ("flv", "aac"), ("tta", "tta"), ("wv", "wavpack"),
        ("caf", "pcm_s16be"), ("au", "pcm_s16be"), ("w64", "pcm_s16le"),
    ],
)  # fmt: skip
def test_two_of_a_format_one_behind_the_other(tmp_path, suffix, codec):
    if codec.startswith("pcm"):
        soundfile.write(tmp_path / f"a.{suffix}", noise(), RATE, "PCM_16")
    else:
        encode(tmp_path / f"a.{suffix}", noise(), codec)
    alone, data = remarks(tmp_path / f"a.{suffix}")[0], (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(data + data)
    samples, messages = remarks(tmp_path / f"b.{suffix}")
    assert messages == ""
    assert samples.shape[1] == 2 * alone.shape[1]
    torch.testing.assert_close(samples[:, -60_000:], alone[:, -60_000:], atol=0.1, rtol=0)


@pytest.mark.parametrize("suffix", ["flac", "m4a", "mka", "24.wav"])
def test_coded_sound_in_other_files_is_no_music(tmp_path, suffix):
    burst = np.full((2, 1536), 0, np.int16)
    burst[:, :1] = [[-0x078E], [0x4E1F]]  # the mark of IEC 61937
    samples = np.tile(burst, 8).T / 2**15
    if suffix in ("flac", "24.wav"):
        soundfile.write(tmp_path / f"a.{suffix}", samples, 48000, "PCM_24" if suffix == "24.wav" else "PCM_16")
    else:
        encode(tmp_path / f"a.{suffix}", samples, {"m4a": "alac", "mka": "flac"}[suffix], 48000)
    with pytest.raises(AudioError, match="is no music as it stands"):
        read_audio(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_adpcm_cut_off_or_never_finished(tmp_path, subtype):
    data = pcm("WAV", subtype)
    (tmp_path / "a.wav").write_bytes(bytes(data))
    whole = everything(tmp_path / "a.wav")
    (tmp_path / "cut.wav").write_bytes(bytes(data[: len(data) * 2 // 3]))
    samples, messages = remarks(tmp_path / "cut.wav")
    assert 0.6 < samples.shape[1] / whole.shape[1] < 0.7
    assert "cut.wav is cut off: its header promises " in messages
    put(data, data.find(b"data") + 4, 0)
    (tmp_path / "b.wav").write_bytes(bytes(data))
    samples, messages = remarks(tmp_path / "b.wav")
    assert "never finished" in messages
    assert samples.shape == whole.shape


def test_a_cut_wavpack_is_named(tmp_path):
    encode(tmp_path / "a.wv", noise(), "wavpack")
    data = (tmp_path / "a.wv").read_bytes()
    (tmp_path / "a.wv").write_bytes(data[: len(data) // 2])
    assert "a.wv is cut off: its header promises 3.00 s" in remarks(tmp_path / "a.wv")[1]


def test_zeros_behind_an_mp3_are_no_sound(tmp_path):
    data = mp3(tmp_path / "a.mp3")
    (tmp_path / "b.mp3").write_bytes(data + bytes(3000))
    assert LENGTH <= everything(tmp_path / "b.mp3").shape[1] < LENGTH + MP3_FRAME


def test_an_mp3_in_a_wav_that_was_never_finished(tmp_path):
    encode(tmp_path / "a.wav", noise(), "mp3")
    whole, data = everything(tmp_path / "a.wav"), bytearray((tmp_path / "a.wav").read_bytes())
    put(data, data.find(b"data") + 4, 0)
    (tmp_path / "a.wav").write_bytes(bytes(data))
    samples, _ = remarks(tmp_path / "a.wav")
    assert torch.equal(samples[:, : whole.shape[1]], whole)


def test_two_streams_in_an_ogg_are_named(tmp_path):
    with av.open(str(tmp_path / "a.ogg"), "w") as container:
        streams = [container.add_stream("flac", rate=RATE, layout="stereo") for _ in range(2)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(noise()[:4096], np.float32).reshape(1, -1), "flt", "stereo"
            )
            frame.sample_rate = RATE
            for converted in av.AudioResampler("s16", "stereo", RATE, frame_size=4096).resample(frame):
                container.mux(stream.encode(converted))
            container.mux(stream.encode())
    assert "a.ogg has the audio streams 0, 1; 0 is read" in remarks(tmp_path / "a.ogg")[1]
