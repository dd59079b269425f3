"""How a network is applied to a long signal. Needs no torch, so that the command line can show its options at once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from ..errors import RecipeError, nearest

PRECISIONS = ("float32", "bf16", "fp16")
SHORTEST_CHUNK_SECONDS = 0.01  # below a frame of the STFT each sample would be computed a thousand times and more


@dataclass(frozen=True)
class InferenceOptions:
    """How a network is applied to a long signal; `RecipeError` for options that make no sense, whatever the network.

    How:
        chunk_seconds (SECONDS): length of a chunk (default: the recipe's)
        overlap (SHARE): share of a chunk that the next one repeats, cross-faded (default: the recipe's)
        shifts (N): average the estimates over N positions of the chunks' borders
        batch (N): chunks at once (default: auto, found by trying)
        precision (WORD): float32, bf16, fp16
    """

    chunk_seconds: float | None = None
    overlap: float | None = None
    shifts: int = 1
    batch: int | str = "auto"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.chunk_seconds is not None and not SHORTEST_CHUNK_SECONDS <= self.chunk_seconds < float("inf"):
            raise RecipeError(f"chunk_seconds {self.chunk_seconds}; expected at least {SHORTEST_CHUNK_SECONDS}.")
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise RecipeError(f"overlap {self.overlap}; expected 0 up to 1.")
        counts = [self.shifts] if self.batch == "auto" else [self.shifts, self.batch]
        if not all(isinstance(count, Integral) and count >= 1 for count in counts):
            raise RecipeError(
                f"shifts {self.shifts!r}, batch {self.batch!r}; expected whole numbers, at least 1 each, or the batch "
                "auto."
            )
        if self.precision not in PRECISIONS:
            raise RecipeError(f"precision {self.precision!r} is unknown; expected one of {', '.join(PRECISIONS)}.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "InferenceOptions":
        """From options by name; `RecipeError` for an unknown one."""
        known = [field.name for field in fields(cls)]
        if unknown := next((name for name in options if name not in known), None):
            raise RecipeError(f"the option {unknown!r} is unknown.{nearest(unknown, known)} Known: {', '.join(known)}.")
        return cls(**options)
