"""Chains: files that consist of several audio files joined together."""

from pathlib import Path

import numpy as np

from ..errors import AudioError
from .base import AudioReader, Window
from .convert import Uniform
from .ffmpeg import FfmpegReader
from .sndfile import SoundfileReader, open_window

Piece = tuple[int, int, bool]  # bytes from and to, whether libsndfile reads it


def open_piece(path: Path, piece: Piece, strict: bool) -> AudioReader:
    """A reader of the bytes of one piece."""
    start, stop, trusted = piece
    window = Window(path, start, stop)
    if trusted:
        return SoundfileReader(path, open_window(window), strict, window)
    return FfmpegReader(path, window, None, strict)


class ChainReader(AudioReader):
    """Several audio files joined into one, as in radio recordings, at the rate and with the channels of the first."""

    def __init__(self, path: Path, pieces: tuple[Piece, ...], strict: bool):
        super().__init__(path, strict)
        self.left = list(pieces)
        self.piece: AudioReader | None = open_piece(path, self.left.pop(0), strict)
        first = self.piece
        self.sample_rate_hz, self.n_channels, self.format = first.sample_rate_hz, first.n_channels, first.format
        self.lossless_bits = first.lossless_bits
        self.n_samples = None if first.n_samples is None else self._whole_length(pieces)
        first_share = pieces[0][1] / pieces[-1][1]
        self.about_samples = self.n_samples or (first.about_samples and round(first.about_samples / first_share))
        self.uniform = Uniform(self.sample_rate_hz, self.n_channels)
        self.rest = np.empty((self.n_channels, 0), np.float32)
        self.made = self.begun = 0  # samples so far, and where the piece begins
        self.earlier: list[tuple[int, int]] = []  # gaps before the piece

    def _whole_length(self, pieces: tuple[Piece, ...]) -> int | None:
        if not all(trusted for _, _, trusted in pieces):
            return None
        total = 0
        for piece in pieces:
            with open_piece(self.path, piece, False) as reader:
                total += -(-(reader.n_samples or 0) * self.sample_rate_hz // reader.sample_rate_hz)
        return total

    def _read(self, n_samples: int) -> np.ndarray:
        parts = [self.rest]
        while sum(part.shape[1] for part in parts) < n_samples and self.piece is not None:
            parts += self._more(self.piece, n_samples)
        samples = np.concatenate(parts, axis=1)
        self.rest = samples[:, n_samples:]
        return samples[:, :n_samples]

    def _more(self, piece: AudioReader, n_samples: int) -> list[np.ndarray]:
        """What comes next of the piece; at its end it is closed, and the next one opened."""
        try:
            block = piece.read(n_samples).numpy()
        except AudioError as error:
            self._leave_out(error)
            block = self.rest[:, :0]
        share = self.sample_rate_hz / piece.sample_rate_hz
        here = [(self.begun + round(start * share), self.begun + round(stop * share)) for start, stop in piece.gaps]
        self.gaps = [*self.earlier, *here]
        made = self.uniform.push(block, piece.sample_rate_hz) if block.shape[1] else self.uniform.finish()
        self.made += sum(part.shape[1] for part in made)
        if not block.shape[1]:
            self._advance()
        return made

    def _advance(self) -> None:
        self.close()
        self.piece, self.begun, self.earlier = None, self.made, list(self.gaps)
        while self.left and self.piece is None:
            try:
                self.piece = open_piece(self.path, self.left.pop(0), self.strict)
            except AudioError as error:
                self._leave_out(error)

    def _leave_out(self, error: AudioError) -> None:
        if self.strict:
            raise error
        self.notes.append(f"A part of {self.path} from {self.made / self.sample_rate_hz:.2f} s on is left out: {error}")

    def skip(self, n_samples: int) -> int:
        """Nothing is decoded within pieces that have exact seeking."""
        target = self.position + n_samples
        while (
            (piece := self.piece) is not None
            and piece.n_samples is not None
            and piece.sample_rate_hz == self.sample_rate_hz
            and self.rest.shape[1] == 0
            and self.position < target
        ):
            here = min(target - self.position, piece.n_samples - piece.position)
            piece.skip(here)
            self.position += here
            self.made += here
            if piece.position == piece.n_samples:
                self._advance()
        return super().skip(target - self.position)

    def close(self) -> None:
        if self.piece:
            self.piece.close()
