"""The cache of decoded audio: files without exact seeking are decoded once, into lossless files.

    <cache>/decoded/<name>-<key>/...        made in a temporary folder and renamed when complete

Several processes and threads share the work: each begins at another place, and waits for an item that another is
making. The cache can be deleted at any time; items are made again when they are needed.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from filelock import FileLock
from torch import Tensor

from ..audio import AudioInfo, length_of, open_audio, write_audio
from ..console import track
from ..errors import DataError, UserError
from ..system import CACHE_VARIABLE, cache_folder, read_json, reason_of, write_json
from ..temporary import owned_folder

STEM_SUFFIXES = (".stem.mp4", ".stem.m4a")  # files with a mixture and four stems
AAC_FRAME = 1024  # samples; the last one is not always given
READER = 2  # what is made by another reader is made again
MAX_THREADS = 8  # each holds a whole song


@dataclass(frozen=True)
class Item:
    """One thing to decode: ``make`` writes its files to the given folder."""

    name: str
    key: str  # of the content: another content is another item
    make: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        readable = re.sub(r"[^\w.-]+", "_", self.name)[:60]
        return cache_folder() / "decoded" / f"{readable}-{hashlib.sha256(self.key.encode()).hexdigest()[:16]}"


def share() -> tuple[int, int]:
    """The number of this process and the number of processes (started by `accelerate launch`)."""
    return int(os.environ.get("RANK", "0")), max(1, int(os.environ.get("WORLD_SIZE", "1")))


def decode(items: Sequence[Item], text: str) -> list[Path | UserError]:
    """The folder of every item, or its error. Missing items are decoded, with a progress bar.

    Raises `DataError` if the cache cannot be written.
    """
    done: dict[int, Path | UserError] = {i: item.folder for i, item in enumerate(items) if item.folder.is_dir()}
    rank, n_processes = share()
    missing = [i for i in range(len(items)) if i not in done]
    first = rank * len(missing) // n_processes
    if missing:
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            futures = {pool.submit(decode_one, items[i]): i for i in missing[first:] + missing[:first]}
            for future in track(as_completed(futures), len(missing), f"{text}, once, into {cache_folder()}"):
                done[futures[future]] = future.result()
    return [done[i] for i in range(len(items))]


def decode_one(item: Item) -> Path | UserError:
    """The item's folder, made if it does not exist yet, or the error."""
    try:
        item.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(item.folder.with_name(f".{item.folder.name}.lock")):
            if item.folder.is_dir():  # another process was faster
                return item.folder
            with owned_folder(item.folder.parent, f".{item.folder.name}.part-") as part:
                made = part / "made"
                made.mkdir()
                item.make(made)
                made.rename(item.folder)
    except UserError as error:
        return error
    except OSError as problem:
        if item.folder.is_dir():  # another process was faster after all
            return item.folder
        raise DataError(
            f"{item.folder} cannot be written: {reason_of(problem)}. Decoded audio is kept there; free some space, or "
            f"set {CACHE_VARIABLE} to another folder."
        ) from problem
    finally:
        with suppress(OSError):
            item.folder.with_name(f".{item.folder.name}.lock").unlink()
    return item.folder


def keep(folder: Path, stem: str, audio: Tensor, sample_rate_hz: int, subtype: str | None = None) -> Path:
    """Write (channels, samples) losslessly: flac, or float wav if samples are above full scale."""
    suffix = "flac" if float(audio.abs().max()) <= 1.0 and audio.shape[0] <= 8 else "wav"
    return write_audio(folder / f"{stem}.{suffix}", audio, sample_rate_hz, subtype if suffix == "flac" else None)


def decoded_file(folder: Path, stem: str) -> Path:
    """The file that `keep` wrote."""
    flac = folder / f"{stem}.flac"
    return flac if flac.is_file() else folder / f"{stem}.wav"


