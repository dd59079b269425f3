"""What is to become of every song. Needs no torch, so that the command line can show its options at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from ...errors import RecipeError
from ..texts import Sums, Time

CLIPS = ("auto", "rescale", "clamp", "none")


@dataclass(frozen=True)
class SeparationOptions:
    """What is to become of every song.

    What is written:
        head (NAME): heads to write (default: all, or only the sums asked for)
        residual: also the input without all of these heads
        accompaniment: also the input without each of these heads
        sum (NAME+NAME): also the sum of these heads
        start_seconds (TIME): where to begin: seconds, m:ss or h:mm:ss
        duration_seconds (TIME): how much to separate (default: to the end)
        stream (N): audio stream of a video, from 0 (default: the one marked as default)
        strict: refuse damaged files (default: silence for lost parts)

    Files:
        out (DIR): where the stems go
        name (PATTERN): the path of a stem in that folder
        overwrite: replace existing files
        skip_existing: skip songs whose stems all exist
        format (FORMAT): wav, flac, mp3 or ogg (default: flac for flac, else wav)
        bits (BITS): 16, 24 or 32f (default: the input's where it is lossless, else the most)
        quality (Q): of mp3 and ogg, 0 to 10, the best (default: about 5)
        clip (CLIP): rescale all stems together, clamp, none (default: auto, rescale integers)

    How:
        wiener ([ITERATIONS]): filter the heads (default: no, without a number 1)
    """

    head: Sequence[str] | None = None  # None, or "all": all
    residual: bool = False
    accompaniment: bool = False
    sum: Sums = ()
    start_seconds: Time = 0.0
    duration_seconds: Time | None = None
    stream: int | None = None
    strict: bool = False
    out: Path = Path("separated")
    name: str = "{model}/{track}/{head}"
    overwrite: bool = False
    skip_existing: bool = False
    format: str | None = None
    bits: str | None = None
    quality: float | None = None
    clip: str = "auto"
    wiener: int = 0

    @property
    def heads(self) -> Sequence[str] | None:
        """The heads that are written or summed; None for all."""
        return None if self.head is None or list(self.head) == ["all"] else self.head

    @property
    def only_sums(self) -> bool:
        """Whether the heads are needed for sums alone."""
        return self.head is None and bool(self.sum)

    @property
    def compression(self) -> float | None:
        """libsndfile's level for that quality."""
        return None if self.quality is None else min(1 - self.quality / 10, 0.99)  # 1 is one that mp3 has not

    @property
    def needed(self) -> list[str] | None:
        """The heads that must run, None for all."""
        if self.heads is None and not self.only_sums:
            return None
        return list(dict.fromkeys([*(self.heads or ()), *(name for heads in self.sum for name in heads)]))

    def check(self) -> None:
        """`RecipeError` for what cannot be had, before anything is loaded."""
        self._check_files()
        if self.stream is not None and self.stream < 0:
            raise RecipeError(f"stream {self.stream}; expected the number of an audio stream, from 0 on.")
        if self.wiener < 0:
            raise RecipeError(f"wiener {self.wiener}; expected a number of iterations, at least 1, or 0 for none.")
        if self.heads is not None and not self.heads:
            raise RecipeError("no heads are chosen; expected their names, or all.")
        for names in self.sum:
            if len(names) < 2 or len(set(names)) < len(names):
                raise RecipeError(f"the sum {'+'.join(names)!r} cannot be made; expected two heads or more, each once.")
        if not fits_as_name(self.name):
            raise RecipeError(
                f"the name {self.name!r} cannot be used; expected a pattern of {{model}}, {{track}} and {{head}}."
            )

    def _check_files(self) -> None:
        from ...audio import SUBTYPES
        from ...separation.source import as_samples

        if self.format is not None and self.format not in SUBTYPES:
            raise RecipeError(f"format {self.format!r} is unknown; expected one of {', '.join(SUBTYPES)}.")
        known = SUBTYPES[self.format or "wav"]
        if self.bits is not None and self.bits not in known:
            possible = ", ".join(bits for bits in known if bits) or "none: its coding is lossy"
            raise RecipeError(f"{self.format or 'wav'} with bits {self.bits!r} is not possible; expected {possible}.")
        if self.quality is not None and not 0 <= self.quality <= 10:
            raise RecipeError(f"quality {self.quality:g}; expected 0 (smallest files) to 10 (best).")
        if self.quality is not None and self.format not in ("mp3", "ogg"):
            raise RecipeError("--quality is that of lossy files; it requires --format mp3 or ogg.")
        if self.overwrite and self.skip_existing:
            raise RecipeError("--overwrite and --skip-existing exclude each other; leave out one of them.")
        if str(self.out) == "-":
            raise RecipeError("--out is '-'; expected a folder: several stems do not fit into standard output.")
        as_samples(1, self.start_seconds, self.duration_seconds)
        if self.clip not in CLIPS:
            raise RecipeError(f"clip {self.clip!r} is unknown; expected one of {', '.join(CLIPS)}.")


def fits_as_name(pattern: str) -> bool:
    """Whether a name can be made of it: no fields but model, track and head, and something behind the last slash."""
    try:
        fields = {field for _, field, _, _ in Formatter().parse(pattern) if field is not None}
        if not fields <= {"model", "track", "head"}:
            return False
        return pattern.format(model="m", track="t", head="h").rpartition("/")[2].strip(".") != ""
    except ValueError:
        return False
