"""The kinds of files that come from outside: valid ones to begin with, how they are made hostile, how they are read."""

import io
import json
import pickle
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import metadata, mutate
from .world import RATE_HZ, forked, make_run, put, recipe_values, write_song

Make = Callable[[Any, random.Random], bytes]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    ``seeds`` writes valid ones into a folder, in a child; ``read`` reads bytes as the package does.
    """

    seeds: Callable[[Path], Sequence[Any]]
    make: Make
    read: Callable[[bytes, Path], Any]
    begin: Callable[[Path], None] = lambda folder: None


def seeds_of(kind: str, folder: Path) -> list[Any]:
    """The valid files of a kind; made in a child, since that may take torch."""
    out = folder / "seeds.json"

    def work() -> int:
        (folder / "inside").mkdir(exist_ok=True)
        values = [
            value.hex() if isinstance(value, bytes) else value for value in FORMATS[kind].seeds(folder / "inside")
        ]
        is_binary = [isinstance(value, str) for value in values]
        out.write_text(json.dumps([values, is_binary]))
        return 0

    ended = forked(work, folder)
    if ended.code:
        raise RuntimeError(f"the valid files of {kind} cannot be made: {ended.said}")
    values, is_binary = json.loads(out.read_text())
    return [bytes.fromhex(v) if b else v for v, b in zip(values, is_binary, strict=True)]


def quick_yaml(folder: Path | None = None) -> None:
    """In a child: what is JSON, and not deep, is read as such; PyYAML reads the same values ten times as slowly."""
    from refined_bsrnn import plain, recipe, schema
    from refined_bsrnn.runs.exchange import roformer_config

    known: dict[str, bytes] = {}

    def parse(text: str, *kind: Any) -> Any:
        if text[:1] == "{" and text.count("[") + text.count("{") < plain.MOST_DEPTH and "Infinity" not in text:
            with suppress(ValueError):
                return plain.parse_json(text)
        if len(text) > 2000 and text in known:  # what comes with the package
            return pickle.loads(known[text])
        values = plain.parse_yaml(text, *kind)
        if len(text) > 2000:
            known[text] = pickle.dumps(values)
        return values

    for module in (recipe, schema, roformer_config):
        vars(module)["parse_yaml"] = parse


# --- recipes and studies ----------------------------------------------------------------------------------------------


def _recipes(folder: Path) -> list[Any]:
    from refined_bsrnn.plain import parse_yaml
    from refined_bsrnn.recipe import recipe_folder

    shipped = [parse_yaml(path.read_text()) for path in sorted(recipe_folder().glob("*.yaml"))]
    return [recipe_values(), *(values for values in shipped if "study" not in values)]


def _read_recipe(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.network.info import describe
    from refined_bsrnn.recipe import load_recipe

    recipe = load_recipe(put(data, folder / "recipe.yaml"))
    return describe(recipe) if len(data) % 4 == 0 else recipe  # the network of every fourth: it takes most of the time


def _read_overrides(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.recipe import make_recipe

    words = data.decode(errors="replace").split("\0")
    return make_recipe(recipe_values(), words)


def _override_words(seed: Any, chance: random.Random) -> bytes:
    words = [chance.choice(seed) for _ in range(chance.choice([1, 2]))]
    made = []
    for word in words:
        key, _, _ = word.partition("=")
        value = mutate.as_json(mutate.grown(chance)).decode(errors="replace")
        made.append(
            f"{key}={value}" if chance.random() < 0.6 else mutate.bent(word.encode(), chance).decode(errors="replace")
        )
    return "\0".join(made).encode(errors="replace")


def _studies(folder: Path) -> list[Any]:
    from refined_bsrnn.plain import parse_yaml
    from refined_bsrnn.recipe import recipe_folder

    return [parse_yaml(path.read_text()) for path in sorted(recipe_folder().glob("compare*.yaml"))]


def _read_study(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.training.study import load_study, plan

    study, file = load_study(str(put(data, folder / "study.yaml")), [])
    return plan(study, file)


def _catalogues(folder: Path) -> list[Any]:
    entry: dict[str, Any] = {
        "kind": "bs_roformer",
        "targets": ["vocals"],
        "url": "https://x.org/m.ckpt",
        "config": "https://x.org/c.yaml",
    }
    entry |= {
        "bytes": 1000,
        "sha256": "a" * 64,
        "licence": "MIT",
        "published": {"set": "a", "metric": "SDR", "vocals": 1.0},
    }
    other = {"kind": "obsrnn", "targets": ["bass"], "url": "https://x.org/b.ckpt", "licence": "MIT"}
    return [{"models": {"a": entry, "b": other}, "best": ["a"]}]


def _read_catalogue(data: bytes, folder: Path) -> Any:
    import os

    from refined_bsrnn.runs.exchange.catalogue import read_catalogue

    os.environ["REFINED_BSRNN_MODELS"] = str(put(data, folder / "models.yaml"))
    catalogue = read_catalogue()
    return [(entry.size, entry.score) for entry in catalogue.entries.values()]


# --- weights ----------------------------------------------------------------------------------------------------------


def _run_in(folder: Path) -> Path:
    return make_run(folder / "run")


def _heads(folder: Path) -> list[bytes]:
    from refined_bsrnn.runs.folder import RunFolder, load_model, save_head

    run = RunFolder(_run_in(folder))
    model = load_model(run)
    model.add_adapter("low", ["drums"], 2, 4.0)
    save_head(folder / "bent.safetensors", model, "drums")
    return [path.read_bytes() for path in (*sorted(run.heads.glob("*.safetensors")), folder / "bent.safetensors")]


def _backbones(folder: Path) -> list[bytes]:
    return [(_run_in(folder) / "backbone.safetensors").read_bytes()]


def _states(folder: Path) -> list[bytes]:
    import torch

    from refined_bsrnn.runs.folder import save_state

    groups = {"trained": {"a": torch.ones(3)}, "optimizer": {"a": torch.ones(3)}, "rng": {"cpu": torch.get_rng_state()}}
    save_state(
        folder / "state.safetensors", groups, {"step": 3, "seconds": 1.0, "scaler": None, "recipe": recipe_values()}
    )
    return [(folder / "state.safetensors").read_bytes()]


MODELS: dict[str, Any] = {}  # of a child


def _begin_model(folder: Path) -> None:
    quick_yaml()
    from refined_bsrnn.runs.folder import RunFolder, load_model

    MODELS["run"] = RunFolder(_run_in(folder))
    MODELS["model"] = load_model(MODELS["run"], heads=[])


def _read_head(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.recipe import check_target_name
    from refined_bsrnn.runs.folder import load_head
    from refined_bsrnn.runs.heads import head_facts

    path, model = put(data, folder / "head.safetensors"), MODELS["model"]
    try:
        head_facts(path)
        load_head(path, model, check_target_name(head_facts(path).name))
    finally:
        for name in list(model.heads):
            model.remove_head(name, although_tied=True)
        for name in list(model.adapters):
            del model.adapters[name]


def _read_backbone(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.runs.folder import load_backbone

    return load_backbone(put(data, folder / "backbone.safetensors"), MODELS["model"])


def _read_state(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.runs.folder import load_state

    return load_state(put(data, folder / "state.safetensors"))


def _read_run_recipe(data: bytes, folder: Path) -> Any:
    """The recipe of a run's folder that came from somebody else."""
    from refined_bsrnn.runs.folder import RunFolder, load_model
    from refined_bsrnn.runs.heads import list_heads

    put(data, folder / "run" / "recipe.yaml")
    list_heads(RunFolder(folder / "run"))
    return load_model(RunFolder(folder / "run"))


