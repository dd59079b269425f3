"""The speed of making training examples, compared with the same reads by bare soundfile and with training.

    python -m benchmarks data --data /data/musdb18hq

All measurements run in one process, in turns, so that other work on the machine affects all alike; one process is one
worker of the loader. The reads are those of the examples: the same files and places.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import soundfile
import torch

from refined_bsrnn.audio import open_audio
from refined_bsrnn.console import say, track
from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.tracks import StemFile, Track
from refined_bsrnn.data.training_data import training_data
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import Recipe, load_recipe
from refined_bsrnn.report.table import Column, Table
from refined_bsrnn.system import keep_big_blocks
from refined_bsrnn.training.objective import Objective
from refined_bsrnn.training.pace import peak_memory

from .measure import Job, Kind, Speed, interleaved, machine

EXAMPLES = 64  # made in one measurement
CONVERTED_TRACKS = 12  # so many for the comparison of formats, which are (suffix, soundfile's subtype)
FORMATS = (("flac", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"))


def data_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_data`."""
    p.add_argument("--data", metavar="ROOT", help="training tracks (default: $MUSDB18HQ_ROOT, else the built-in ones)")
    p.add_argument("--preset", default="paper", help="of augmentation, measured beside none (default: paper)")
    p.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    p.add_argument("--size", default="tiny", help="network whose training is measured (default: tiny)")


