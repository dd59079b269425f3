"""Turns published oBSRNN checkpoints (magronp/bsrnn) into ordinary runs.

    refined-bsrnn import vocals.ckpt --out runs/obsrnn-vocals

The network follows from the names and shapes of the tensors, all of which must fit; nothing in the file is executed
(see `torchfile`).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...bands import band_ranges
from ...errors import CheckpointError, RecipeError
from ...recipe import Recipe, make_recipe
from ..folder import Tensors, check_tensors
from .published_network import PublishedNetwork, Shapes, Translated, check_names, without_numbers
from .torchfile import TorchFile

TARGETS = ("vocals", "bass", "drums", "other")  # also the order of a four-target checkpoint's masks
BAND_SCHEMES = ("v7", "bass", "drums", "joint")

# --- what network it is -----------------------------------------------------------------------------------------------


def _bands(shapes: Shapes) -> tuple[str, int, int]:
    """Scheme, n_fft and the number of channels per item, from the widths; edges are floored as the authors do."""
    widths = [shapes.size(f"BN.{i}.0.weight") // 2 for i in range(shapes.count(r"BN\.(\d+)\."))]
    for channels_per_item in (1, 2):
        n_fft = 2 * (sum(widths) // channels_per_item - 1)
        for kind in BAND_SCHEMES if n_fft >= 16 else ():
            try:
                ranges = band_ranges(kind, n_fft=n_fft, rounding="floor")
            except RecipeError:  # too few bins for this scheme
                continue
            if [channels_per_item * (stop - start) for start, stop in ranges] == widths:
                return kind, n_fft, channels_per_item
    raise CheckpointError(
        f"{shapes.path} has {len(widths)} bands of {widths} bins; expected those of {', '.join(BAND_SCHEMES)} at "
        "44.1 kHz, or twice as many where both channels are taken together."
    )


# The layer in a ResNet of theirs, and the factor between the rows of this tensor and the hidden features.
LAYERS = {
    "lstm": ("main_layer.weight_hh_l0", 4),
    "gru": ("main_layer.weight_hh_l0", 3),
    "conv": ("main_layer.0.weight", 2),
}


def _layer(shapes: Shapes, net: str) -> tuple[str, int]:
    """The cell along time or bands (``net``), and its hidden features."""
    root = f"separator.0.{net}."
    if f"{root}in_layer.0.weight" in shapes.tensors:
        raise CheckpointError(
            f"{shapes.path} is a BSCNN (it has {root}in_layer); no weights of it are published, and its inner norms "
            "have another epsilon than ours. To train one: backbone.time=dilated backbone.band=dilated."
        )
    for cell, (name, rows_per_hidden) in LAYERS.items():
        if root + name in shapes.tensors:
            rows, columns = shapes.size(root + name), shapes.size(root + name, 1)
            two_ways = cell == "conv" or f"{root}{name}_reverse" in shapes.tensors
            if two_ways and rows == rows_per_hidden * (rows // 2 if cell == "conv" else columns):
                return cell, rows // rows_per_hidden
    raise CheckpointError(
        f"{shapes.path}: {root}main_layer is no layer of magronp/bsrnn: expected a bidirectional LSTM or GRU, or a "
        "convolution."
    )


def _targets(shapes: Shapes) -> list[str]:
    """Targets by the file's name, as the published files are called, checked against the number of masks."""
    n_masks, stem = shapes.count(r"maskers\.(\d+)\."), shapes.path.stem
    if stem in TARGETS and n_masks == 1:
        return [stem]
    if stem == "separator" and n_masks in (3, 4):
        return list(TARGETS)  # three masks: the last target is what the others leave of the mixture
    raise CheckpointError(
        f"{shapes.path} holds {n_masks} masks; the targets follow from the file's name: "
        f"{', '.join(f'{name}.ckpt' for name in TARGETS)} with one, separator.ckpt with three or four."
    )


