"""The written outputs: heads, sums, accompaniments and residuals of the estimates; computed exactly, then rounded."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

import torch
from torch import Tensor

from ...audio import INTEGER_BITS, SUBTYPES, open_audio, quantise
from ...errors import RecipeError
from ...separation.chunks import BatchSize, aligned, overlap_add
from ...separation.separator import Separator
from ...separation.source import Source
from ...separation.wiener import wiener
from .ensemble import Ensemble, HeadRef
from .options import SeparationOptions

WIENER_SECONDS = 6.0  # how long a piece the filter is fitted to
WIENER_WINDOW_SECONDS = 0.093


@dataclass(frozen=True)
class Output:
    """One file: the shares of the mixture and of the heads in it, and whether it contains the rounding errors."""

    model: str
    name: str
    mixture: float
    shares: Mapping[int, float]
    residual: bool = False


def outputs(ensemble: Ensemble, wanted: SeparationOptions) -> list[Output]:
    """Every file of a song: heads, sums, accompaniments, residuals (the mixture without all heads in any of these).

    Raises `RecipeError` for a sum of heads that no group has.
    """
    refs, groups = ensemble.refs, ensemble.groups
    written = () if wanted.only_sums else wanted.heads
    chosen = [i for i, ref in enumerate(refs) if written is None or ref.head in written]
    result = [Output(refs[i].model, refs[i].head, 0.0, {i: 1.0}) for i in chosen]
    for names in wanted.sum:
        places = [{refs[i].head: i for i in group if refs[i].head in names} for group in groups]
        places = [found for found in places if set(found) == set(names)]
        if not places:
            raise RecipeError(f"--sum {'+'.join(names)}: no run has all of these heads.")
        for found in map(list, (p.values() for p in places)):
            result.append(Output(_model(refs, found), "+".join(names), 0.0, dict.fromkeys(found, 1.0)))
    used = {i for part in result for i in part.shares}
    for i in chosen if wanted.accompaniment else ():
        alone = sum(refs[j].model == refs[i].model for j in chosen) == 1
        name = "accompaniment" if alone else f"{refs[i].head}-accompaniment"
        result.append(Output(refs[i].model, name, 1.0, {i: -1.0}))
    for group in groups if wanted.residual else ():
        used_here = [i for i in group if i in used]
        if used_here:
            result.append(
                Output(_model(refs, used_here), "residual", 1.0, dict.fromkeys(used_here, -1.0), residual=True)
            )
    return result


def _model(refs: Sequence[HeadRef], chosen: Sequence[int]) -> str:
    return "+".join(dict.fromkeys(refs[i].model for i in chosen))


def estimate(
    ensemble: Ensemble,
    source: Source,
    wanted: SeparationOptions,
    of: Callable[..., Iterator[Tensor]] = Separator.estimates,
) -> Iterator[Tensor]:
    """Blocks (1 + heads, C, n) of a source: the mixture, then every head. ``of``: the function that estimates."""
    mixture, *copies = tee(source.blocks(), 1 + len(ensemble.passes))
    streams = [
        of(separator, source, blocks, heads) for (separator, heads), blocks in zip(ensemble.passes, copies, strict=True)
    ]

    def mixed_refs() -> Iterator[Tensor]:
        for mixed, *parts in aligned([(block[None] for block in mixture), *streams]):
            estimates = torch.cat(parts)  # (heads of all passes, C, n)
            refs = [estimates[list(ref.places)].mean(0) for ref in ensemble.refs]
            yield torch.stack([mixed[0], *refs])

    return filtered(mixed_refs(), ensemble, source, wanted.wiener) if wanted.wiener else mixed_refs()


def filtered(blocks: Iterator[Tensor], ensemble: Ensemble, source: Source, iterations: int) -> Iterator[Tensor]:
    """The heads of each group through the Wiener filter, in pieces of some seconds that are cross-faded."""
    n_fft = 2 ** max(4, round(math.log2(WIENER_WINDOW_SECONDS * source.sample_rate_hz)))
    shape = (1 + len(ensemble.refs), source.n_channels)
    chunk = round(WIENER_SECONDS * source.sample_rate_hz)

    def run(pieces: Tensor) -> Tensor:
        result = pieces[0].unflatten(0, shape).clone()  # (1 + heads, C, n)
        for group in ensemble.groups:
            places = [1 + i for i in group]
            result[places] = wiener(result[0], result[places], n_fft, iterations)
        return result[None]

    return overlap_add((block.flatten(0, 1) for block in blocks), chunk, chunk // 4, run, BatchSize(1, grows=False))


def subtype_for(path: Path | None, wanted: SeparationOptions) -> tuple[str, str]:
    """(suffix, libsndfile's subtype) for the stems of an input: as requested, else the input's if it is lossless."""
    bits, format_ = None, ""
    if path is not None:
        with open_audio(path, wanted.stream, wanted.strict) as reader:
            bits, format_ = reader.lossless_bits, reader.format.upper()
    fits = not wanted.bits or wanted.bits in SUBTYPES["flac"]  # which holds no floats
    suffix = wanted.format or ("flac" if format_ == "FLAC" and fits else "wav")
    known = SUBTYPES[suffix]
    own = "32f" if bits in (None, 32) else str(bits)
    return suffix, known[wanted.bits] if wanted.bits else known.get(own, next(iter(known.values())))


def rounded(block: Sequence[Tensor], parts: Sequence[Output], subtype: str) -> list[Tensor]:
    """The samples to write: integers rounded, with the rounding errors added to the residual.

    So estimates and residual add up to the mixture in the files, too.
    """
    if subtype not in INTEGER_BITS:
        return list(block)
    result = [quantise(x, subtype) for x in block]
    for k, part in enumerate(parts):
        if part.residual:
            inside = [j for j, p in enumerate(parts) if not p.mixture and set(p.shares) <= set(part.shares)]
            heads = [j for j in inside if len(parts[j].shares) == 1]
            for several in (heads, [j for j in inside if j not in heads], inside):
                if sum(len(parts[j].shares) for j in several) == len(part.shares):  # each head once
                    missing = sum((block[j] - result[j] for j in several), torch.zeros(()))
                    result[k] = quantise(block[k] + missing, subtype)
                    break
    return result
