"""Reads audio with the FFmpeg libraries inside PyAV: one audio stream of a file or pipe; lost parts keep their
length.
"""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from ..errors import AudioError
from . import ogg
from .base import MEND, SNIFFED_SAMPLES, AudioReader, Window, is_packed, packed_error
from .clock import JUMP_SECONDS, Ahead, Clock, Decoded
from .convert import Uniform

# Streams of frames without a container: their time stamps count packets, whatever lies between them.
BARE = ("mp3", "aac", "ac3", "eac3", "dts", "dtshd", "flac", "loas", "mlp", "truehd")
MP4_FRAME = 4096  # samples; the last coded frame of an mp4 may hang over the end by less
PREROLL_SECONDS = 1.0  # decoded and dropped behind a seek: a decoder begins with what came before
SEARCHED_BYTES = 1 << 22  # for the next packet
MOST_FAILURES = 8  # of reading in a row
COUNTED = ("flac", "wav", "w64", "aiff", "au", "caf", "tta", "ape", "wv")  # whose headers count samples
LOSSLESS_CODECS = ("flac", "alac", "wavpack", "tta", "ape")


class Pipe:
    """A stream for PyAV: it gives the available bytes without waiting for more, and stores exceptions.

    PyAV calls it from within FFmpeg and drops exceptions, including Ctrl-C; the reader raises them afterwards.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.raised = file, None
        self.close = file.close

    raised: BaseException | None

    def read(self, n_bytes: int) -> bytes:
        if self.raised is not None:  # FFmpeg asks again
            return b""
        try:
            return self.file.read1(n_bytes) if hasattr(self.file, "read1") else self.file.read(n_bytes)
        except BaseException as error:
            self.raised = error
            return b""

    def check(self) -> None:
        if self.raised is not None:
            raise self.raised


# What FFmpeg may read of a stream before it gives the first sample; else it waits for seconds of it.
PIPE_PROBING = {"probesize": "32768", "analyzeduration": "100000"}  # bytes, microseconds


class FfmpegReader(AudioReader):
    """Audio stream ``stream`` of a file, decoded by FFmpeg; None: the one marked as default, else the first."""

    def __init__(self, path: Path, file: BinaryIO | Window | Pipe, stream: int | None = None, strict: bool = False):
        super().__init__(path, strict)
        self.n_samples = None
        self.resources = ExitStack()
        self.resources.callback(file.close)
        self.pipe = file if isinstance(file, Pipe) else None
        try:
            # Given an open file and no protocol, a playlist cannot make FFmpeg open anything else.
            options = {"protocol_whitelist": "none", **(PIPE_PROBING if self.pipe else {})}
            self.container = self.resources.enter_context(av.open(file, options=options))
            self.stream = self._chosen(stream)
            self._describe()
        except (FFmpegError, ValueError) as error:
            self.close()
            self._check_pipe()
            raise self._unreadable(error) from None
        except AudioError:
            self.close()
            raise
        window = file if "ogg" in self.format and isinstance(file, Window) else None
        self.lost = ogg.Losses.of(*window.mapped()) if window else ogg.Losses()
        self.made = 0  # samples decoded so far
        self.tags_end = 0  # byte behind the last tag
        self.place = 0  # byte behind the last packet
        self.again: BinaryIO | None = None  # the same file, to see what lies between packets
        if self.format in BARE and self.path.is_file() and not isinstance(file, Window | Pipe):
            self.again = self.resources.enter_context(self.path.open("rb"))
        self.frame_pts = 0
        self.decoded = self._frames()
        self.rest = np.empty((self.n_channels, 0), np.float32)
        if self.lossless_bits in (16, 24) and not self.pipe:
            self._refuse_packed()

    def _refuse_packed(self) -> None:
        try:
            samples = self._read(SNIFFED_SAMPLES)
            self.rest = np.concatenate([samples, self.rest], axis=1)
            if is_packed(np.clip(samples.T * 2**15, -(2**15), 2**15 - 1).astype("<i2").tobytes()):
                raise packed_error(self.path)
        except AudioError:
            self.close()
            raise

    def _unreadable(self, error: Exception) -> AudioError:
        size = f" ({self.path.stat().st_size} bytes)" if self.path.is_file() else ""
        return AudioError(
            f"{self.path}{size} cannot be read as audio: {_ffmpeg_reason(error)}. If it plays elsewhere, export it as "
            "wav or flac there; else copy it again or restore a backup."
        )

    def _check_pipe(self) -> None:
        if self.pipe:
            self.pipe.check()

    def _chosen(self, stream: int | None) -> Any:
        streams = self.container.streams.audio
        if len(streams) <= (stream or 0):
            wanted = f"no audio stream {stream}" if stream else "no sound"
            raise AudioError(f"{self.path} has {wanted}: {_streams(self.container)}.")
        if stream is not None or len(streams) == 1:
            return streams[stream or 0]
        chosen = next((i for i, s in enumerate(streams) if s.disposition & Disposition.default), 0)
        languages = [f"{i}{f' ({s.language})' if s.language else ''}" for i, s in enumerate(streams)]
        self.notes.append(
            f"{self.path} has the audio streams {', '.join(languages)}; {chosen} is read. --stream N takes another."
        )
        return streams[chosen]

    def _describe(self) -> None:
        stream, codec = self.stream, self.stream.codec_context
        if codec is None or codec.format is None or not codec.channels or not stream.rate:
            raise AudioError(
                f"{self.path} cannot be read as audio: FFmpeg finds no sound in it that it could decode. {MEND}"
            )
        self.sample_rate_hz, self.n_channels, self.format = stream.rate, codec.channels, self.container.format.name
        ints = {"u8": 16, "s16": 16, "s32": 24}  # FFmpeg gives 24-bit samples as 32
        exact = codec.name.startswith("pcm_") or codec.name in LOSSLESS_CODECS
        self.lossless_bits = ints.get(codec.format.name.removesuffix("p"), 32) if exact else None
        # Damage that a checksum shows is an error; the padding of an mp3 is cut here: its tag may be wrong.
        codec.options = {
            "err_detect": "crccheck+explode",
            **({"flags2": "+skip_manual"} if self.format == "mp3" else {}),
        }
        seconds = None
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif self.container.duration:
            seconds = self.container.duration / av.time_base
        self.about_samples = round(seconds * self.sample_rate_hz) if seconds else None
        # The last frame of AAC is filled up; an mp4 says where the sound ends, and FFmpeg leaves that to us.
        self.end = self.about_samples if "mp4" in self.format and stream.duration else None
        self.priming = 0
        if self.end and (apple := self.container.metadata.get("iTunSMPB", "").split())[3:]:
            with suppress(ValueError):
                self.priming, self.end = int(apple[1], 16), int(apple[3], 16)
        counted = self.format in COUNTED or ("matroska" in self.format and len(self.container.streams) == 1)
        self.stated_end = self.end or (self.about_samples if counted else None)
        self.scale = (stream.time_base or 0) * self.sample_rate_hz  # samples per time stamp

    # --- packets → frames → float32

    def _frames(self) -> Iterator[np.ndarray]:
        """(channels, n) per frame, as float32, with silence where something is lost."""
        jittery = "matroska" in self.format and "opus" in self.stream.codec_context.name  # as browsers write it
        clock = Clock(float(self.scale), self.sample_rate_hz, self.format in BARE, jittery)
        if self.lost.before:
            clock.expected = 0.0
        sound = _Floats(self.sample_rate_hz, self.n_channels)
        last, zeros = b"", True  # whether nothing but zeros follows the last good frame
        decoded = Ahead(self._decoded())
        for packet, frames, n_bytes in decoded:
            if packet.size and self.format == "mp3":
                last = bytes(packet)
            skipped, padding = _trimming(packet) if self.format == "mp3" else (0, 0)
            if self.end is not None:
                self._refine_end(packet)
            if n_bytes:
                clock.failed(n_bytes, packet)
                zeros = False
            if frames is None:
                clock.failed(packet.size, packet)
                zeros &= self.format in BARE and packet.size > 0 and not any(bytes(packet))
                continue
            zeros |= bool(frames)
            if self.priming:
                if not packet.has_sidedata("skip_samples"):  # FFmpeg did not read the tag
                    sound.skip, self.scale = self.priming, 0  # no place is found by its time stamps
                self.priming = 0
            for frame in frames:
                missing = clock.missing_before(frame, packet.size, decoded)
                yield from self._silence(missing, sound)
                self.frame_pts = frame.pts or 0
                for samples in sound.push(frame, skipped, padding):
                    self.made += samples.shape[1]
                    yield samples
        left = self.stated_end - self.made if self.stated_end and self.format == "flac" else clock.owed
        yield from self._silence(0 if zeros else min(clock.owed, left), sound)
        for samples in sound.uniform.finish():
            self.made += samples.shape[1]
            yield samples
        self._check_end(b"" if zeros and clock.failures else last)

    def _decoded(self) -> Iterator[Decoded]:
        for packet in self._packets():
            frames = self._decode(packet)
            yield packet, frames, self._left_out(packet)

    def _refine_end(self, packet: Any) -> None:
        """The length that an mp4 states may be rounded to milliseconds; where its last packet agrees, that counts."""
        if packet.pts is not None and packet.duration:
            coded_end = round((packet.pts - (self.stream.start_time or 0) + packet.duration) * self.scale)
            if self.stated_end is not None and abs(coded_end - self.stated_end) <= self.sample_rate_hz / 1000:
                self.end = coded_end

    def _packets(self) -> Iterator[Any]:
        """What the container holds; behind an error it is tried again."""
        failures = 0
        while True:
            try:
                for packet in self._in_place(self.container.demux(self.stream)):
                    failures = 0
                    yield packet
                self._check_pipe()
                return
            except (FFmpegError, ValueError) as error:
                self._check_pipe()
                failures += 1
                if self.made == 0:
                    if self.pipe and "mp4" in self.format:
                        raise AudioError(
                            f"{self.path} is an mp4 whose index may lie at its end, which cannot be read from a "
                            "stream; give it as a file, or write it with ffmpeg -movflags +faststart."
                        ) from None
                    raise self._unreadable(error) from None
                if failures == MOST_FAILURES:
                    self.end_early(f"nothing behind {self.made / self.sample_rate_hz:.2f} s can be read")
                    return

    def _in_place(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets of an Ogg's page behind a lost one at their time; FFmpeg has them follow the page before."""
        if not self.lost.followed_by:
            yield from packets
            return
        for place, group in groupby(packets, key=lambda packet: packet.pos if packet.size else None):
            in_page = list(group)
            page = self.lost.followed_by.get(place) if place is not None else None
            if page is not None and all(packet.pts is not None and packet.duration for packet in in_page):
                self._put_in_place(in_page, page)
            yield from in_page

    def _put_in_place(self, packets: list[Any], page: ogg.OggPage) -> None:
        first, lengths = packets[0], [packet.duration for packet in packets]
        if len(packets) > 1 and packets[1].pts != first.pts + lengths[0]:  # Vorbis: only the first is wrong
            first.pts = first.dts = packets[1].pts - lengths[0]
            return
        codec = self.stream.codec_context
        skipped = int.from_bytes(codec.extradata[10:12], "little") if codec.name == "opus" else 0  # RFC 7845, 5.1
        if page.last:  # FFmpeg lets its last packet end where the page does
            lengths[-1] = min(lengths[-2:])
        late = page.granule - skipped - sum(lengths) - first.pts
        if page.last and codec.name == "opus":  # whole packets are lost; the end may be cut within one
            late = -(-late // lengths[0]) * lengths[0]
        for packet in packets:
            packet.pts = packet.dts = packet.pts + late

    def _decode(self, packet: Any) -> list[Any] | None:
        """The frames of a packet; None if it is damaged."""
        try:
            if self.format in BARE and packet.size and packet.pos is not None:
                rest = self._behind_tags(packet)
                if len(rest) < packet.size:
                    with suppress(FFmpegError):
                        return self.stream.codec_context.decode(av.Packet(bytes(rest))) if rest else []
                    return []
            frames: list[Any] = packet.decode()
        except (FFmpegError, ValueError):
            self._check_pipe()
            return None
        if not frames and packet.size and self.made:
            return None
        short_last = self.stream.codec_context.name.startswith("pcm_") or self.format in ("wav", "w64")
        if short_last:  # a shorter last packet counts as corrupt
            return frames
        return None if packet.size and (packet.is_corrupt or any(frame.is_corrupt for frame in frames)) else frames

    def _behind_tags(self, packet: Any) -> memoryview:
        """What a packet holds but names and pictures, which also stand where one file ends and the next begins."""
        data = memoryview(packet)
        place = max(0, self.tags_end - packet.pos)
        while size := tag_size(bytes(data[place : place + 16])):
            place += size
        if not place:
            return data
        self.tags_end = packet.pos + place
        about_the_file = any(name in bytes(data[place : place + 64]) for name in (b"Xing", b"Info", b"VBRI"))
        return data[len(data) :] if about_the_file else data[place:]

    def _left_out(self, packet: Any) -> int:
        """Bytes that FFmpeg left out before a packet since they are no frame, nor a tag; its own places are no help."""
        if self.again is None or not packet.size:
            return 0
        head = bytes(memoryview(packet)[:16])
        self.again.seek(self.place)
        data, left_out = self.again.read(len(head)), 0
        if data != head:
            data += self.again.read(SEARCHED_BYTES)
            left_out = max(0, data.find(head))
        self.place += left_out + packet.size
        return max(0, left_out - tag_size(data)) if self.made else 0

    def _silence(self, n_samples: int, sound: "_Floats") -> Iterator[np.ndarray]:
        if n_samples < 1:
            return
        for samples in sound.finish():
            self.made += samples.shape[1]
            yield samples
        self._lose(self.made, n_samples)
        self.made += n_samples
        for start in range(0, n_samples, self.sample_rate_hz):
            yield np.zeros((self.n_channels, min(self.sample_rate_hz, n_samples - start)), np.float32)

    def _check_end(self, last: bytes) -> None:
        self._check_share(self.made)
        if self.stated_end and self.made < self.stated_end - max(MP4_FRAME, self.sample_rate_hz // 10):
            self.end_early(self.promise(self.stated_end, self.made))
        elif self.lost.behind:
            self.end_early(f"nothing behind {self.made / self.sample_rate_hz:.2f} s can be decoded")
        elif self.format == "mp3" and _is_half_a_frame(last):
            self.end_early(f"it ends in the middle of a frame, at {self.made / self.sample_rate_hz:.2f} s")

    # --- the samples asked for

    def skip(self, n_samples: int) -> int:
        """In an mp4, where time stamps count samples, decoding begins a little before the place.

        This is exact except for the noise that an AAC decoder generates.
        """
        target, preroll = self.position + n_samples, round(PREROLL_SECONDS * self.sample_rate_hz)
        entry = min(target, self.end or 0) - preroll  # FFmpeg takes no place far behind the end
        if self.end is not None and not self.priming and self.scale == 1 and entry > self.position + preroll:
            self.container.seek(entry + (self.stream.start_time or 0), stream=self.stream)
            self.decoded = self._frames()
            self.rest = next(self.decoded, self.rest[:, :0])
            self.position = self.frame_pts - (self.stream.start_time or 0)
            self.made = self.position + self.rest.shape[1]
        return super().skip(target - self.position)

    def _read(self, n_samples: int) -> np.ndarray:
        parts, n_decoded = [self.rest], self.rest.shape[1]
        # Of an mp4 some frames ahead, to see whether the end is near.
        wanted = n_samples + (MP4_FRAME if self.end is not None else 0)
        while n_decoded < wanted and (frame := next(self.decoded, None)) is not None:
            parts.append(frame)
            n_decoded += frame.shape[1]
        samples = np.concatenate(parts, axis=1)
        at_end = n_decoded < wanted
        if at_end and self.end is not None and 0 < self.position + n_decoded - self.end < MP4_FRAME:
            samples = samples[:, : max(0, self.end - self.position)]
        if at_end and self.position + samples.shape[1] == 0:
            raise AudioError(f"{self.path} holds no samples. {MEND}")
        self.rest = samples[:, n_samples:]
        return samples[:, :n_samples]

    def close(self) -> None:
        with suppress(FFmpegError):
            self.resources.close()


def has_jumps(file: BinaryIO | Window) -> bool:
    """Whether a part is missing before the end of a file with time stamps, found without decoding it."""
    expected: float | None = None
    try:
        with av.open(file, options={"protocol_whitelist": "none"}) as container:
            for packet in container.demux(container.streams.audio[0]):
                if packet.pts is not None:
                    place = float(packet.pts * packet.time_base)
                    if expected is not None and abs(place - expected) > JUMP_SECONDS[0]:
                        return True
                    expected = place + float((packet.duration or 0) * packet.time_base)
    except (FFmpegError, ValueError, IndexError):
        return True
    return False


class _Floats:
    """Decoded frames as float32 (channels, n) of one rate and number of channels, without an encoder's padding.

    Where the padding ends a tag says, which may be wrong: as many samples as it says are held back up to the true end.
    """

    def __init__(self, sample_rate_hz: int, n_channels: int):
        self.uniform = Uniform(sample_rate_hz, n_channels)
        self.kind: tuple[str, str, int] | None = None
        self.skip = self.padding = 0
        self.held = np.empty((n_channels, 0), np.float32)

    def push(self, frame: Any, skipped: int, padding: int) -> Iterator[np.ndarray]:
        """The samples of a frame, without ``skipped`` ones from there on and ``padding`` ones at the end of all."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self.kind:
            # Interleaved: PyAV reads only eight planes.
            self.convert = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
            self.kind = kind
        n_channels, rate = frame.layout.nb_channels, frame.sample_rate
        frame.pts = None  # the resampler would fill gaps between time stamps
        self.skip += skipped
        self.padding += padding
        for converted in self.convert.resample(frame):
            samples = converted.to_ndarray().reshape(-1, n_channels).T
            here = min(self.skip, samples.shape[1])
            self.skip -= here
            for uniform in self.uniform.push(samples[:, here:], rate):
                if self.padding:
                    self.held = np.concatenate([self.held, uniform], axis=1)
                    ready = max(0, self.held.shape[1] - self.padding)
                    uniform, self.held = self.held[:, :ready], self.held[:, ready:]
                yield uniform

    def finish(self) -> list[np.ndarray]:
        """What is left before something else follows."""
        held, self.held = self.held, self.held[:, :0]
        return [held, *self.uniform.finish()]


def _trimming(packet: Any) -> tuple[int, int]:
    """Samples of the encoder's own at the beginning and at the end of a packet's."""
    for data in packet.iter_sidedata():
        if data.data_type == "skip_samples":
            values = bytes(data)
            return int.from_bytes(values[:4], "little"), int.from_bytes(values[4:8], "little")
    return 0, 0


def tag_size(data: bytes) -> int:
    """The size of the tag with names and pictures that begins here; 0 if there is none."""
    if data[:3] == b"ID3" and len(data) >= 10:
        a, b, c, d = data[6:10]
        return 10 + (a << 21 | b << 14 | c << 7 | d)  # seven bits each
    if data[:8] == b"APETAGEX":
        return 32 + int.from_bytes(data[12:16], "little")
    return 128 if data[:3] == b"TAG" else 0


def _is_half_a_frame(data: bytes) -> bool:
    """Whether an mp3's frame has fewer bytes than its own header says: then the parser waits for more."""
    return bool(data) and not av.CodecContext.create("mp3", "r").parse(data)


def _streams(container: Any) -> str:
    kinds = [f"{stream.type} stream {stream.index}" for stream in container.streams]
    return f"FFmpeg finds {' and '.join(kinds)} in it" if kinds else "FFmpeg finds nothing in it"


def _ffmpeg_reason(error: Exception) -> str:
    """FFmpeg's last words about the file, without its error number."""
    logged = getattr(error, "log", None)
    text = logged[2] if logged else getattr(error, "strerror", None) or str(error)
    return text.strip().rstrip(".")[:1].lower() + text.strip().rstrip(".")[1:]
