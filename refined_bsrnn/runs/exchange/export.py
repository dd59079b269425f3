"""Writes the network between STFT and iSTFT as one file for other runtimes: `torch.export` or ONNX.

    refined-bsrnn export-onnx mtl --out mtl.onnx       (or mtl.pt2)

The exported module is `MaskCore`: real inputs and outputs, any number of items and frames (and of channels, if the
network processes each separately). STFT, iSTFT and chunking are not exported; the file's metadata describe them. If the
recipe normalises the input's peak, the caller does that too: the input is the mixture times the gain, and the estimates
contain the gain.
"""

import copy
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import RecipeError
from ...network.blocks import AttentionHead, GlobalNorm, LengthNorm, Norm, RMSNorm
from ...network.core import MaskCore
from ...network.model import BSRNN
from ...system import atomic_write

OPSET = 18  # of ONNX
EXAMPLE_FRAMES = 7
AXES = ("batch", "channels", "planes", "bins", "frames")


def facts(model: BSRNN, targets: Sequence[str]) -> dict[str, Any]:
    """The facts that a program needs to run an exported core."""
    return {
        "format": "refined_bsrnn/core/1",
        "targets": list(targets),
        "sample_rate_hz": model.sample_rate_hz,
        "n_fft": model.stft.n_fft,
        "hop": model.stft.hop,
        "window": "hann, periodic",
        "centre": "frames are centred, the ends reflected, nothing normalised",
        "channels": model.channels_per_item if model.channels_per_item > 1 else "any",
        "input_normalise": model.recipe.input.normalise,
    }


# --- torch.export -----------------------------------------------------------------------------------------------------