def of_file(path: Path) -> Item:
    """An audio file as one lossless file named ``audio``."""

    def make(folder: Path) -> None:
        with open_audio(path) as reader:
            audio = torch.cat(list(reader.blocks(1 << 18)), dim=1)
            keep(folder, "audio", audio, reader.sample_rate_hz)
            write_json(folder / "damage.json", reader.damage())

    return Item(path.name, f"{READER} {content_key([path])} {writing([path])}", make)


def damage_of(copy: Path) -> list[str]:
    """The damage found in the file that `of_file` copied."""
    kept = copy.with_name("damage.json")
    return list(read_json(kept)) if kept.is_file() else []


def lengths_of(paths: Sequence[Path]) -> dict[Path, AudioInfo | UserError]:
    """The length of each file, found by decoding it to its end once."""

    def item(path: Path) -> Item:
        def make(folder: Path) -> None:
            with open_audio(path) as reader:
                write_json(folder / "info.json", asdict(length_of(reader)))

        return Item(f"{path.name}-length", f"{READER} {content_key([path])} {writing([path])} length", make)

    results = decode([item(path) for path in paths], "counting what decodes") if paths else []
    return {
        path: result if isinstance(result, UserError) else AudioInfo(**read_json(result / "info.json"))
        for path, result in zip(paths, results, strict=True)
    }


PIECES, PIECE_BYTES = 5, 4096


def content_key(paths: Sequence[Path]) -> str:
    """A hash of names, sizes and five pieces of each file: it identifies a set of files in any place.

    The files are not read completely, so copies of files on this machine are also identified by `writing`.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name}\t{size}\t".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            for i in range(PIECES):
                file.seek(i * max(0, size - PIECE_BYTES) // (PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def writing(paths: Iterable[Path]) -> str:
    """A hash of sizes and modification times: it changes if a file changes, even by one sample, but not if it is
    moved.
    """
    stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def musdb_stems(path: Path) -> Item:
    """A ``.stem.mp4`` or ``.stem.m4a`` as ``mixture``, ``drums``, ``bass``, ``other``, ``vocals``, read by musdb."""

    def make(folder: Path) -> None:
        try:
            import musdb  # needs FFmpeg, and says so when it is imported
        except Exception as problem:
            raise DataError(
                f"MUSDB18's stem.mp4 files are decoded by the musdb package, which does not start here: {problem}. "
                "Install FFmpeg, or use MUSDB18-HQ, which is wav."
            ) from None
        names = yaml.safe_load(Path(musdb.__path__[0], "configs", "mus.yaml").read_text())["stem_ids"]
        try:
            song = musdb.MultiTrack(name=path.name, path=str(path), subset="train", stem_id=0)
            for stem, stem_id in names.items():
                samples = song.load_audio(str(path), stem_id)  # (samples, channels)
                if not len(samples):
                    raise DataError(
                        f"{path} has no stream for the stem {stem}: expected the five of MUSDB18's stem.mp4."
                    )
                if len(samples) < song.samples - AAC_FRAME:
                    raise DataError(
                        f"{path} is cut off: its stem {stem} has {len(samples)} of {song.samples} samples. "
                        "Copy it again or restore a backup."
                    )
                keep(folder, stem, torch.from_numpy(samples.T.copy()).float(), int(song.rate), "PCM_16")
        except UserError:
            raise
        except Exception as problem:  # FFmpeg's, stempeg's and numpy's own kinds
            message = (getattr(problem, "stderr", None) or str(problem).encode()).decode(errors="replace")
            reason = message.strip().rpartition("\n")[2].removeprefix(f"{path}: ")
            raise DataError(
                f"{path} ({path.stat().st_size} bytes) is no readable stem file: {reason}. "
                "Copy it again or restore a backup."
            ) from None

    return Item(without_stem_suffix(path.name), f"{content_key([path])} {writing([path])}", make)


def without_stem_suffix(name: str) -> str:
    """``Song.stem.mp4`` → ``Song``."""
    suffix = next((suffix for suffix in STEM_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