def measure_data(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of audio made per second of processor time, by format and augmentation."""
    torch.set_num_threads(1)
    keep_big_blocks()
    base = [f"size={args.size}", "augment.preset=none", "augment.remix=1", "train.steps=1", f"train.batch_size={4}"]
    recipe = load_recipe("mtl_generic", [*base, *([f"data.root={args.data}"] if args.data else [])])
    augmented = load_recipe("mtl_generic", [*base, f"augment.preset={args.preset}"])
    data = training_data(recipe)
    tracks = data.parts.tracks
    with tempfile.TemporaryDirectory() as folder:
        listed = {_format(tracks[0]): tracks}
        found = next(iter(listed))
        for suffix, subtype in FORMATS:
            converted = _converted(tracks[:CONVERTED_TRACKS], Path(folder, subtype), suffix, subtype)
            listed.setdefault(_format(converted[0]), converted)
        jobs: dict[str, Job] = {}
        rows: dict[str, tuple[str, str, str]] = {}  # loader → (what it reads, with what, its bare reads)
        for name, songs in listed.items():
            jobs[f"bare {name}"], jobs[f"loader {name}"] = _jobs(recipe, songs)
            rows[f"loader {name}"] = (name, "none", f"bare {name}")
        jobs[f"loader {found}, {args.preset}"] = _jobs(replace(augmented, data=recipe.data), tracks)[1]
        rows[f"loader {found}, {args.preset}"] = (found, args.preset, f"bare {found}")
        audio = EXAMPLES * recipe.train.chunk_seconds
        measured = []
        for loader, (name, augmentation, bare) in rows.items():
            pairs = interleaved({bare: jobs[bare], loader: jobs[loader]}, bare, args.rounds, torch.device("cpu"))
            share, reading = Speed.of(pairs[loader]), Speed.of(pairs[bare])
            measured.append(
                {
                    "files": name,
                    "augmentation": augmentation,
                    "audio_seconds_per_second": round(audio / share.seconds, 1),
                    "bare": round(audio / reading.seconds, 1),
                    "share_of_bare": asdict(share),
                }
            )
        training = _training_speed(recipe)
    return {
        "kind": "data",
        **machine(torch.device("cpu")),
        "data": data.describe()["name"],
        "n_tracks": len(tracks),
        "rounds": args.rounds,
        "examples": EXAMPLES,
        "chunk_seconds": recipe.train.chunk_seconds,
        "peak_memory": peak_memory(torch.device("cpu")),
        "rows": measured,
        "training": {"size": args.size, "audio_seconds_per_second": round(training, 2)},
    }


def _format(track: Track) -> str:
    """Of its first file, as "wav, 16 bits"."""
    path = track.path(track.stems[0])
    with open_audio(path) as reader:
        bits = {None: "lossy", 32: "float"}.get(reader.lossless_bits, f"{reader.lossless_bits} bits")
    return f"{path.suffix[1:]}, {bits}"


def _converted(tracks: Sequence[Track], folder: Path, suffix: str, subtype: str) -> list[Track]:
    """The same tracks in another format in a folder of their own."""
    converted = []
    for song in track(tracks, len(tracks), f"converting to {suffix} {subtype}"):
        files = {}
        for stem, parts in song.files.items():
            files[stem] = tuple(
                StemFile(f"{stem}-{i}.{suffix}", part.n_samples, part.start) for i, part in enumerate(parts)
            )
            for path, part in zip(song.paths(stem), files[stem], strict=True):
                samples, rate_hz = soundfile.read(path, always_2d=True)
                (folder / song.name).mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / song.name / part.name, samples, rate_hz, subtype=subtype)
        converted.append(replace(song, folder=str(folder / song.name), files=files))
    return converted


def _jobs(recipe: Recipe, tracks: Sequence[Track]) -> tuple[Job, Job]:
    """The bare reads of the next examples, and the making of these; each call uses the examples after the previous
    ones.
    """
    mixes = RandomMixes(make_parts(tracks, recipe.targets, recipe.data), recipe, 1 << 30)
    place = {"bare": 0, "loader": 0}

    def bare() -> None:
        for i in range(EXAMPLES):
            for path, start, n_samples in listed[(place["bare"] + i) % len(listed)]:
                with soundfile.SoundFile(path) as file:
                    file.seek(start)
                    file.read(n_samples, dtype="float32", always_2d=True)
        place["bare"] += EXAMPLES

    def loader() -> None:
        for i in range(EXAMPLES):
            mixes[place["loader"] + i]
        place["loader"] += EXAMPLES

    listed = [mixes.reads(i) for i in range(8 * EXAMPLES)]
    return bare, loader


def _training_speed(recipe: Recipe) -> float:
    """Seconds of audio per second of processor time in training on noise: forward, backward and step."""
    objective = Objective(BSRNN.from_recipe(recipe), recipe).train()
    length = round(recipe.train.chunk_seconds * recipe.stft.sample_rate_hz)
    stems = 0.1 * torch.randn(1, len(recipe.targets), recipe.data.channels, length)
    optimizer = torch.optim.Adam(objective.trained().values(), lr=1e-6)

    def step() -> None:
        objective(stems.sum(1), stems)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    say(f"one training step of {length / recipe.stft.sample_rate_hz:g} s")
    pairs = interleaved({"step": step}, "step", 2, torch.device("cpu"))
    return recipe.train.chunk_seconds / min(ours for ours, _ in pairs["step"])


def data_markdown(values: Mapping[str, Any]) -> str:
    """The table of docs/augmentation.md."""
    training = values["training"]
    columns = (
        Column("files", "files"),
        Column("augmentation", "augmentation"),
        Column("audio s/s per worker", "audio_seconds_per_second", ".0f"),
        Column("bare soundfile", "bare", ".0f"),
        Column("share", lambda row: "{median:.2f} ({low:.2f}–{high:.2f})".format(**row["share_of_bare"]), ">"),
        Column(f"× {training['size']} training", "times_training", ".0f"),
    )
    frame = pd.DataFrame(values["rows"])
    frame["times_training"] = frame["audio_seconds_per_second"] / training["audio_seconds_per_second"]
    text = f"{values['n_tracks']} tracks of {values['data']}; {values['device']}; peak {values['peak_memory']}."
    return f"{Table(frame, columns, literal=True).markdown}\n\n{text}\n"


DATA = Kind(
    "training examples made per second and worker, beside bare reads and beside training",
    data_arguments,
    measure_data,
    data_markdown,
)