def export_core(
    model: BSRNN,
    path: Path,
    targets: Sequence[str] | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """Write the core in the format of the file's suffix; ``tell`` gets a message at each step.

    Raises `RecipeError` for another suffix than .onnx and .pt2, and for an existing file without ``overwrite``.
    """
    writers = {".onnx": export_onnx, ".pt2": export_program}
    if path.suffix not in writers:
        raise RecipeError(f"{path} ends in {path.suffix or 'nothing'!r}; expected .onnx, or .pt2 for torch.export.")
    names = model.check_targets(targets)
    if path.is_dir() or (path.exists() and not overwrite):
        what = "a folder" if path.is_dir() else "there already"
        raise RecipeError(
            f"{path} is {what} and is not replaced; take another --out{'' if path.is_dir() else ', or --overwrite it'}."
        )
    tell(f"Exporting {', '.join(names)} to {path}: tracing the network, which takes half a minute or more.")
    return writers[path.suffix](model, path, names, tell)


def export_program(model: BSRNN, path: Path, targets: Sequence[str], tell: Callable[[str], None]) -> Path:
    """Write the core as a program that `torch.export.load` reads (``.pt2``), without this package.

    Its extra file ``refined_bsrnn.json`` holds the `facts`.
    """
    program = make_program(model, targets)
    tell("Traced; writing the file.")
    extra = {"refined_bsrnn.json": json.dumps(facts(model, targets))}
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are not on the CPU, which these are
        torch.export.save(program, temporary, extra_files=extra)
    return path


def make_program(model: BSRNN, targets: Sequence[str] | None = None) -> torch.export.ExportedProgram:
    """The core as an exported program for any number of items, frames and (apart) channels."""
    program = _trace(*_plain_core(model, targets))
    _plain_rnns(program)
    return program


def _trace(core: MaskCore, example: Tensor) -> torch.export.ExportedProgram:
    """The core as a program in which recurrent layers are opaque operators."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1), 4: torch.export.Dim("frames", min=1)}
    if core.model.channels_per_item == 1:
        axes[1] = torch.export.Dim("channels", min=1)
    with torch.no_grad(), _opaque_rnns(core):
        # Deferred: some of what it would have to prove of the shapes is true but beyond it.
        return torch.export.export(
            core, (example,), dynamic_shapes=(axes,), strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )


def _plain_core(model: BSRNN, targets: Sequence[str] | None) -> tuple[MaskCore, Tensor]:
    """A copy of the core on the CPU whose norms are written out, and an example of its input.

    The fused kernels want to know the number of frames when they are traced.
    """
    if model.recipe.input.normalise not in ("none", "peak"):
        raise RecipeError(
            f"input.normalise is {model.recipe.input.normalise}: the backbone gets the mixture without its mean, the "
            "masks are for the mixture with it: one input is not enough. Expected none or peak."
        )
    core = MaskCore(copy.deepcopy(model).cpu().float().eval(), targets).eval()
    for module in core.modules():
        if type(module) in _WRITTEN_OUT:
            method = "standardise" if isinstance(module, Norm) else "forward"
            setattr(module, method, partial(_WRITTEN_OUT[type(module)], module))
    channels = model.channels_per_item if model.channels_per_item > 1 else 2
    noise = torch.Generator().manual_seed(0)
    shape = (2, channels, 2, model.stft.n_fft // 2 + 1, EXAMPLE_FRAMES)
    return core, torch.randn(shape, generator=noise)


def _global_norm(norm: Any, x: Tensor) -> Tensor:
    centred = x - x.mean((-2, -1), keepdim=True)
    power = centred.square().mean((-2, -1), keepdim=True)
    return centred * (power + norm.eps).rsqrt()


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt()


def _length_norm(norm: Any, x: Tensor) -> Tensor:
    length = x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    return x / length * x.shape[-1] ** 0.5


def _attention(head: Any, x: Tensor) -> Tensor:
    value = head.value(x)  # (M, T, K, width)
    query, key = head.query(x).flatten(2), head.key(x).flatten(2)  # (M, T, K·dim)
    weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)  # (M, T, T)
    return (weights @ value.flatten(2)).view(value.shape)


_WRITTEN_OUT: dict[type, Callable[[Any, Tensor], Tensor]] = {
    GlobalNorm: _global_norm,
    RMSNorm: _rms_norm,
    LengthNorm: _length_norm,
    AttentionHead: _attention,
}


# Tracing a recurrent layer unrolls it over the frames of the example. So it is traced as an operator that nothing is
# known of but its shapes, with the signature of PyTorch's own, which takes its place in the finished program.
_library = torch.library.Library("refined_bsrnn", "DEF")
_SIGNATURE = (
    "(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first)"
)


def _rnn_shapes(x: Tensor, hx: Any, params: list[Tensor], *options: Any) -> tuple[Tensor, ...]:
    states = hx if isinstance(hx, list) else [hx]  # of (directions, M, hidden)
    n_directions, _, hidden = states[0].shape
    return x.new_empty(x.shape[0], x.shape[1], n_directions * hidden), *(torch.empty_like(state) for state in states)


for _name, _hx, _states in (("lstm", "Tensor[] hx", 2), ("gru", "Tensor hx", 1)):
    _outputs = ", ".join(["Tensor"] * (1 + _states))
    _library.define(f"{_name}{_SIGNATURE.replace('Tensor[] hx', _hx)} -> ({_outputs})")
    _library.impl(_name, getattr(torch.ops.aten, _name).input, "CompositeExplicitAutograd")
    torch.library.register_fake(f"refined_bsrnn::{_name}", _rnn_shapes, lib=_library)


@contextmanager
def _opaque_rnns(core: nn.Module) -> Iterator[None]:
    """Within the block the recurrent layers are single operators for a tracer."""
    rnns = [module for module in core.modules() if isinstance(module, nn.LSTM | nn.GRU)]
    for rnn in rnns:
        cast(Any, rnn).forward = partial(_opaque, rnn)
    try:
        yield
    finally:
        for rnn in rnns:
            del cast(Any, rnn).forward  # the class's own again


def _opaque(rnn: nn.RNNBase, x: Tensor) -> tuple[Tensor, None]:
    state = x.new_zeros(2 if rnn.bidirectional else 1, x.shape[0], rnn.hidden_size)
    weights = [cast(Tensor, getattr(rnn, name)) for name in rnn._flat_weights_names]
    options = (weights, True, 1, 0.0, False, rnn.bidirectional, True)
    if isinstance(rnn, nn.LSTM):
        return torch.ops.refined_bsrnn.lstm(x, [state, state], *options)[0], None
    return torch.ops.refined_bsrnn.gru(x, state, *options)[0], None


def _plain_rnns(program: torch.export.ExportedProgram) -> None:
    """PyTorch's own operators where the opaque ones stand: the file needs no other package."""
    opaque, aten = torch.ops.refined_bsrnn, torch.ops.aten
    own = {opaque.lstm.default: aten.lstm.input, opaque.gru.default: aten.gru.input}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target in own:
            node.target = own[node.target]
    program.graph_module.recompile()


# --- ONNX -------------------------------------------------------------------------------------------------------------


def export_onnx(model: BSRNN, path: Path, targets: Sequence[str], tell: Callable[[str], None]) -> Path:
    """Write the core as an ONNX file: input ``mixture`` (B, C, 2, F, T), one output per target, under its name.

    Raises `RecipeError` if the packages for it are not installed.
    """
    try:
        import onnx
        from onnxscript.function_libs.torch_lib.ops import core as translations
    except ImportError as error:
        raise RecipeError(
            f"ONNX needs the package {error.name}, which is not here: pip install 'refined-bsrnn[export]'."
        ) from None
    core, example = _plain_core(model, targets)
    with atomic_write(path) as temporary, _quiet(), torch.no_grad():
        traced = _trace(core, example)
        tell("Traced; translating it to ONNX, which takes as long again.")
        program = torch.onnx.export(
            traced,
            input_names=["mixture"],
            output_names=core.targets,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={
                torch.ops.refined_bsrnn.lstm.default: translations.aten_lstm,
                torch.ops.refined_bsrnn.gru.default: translations.aten_gru,
            },
        )
        assert program is not None
        for key, value in facts(model, core.targets).items():
            program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
        proto = program.model_proto
        _name_axes(proto.graph)
        onnx.save(proto, str(temporary))
    return path


def _name_axes(graph: Any) -> None:
    """Names for the free axes in place of those that the tracer invents, such as s85, wherever they appear."""
    free = {}
    for name, dim in zip(AXES, graph.input[0].type.tensor_type.shape.dim, strict=True):
        if dim.dim_param:
            free[dim.dim_param] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda found: free.get(found[0], found[0]), dim.dim_param)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the exporter's messages about its internals and about unrelated packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