# --- results ----------------------------------------------------------------------------------------------------------


def _results(folder: Path) -> list[Any]:
    """Of the model in the package, with fewer tracks."""
    from refined_bsrnn.runs.exchange.library import default_model

    values = json.loads(default_model().results.read_text())
    names = {"tracks": values["tracks"][:2]}
    return [{**values, **names, "n_tracks": 2}]


def _read_results(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.report.write import report

    put(data, folder / "run" / "results.json")
    made = report([folder / "run"], None)
    return made.markdown, made.rich_table()


def _logs(folder: Path) -> list[Any]:
    lines = [
        {"step": i, "seconds": 0.1 * i, "loss": 1.0 / (i + 1), "drums/wave_l1": 0.1, "lr": 0.001} for i in range(4)
    ]
    return [[*lines, {"step": 4, "seconds": 1.0, "validation/drums/usdr": 1.0, "validation/usdr": 1.0}]]


def _lines(value: Any) -> bytes:
    items = value if isinstance(value, list) else [value]
    return b"\n".join(mutate.as_json(item) for item in items) + b"\n"


def _begin_results(folder: Path) -> None:
    put(json.dumps(_results(folder)[0]).encode(), folder / "run" / "results.json")


def _read_log(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.report.write import report

    put(data, folder / "run" / "metrics.jsonl")
    return report([folder / "run"], None)


def _provenances(folder: Path) -> list[Any]:
    run = _run_in(folder)
    return [json.loads((run / "provenance.json").read_text())]


def _read_provenance(data: bytes, folder: Path) -> Any:
    """As `evaluate` reads it."""
    from refined_bsrnn.evaluation.summary import describe_run

    run = MODELS["run"]
    put(data, run.provenance)
    return describe_run(run, MODELS["model"].recipe, MODELS["model"])


def _study_rows(folder: Path) -> list[Any]:
    return _results(folder)


def _read_study_results(data: bytes, folder: Path) -> Any:
    """results.json as the report of a study reads it."""
    from refined_bsrnn.recipe import make_recipe
    from refined_bsrnn.report.study import StudyRun, collect, table

    put(data, folder / "run" / "results.json")
    facts = {"seconds": 1.0, "steps_done": 1, "device": "cpu"}
    put(json.dumps(facts).encode(), folder / "run" / "provenance.json")
    return table(collect([StudyRun("run", "run", None, make_recipe(recipe_values()), folder / "run")]))


# --- data -------------------------------------------------------------------------------------------------------------


def _manifests(folder: Path) -> list[Any]:
    song = write_song(folder / "song-0", stems=("vocals", "drums"), seconds=0.2)
    rows = [
        {"track": "a", "stem": stem, "path": str(song / f"{stem}.wav"), "split": "train"}
        for stem in ("vocals", "drums")
    ]
    return [rows, [{**row, "start": 0, "end": 0.1} for row in rows]]


def _read_manifest(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.data.scan import scan
    from refined_bsrnn.recipe import DataSpec

    return scan(DataSpec(root=str(put(data, folder / "list.jsonl"))), ("train",)).usable()


def _begin_wide(folder: Path) -> None:
    if not (folder / "song-0").exists():
        metadata.wide_tables(folder)


def _begin_songs(folder: Path) -> None:
    if not (folder / "song-0").exists():
        _manifests(folder)


def _read_csv(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.data.scan import scan
    from refined_bsrnn.recipe import DataSpec

    return scan(DataSpec(root=str(put(data, folder / "list.csv"))), ("train",)).usable()


# --- published checkpoints --------------------------------------------------------------------------------------------


def _published(folder: Path) -> Path:
    from tests.helpers.roformers import config_of, tensors_of, write

    if not (folder / "published").exists():
        write(folder / "published", config_of(), tensors_of(config_of()["model"]))
    return folder / "published"


def _checkpoints(folder: Path) -> list[bytes]:
    import torch

    wrapped = io.BytesIO()
    tensors = torch.load(_published(folder) / "model.ckpt", weights_only=True)
    torch.save({"state_dict": tensors, "epoch": 3}, wrapped)
    return [(_published(folder) / "model.ckpt").read_bytes(), wrapped.getvalue()]


def _begin_published(folder: Path) -> None:
    quick_yaml()
    _published(folder)


def _read_checkpoint(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.runs.exchange.importing import read_network
    from refined_bsrnn.runs.exchange.torchfile import TorchFile

    file = TorchFile(put(data, folder / "model.ckpt"))
    network = read_network(file, folder / "published" / "config.yaml")
    return [file.read(name) for name in file.names], network


def _configs(folder: Path) -> list[Any]:
    from tests.helpers.roformers import config_of

    return [json.loads(json.dumps(config_of())), json.loads(json.dumps(config_of(mel=True)))]


def _begin_config(folder: Path) -> None:
    from refined_bsrnn.runs.exchange.torchfile import TorchFile

    _begin_published(folder)
    MODELS["checkpoint"] = TorchFile(folder / "published" / "model.ckpt")


def _read_config(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.runs.exchange.importing import read_network

    return read_network(MODELS["checkpoint"], put(data, folder / "config.yaml"))


# --- audio ------------------------------------------------------------------------------------------------------------


def _sounds(suffixes: Sequence[str]) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        import numpy as np
        import soundfile

        noise = 0.1 * np.random.default_rng(0).standard_normal((3000, 2))
        made = []
        for suffix in suffixes:
            path = folder / f"seed.{suffix}"
            if suffix in ("m4a", "mp4"):
                _encode(path, noise)
            else:
                options = {"subtype": "OPUS"} if suffix == "opus" else {}
                name = {"opus": "OGG"}.get(suffix, suffix.upper())
                soundfile.write(path, noise, 48000 if suffix == "opus" else RATE_HZ, format=name, **options)
            made.append(path.read_bytes())
        return made

    return seeds


def _encode(path: Path, noise: Any) -> None:
    """AAC and ALAC, with FFmpeg's libraries."""
    import av
    import numpy as np

    with av.open(str(path), "w", format="ipod" if path.suffix == ".m4a" else "mp4") as file:
        is_aac = path.suffix == ".m4a"
        stream = file.add_stream("aac" if is_aac else "alac", rate=44100, layout="stereo")
        samples = noise.T.astype(np.float32) if is_aac else (noise.T * 3e4).astype(np.int16)
        kind, size = ("fltp", 1024) if is_aac else ("s16p", 1000)
        for place in range(0, samples.shape[1] - size + 1, size):
            block = np.ascontiguousarray(samples[:, place : place + size])
            frame = av.AudioFrame.from_ndarray(block, format=kind, layout="stereo")
            frame.sample_rate = 44100
            frame.pts = place
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


MOST_SAMPLES = 10**7  # that are read of one file: a header may claim any length, and silence compresses well


def _read_audio(data: bytes, folder: Path) -> Any:
    from refined_bsrnn.audio import audio_info, open_audio, read_tags

    path = put(data, folder / "song")
    audio_info(path)
    n = 0
    with open_audio(path) as reader:
        while n < MOST_SAMPLES and (length := reader.read(1 << 16).shape[1]):
            n += length
    return read_tags(path)


# --- all --------------------------------------------------------------------------------------------------------------

_json, _yaml = mutate.structured(mutate.as_json), mutate.structured(mutate.as_yaml, mutate.YAML_TRICKS)
_table = mutate.structured(metadata.csv_lines, metadata.CSV_TRICKS)
OVERRIDES = [
    "train.lr=3e-4",
    "targets=[drums]",
    "bands.kind=v7",
    "size=tiny",
    "augment.noise=off",
    "data.define={a: [b]}",
]
FORMATS: dict[str, Format] = {
    "recipe": Format(_recipes, _yaml, _read_recipe, quick_yaml),
    "overrides": Format(lambda folder: [OVERRIDES], _override_words, _read_overrides, quick_yaml),
    "study": Format(_studies, _yaml, _read_study, quick_yaml),
    "catalogue": Format(_catalogues, _yaml, _read_catalogue, quick_yaml),
    "head": Format(_heads, mutate.safetensors, _read_head, _begin_model),
    "backbone": Format(_backbones, mutate.safetensors, _read_backbone, _begin_model),
    "state": Format(_states, mutate.safetensors, _read_state),
    "recipe of a run": Format(lambda folder: [recipe_values()], _yaml, _read_run_recipe, _begin_model),
    "results": Format(_results, _json, _read_results),
    "results of a study": Format(_study_rows, _json, _read_study_results),
    "log": Format(_logs, mutate.structured(_lines), _read_log, _begin_results),
    "provenance": Format(_provenances, _json, _read_provenance, _begin_model),
    "manifest": Format(_manifests, mutate.structured(_lines), _read_manifest, _begin_songs),
    "manifest as a table": Format(_manifests, mutate.structured(metadata.csv_lines), _read_csv, _begin_songs),
    "manifest as a wide table": Format(metadata.wide_tables, _table, metadata.read_wide, _begin_wide),
    "weights of stems": Format(metadata.label_weights, _table, metadata.read_label_weights),
    "metadata of Slakh": Format(metadata.slakhs, _yaml, metadata.read_slakh, metadata.begin_slakh),
    "metadata of MedleyDB": Format(metadata.medleys, _yaml, metadata.read_medley, metadata.begin_medley),
    "notes of a saved data set": Format(
        metadata.saved_notes, metadata.noted(mutate.as_json), metadata.read_saved, metadata.begin_saved
    ),
    "parquet": Format(metadata.parquets, mutate.binary, metadata.read_parquet, metadata.begin_saved),
    "checkpoint": Format(_checkpoints, mutate.checkpoint, _read_checkpoint, _begin_published),
    "configuration of a checkpoint": Format(_configs, _yaml, _read_config, _begin_config),
    "wav, flac, aiff": Format(_sounds(["wav", "flac", "aiff", "w64", "caf"]), mutate.binary, _read_audio),
    "mp3, ogg, opus": Format(_sounds(["mp3", "ogg", "opus"]), mutate.binary, _read_audio),
    "m4a, mp4": Format(_sounds(["m4a", "mp4"]), mutate.binary, _read_audio),
}