def infer_recipe(tensors: Mapping[str, Tensor], path: Path) -> Recipe:
    """The recipe of the network that a state dict belongs to, from its names and shapes.

    Raises `CheckpointError` for another layout than magronp/bsrnn's.
    """
    shapes = Shapes(tensors, path, "magronp/bsrnn")
    kind, n_fft, channels_per_item = _bands(shapes)
    features, part = shapes.size("BN.0.1.weight"), shapes.size("separator.0.time_net.norm.weight")
    (time, hidden), (band, band_hidden) = _layer(shapes, "time_net"), _layer(shapes, "band_net")
    if features % part or hidden % part or hidden != band_hidden:
        raise CheckpointError(
            f"{path}: layers of {hidden} and {band_hidden} hidden features on {part} of {features}; expected the same "
            "along time and bands, a multiple of their input, which divides the features."
        )
    heads = shapes.count(r"separator\.0\.attn_block\.attn_conv_Q_(\d+)\.")
    attention = {"attention_dim": shapes.size("separator.0.attn_block.attn_conv_Q_0.0.weight")} if heads else {}
    has_tac = "separator.0.tac_module.transform.0.weight" in tensors
    is_prelu = "separator.0.tac_module.transform.1.weight" in tensors
    targets, n_masks = _targets(shapes), shapes.count(r"maskers\.(\d+)\.")
    values = {
        "targets": targets,
        "stft": {"sample_rate_hz": 44100, "n_fft": n_fft, "hop": n_fft // 4},
        "bands": {"kind": kind, "rounding": "floor"},
        "backbone": {
            "features": features,
            "repeats": shapes.count(r"separator\.(\d+)\."),
            "norm": "gn1",
            "stereo": "tac" if has_tac else "joint" if channels_per_item > 1 else "apart",
            "hidden_factor": hidden // part,
            **({"time": time} if time != "lstm" else {}),
            **({"band": band} if band != "lstm" else {}),
            **({"groups": features // part} if part != features else {}),
            "attention_heads": heads,
            **attention,
            **({"tac_activation": "prelu" if is_prelu else "tanh"} if has_tac else {}),
        },
        "head": {"hidden_layers": 2, "hidden_factor": shapes.size("maskers.0.mask.0.1.weight") // features},
        "together": "subtract_last" if n_masks < len(targets) else "none",
    }
    return make_recipe(values)


# --- their names and ours ---------------------------------------------------------------------------------------------

# Our name (a pattern) → theirs; what follows the pattern (weight, bias, ...) stays.
NAMES = (
    (r"encoder\.norms\.(\d+)\.", r"BN.\1.0."),
    (r"encoder\.linears\.(\d+)\.", r"BN.\1.1."),
    (r"blocks\.(\d+)\.(time|band)\.norm\.", r"separator.\1.\2_net.norm."),
    (r"blocks\.(\d+)\.(time|band)\.rnn\.conv\.", r"separator.\1.\2_net.main_layer.0."),
    (r"blocks\.(\d+)\.(time|band)\.rnn\.", r"separator.\1.\2_net.main_layer."),
    (r"blocks\.(\d+)\.(time|band)\.linear\.", r"separator.\1.\2_net.proj."),
    (r"blocks\.(\d+)\.tac\.(transform|average)\.", r"separator.\1.tac_module.\2.0."),
    (r"blocks\.(\d+)\.tac\.combine\.", r"separator.\1.tac_module.concat.0."),
    (r"blocks\.(\d+)\.tac\.activation\.", r"separator.\1.tac_module.transform.1."),
    (r"blocks\.(\d+)\.attention\.heads\.(\d+)\.query\.", r"separator.\1.attn_block.attn_conv_Q_\2."),
    (r"blocks\.(\d+)\.attention\.heads\.(\d+)\.key\.", r"separator.\1.attn_block.attn_conv_K_\2."),
    (r"blocks\.(\d+)\.attention\.heads\.(\d+)\.value\.", r"separator.\1.attn_block.attn_conv_V_\2."),
    (r"blocks\.(\d+)\.attention\.projection\.", r"separator.\1.attn_block.attn_concat_proj."),
)
PROJECTION_NAMES = {
    "linear.weight": "0.weight",
    "linear.bias": "0.bias",
    "activation.weight": "1.weight",
    "norm.weight": "2.gamma",
    "norm.bias": "2.beta",
}
SHARED_SLOPE = re.compile(r"(separator\.\d+\.tac_module\.)(?:average|concat)(\.1\.weight)$")
IGNORED = ("stft.transf.window", "istft.transf.window")


def their_name(ours: str) -> str:
    """The published code's name of a parameter of our backbone."""
    for pattern, replacement in NAMES:
        match = re.match(pattern, ours)
        if match:
            rest = ours[match.end() :]
            return match.expand(replacement) + (PROJECTION_NAMES[rest] if ".attention." in ours else rest)
    raise KeyError(ours)


def _as_ours(tensor: Tensor, name: str, channels_per_item: int = 1) -> Tensor:
    """A tensor with the axes we give it, and in our order where channels are taken together."""
    if name.endswith((".gamma", ".beta")) and tensor.ndim == 4 and tensor.shape[0] == tensor.shape[2] == 1:
        return tensor[0, :, 0].T.contiguous()  # (1, D, 1, K) → (K, D)
    if tensor.ndim in (3, 4) and set(tensor.shape[2:]) == {1}:
        tensor = tensor.flatten(1)  # a convolution over one point: (out, in, 1[, 1]) → (out, in)
    if channels_per_item > 1 and tensor.ndim in (1, 2):
        if re.match(r"BN\.\d+\.(0\.|1\.weight)", name) and tensor.shape[-1] % (2 * channels_per_item) == 0:
            # channel × (real | imaginary) × bin → (real | imaginary) × channel × bin
            return tensor.unflatten(-1, (channels_per_item, 2, -1)).transpose(-3, -2).flatten(-3)
        if re.match(r"maskers\.\d+\.mask\.\d+\.5\.", name) and tensor.shape[0] % (4 * channels_per_item) == 0:
            # channel × (value | gate) × (real | imaginary) × bin → the channel before the bin
            return tensor.unflatten(0, (channels_per_item, 2, 2, -1)).movedim(0, 2).flatten(0, 3)
    return tensor


def normalise(tensors: Mapping[str, Tensor], path: Path) -> dict[str, str]:
    """One set of names for the tensors, each with the file's: older files' masks renamed, windows left out, and copies
    of TAC's slope.

    Raises `CheckpointError` if the copies differ: in the published network they are one parameter.
    """
    kept = {re.sub(r"^mask\.", "maskers.0.mask.", name): name for name in tensors if name not in IGNORED}
    if len(kept) < len([name for name in tensors if name not in IGNORED]):
        raise CheckpointError(f"{path} has both mask. and maskers.0.mask. names.")
    copies = {name: match for name in kept if (match := SHARED_SLOPE.match(name))}
    for name, match in copies.items():
        first = f"{match[1]}transform{match[2]}"
        if first not in kept or not torch.equal(tensors[first], tensors[name]):
            raise CheckpointError(f"{path}: {name} differs from {first}; the published network has one slope for both.")
    for name in kept:
        for layer in ("average", "concat") if name.endswith("tac_module.transform.1.weight") else ():
            copy = name.replace("transform", layer)
            if copy not in copies:
                raise CheckpointError(f"{path}: {copy} is missing.")
    return {name: in_file for name, in_file in kept.items() if name not in copies}


def read_obsrnn(file: TorchFile) -> PublishedNetwork:
    """A published oBSRNN with all names and shapes checked; its numbers are read from ``file`` when they are needed.

    Raises `CheckpointError` for another layout, or a missing, extra or misshapen tensor.
    """
    path = file.path
    names = normalise(Translated({name: name for name in file.names}, file.read), path)
    tensors = Translated(names, file.read)
    model = without_numbers(infer_recipe({name: file.views[in_file] for name, in_file in names.items()}, path))
    backbone = {name: their_name(name) for name in model.backbone.state_dict()}
    heads = {
        target: {name: f"maskers.{s}.mask.{name.removeprefix('bands.')}" for name in head.state_dict()}
        for s, (target, head) in enumerate(model.heads.items())
    }
    check_names([name for part in (backbone, *heads.values()) for name in part.values()], names, path)

    def shapes(part: Mapping[str, str]) -> Tensors:
        meta = {ours: torch.empty(file.shape(names[theirs]), device="meta") for ours, theirs in part.items()}
        return {ours: _as_ours(meta[ours], theirs, model.channels_per_item) for ours, theirs in part.items()}

    check_tensors(model.backbone.state_dict(), shapes(backbone), str(path))
    for target, part in heads.items():
        check_tensors(model.heads[target].state_dict(), shapes(part), f"{path} ({target})")

    def read(name: str) -> Tensor:
        return _as_ours(tensors[name], name, model.channels_per_item)

    parts = {target: Translated(part, read) for target, part in heads.items()}
    return PublishedNetwork("magronp/bsrnn", {"checkpoint": path}, model, Translated(backbone, read), parts)
