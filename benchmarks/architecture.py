"""Parameters and speed of every variant of the network, compared with the default at equal sizes.

python -m benchmarks architecture --out docs/results
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from refined_bsrnn.console import say
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.recipe import Recipe, load_recipe
from refined_bsrnn.report.table import Column, Table
from refined_bsrnn.separation.device import check_device
from refined_bsrnn.training.job import precision_for
from refined_bsrnn.training.objective import Objective

from .measure import Job, Kind, Speed, interleaved, machine


@dataclass(frozen=True)
class Variant:
    """One network: its name, its publication, and the overrides of a recipe that make it."""

    name: str
    published: str
    words: str = ""
    recipe: str = "mtl_generic"


PAPER, OBSRNN, SPEECH = "BSRNN, arXiv 2209.15174", "oBSRNN's study, magronp/bsrnn", "arXiv 2212.00406"
SIMO, ROFORMER = "SIMO-BSRNN, ICASSP 2024", "BS-RoFormer, arXiv 2309.02612"
VARIANTS = (
    Variant("BLSTM (default)", PAPER),
    Variant("GRU", f"{OBSRNN}; Bandit", "backbone.time=gru backbone.band=gru"),
    Variant("convolution", OBSRNN, "backbone.time=conv backbone.band=conv"),
    Variant(
        "dilated convolutions (BSCNN)",
        OBSRNN,
        "backbone.time=dilated backbone.band=dilated backbone.dilations=3 backbone.hidden_factor=1",
    ),
    Variant("features in 2 groups", f"{OBSRNN}, after DTTNet", "backbone.groups=2"),
    Variant("hidden layers of N", "sahandevs/BandSplit-RNN", "backbone.hidden_factor=1"),
    Variant(
        "attention over time", f"{OBSRNN}, after TF-GridNet", "backbone.attention_heads=2 backbone.attention_dim=16"
    ),
    Variant("TAC, PReLU", OBSRNN, "backbone.stereo=tac"),
    Variant("TAC, tanh", SIMO, "backbone.stereo=tac backbone.tac_activation=tanh"),
    Variant("joint stereo", "crlandsc, amanteur; oBSRNN's naive stereo", "backbone.stereo=joint"),
    Variant("oBSRNN-SIMO", OBSRNN, recipe="obsrnn_simo"),
    Variant("rotary transformer", ROFORMER, "backbone.kind=rope_transformer backbone.norm=rms"),
    Variant("causal", SPEECH, "backbone.causal=true backbone.norm=cumulative"),
    Variant("causal, mask and residual", SPEECH, recipe="causal"),
    Variant("causal, convolutions in time", "ours", "backbone.causal=true backbone.norm=ln backbone.time=dilated"),
    Variant("norm per frame", "Audyn, Bandit", "backbone.norm=ln"),
    Variant("two hidden layers in the head", "the paper's code", "head.hidden_layers=2"),
    Variant("mask and residual", SPEECH, "head.kind=residual"),
    Variant("direct spectrum", "sahandevs/BandSplit-RNN", "head.kind=spectrum"),
    Variant("bridged heads", "X-UMX, arXiv 2010.04228", "head.bridge=true"),
    Variant("masks that sum to one", "TS-BSMamba2", "together=consistent"),
    Variant("last target is the rest", SIMO, "together=subtract_last"),
    Variant("bands v7", PAPER, "bands.kind=v7"),
    Variant("bands joint", SIMO, "bands.kind=joint"),
    Variant("bands tet24_fixed", "ours", "bands.kind=tet24_fixed"),
    Variant("bands musical, 64", "Bandit, arXiv 2309.02539", "bands.kind=musical bands.n_bands=64"),
)


def architecture_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_architecture`."""
    p.add_argument("--features", type=int, default=32, help="N of every variant (default: 32)")
    p.add_argument("--repeats", type=int, default=2, help="R of every variant (default: 2)")
    p.add_argument("--seconds", type=float, default=1.5, help="length of the excerpts (default: 1.5)")
    p.add_argument("--batch", type=int, default=1, help="excerpts per step (default: 1)")
    p.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    p.add_argument("--threads", type=int, default=1, help="on a CPU (default: 1)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    p.add_argument("--variant", action="append", default=[], metavar="NAME", help="only these (default: all)")


def measure_architecture(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters, and training and separation speed relative to the default, of every variant at equal sizes."""
    device, seed = check_device(args.device), 0
    torch.set_num_threads(args.threads)  # threads that wait for each other take processor time too
    chosen = [v for v in VARIANTS if v is VARIANTS[0] or not args.variant or v.name in args.variant]
    steps: dict[str, Job] = {}
    forwards: dict[str, Job] = {}
    parameters: dict[str, int] = {}
    for variant in chosen:
        torch.manual_seed(seed)
        recipe = variant_recipe(variant, args.features, args.repeats)
        objective = Objective(BSRNN.from_recipe(recipe), recipe).to(device)
        parameters[variant.name] = count_parameters(objective.model)
        steps[variant.name], forwards[variant.name] = _jobs(objective, recipe, args.seconds, args.batch, device)
    first = VARIANTS[0].name
    say(f"{len(chosen)} variants; training steps first, then inference")
    training = interleaved(steps, first, args.rounds, device)
    inference = interleaved(forwards, first, args.rounds, device)
    rows = [
        {
            **asdict(variant),
            "parameters": parameters[variant.name],
            "training": asdict(Speed.of(training[variant.name])),
            "inference": asdict(Speed.of(inference[variant.name])),
        }
        for variant in chosen
    ]
    sizes = {key: vars(args)[key] for key in ("features", "repeats", "seconds", "batch", "rounds")}
    return {"kind": "architecture", **machine(device), **sizes, "seed": seed, "variants": rows}


def variant_recipe(variant: Variant, features: int, repeats: int) -> Recipe:
    """The recipe of a variant at the given sizes."""
    return load_recipe(
        variant.recipe, [f"backbone.features={features}", f"backbone.repeats={repeats}", *variant.words.split()]
    )


def _jobs(objective: Objective, recipe: Recipe, seconds: float, batch: int, device: torch.device) -> tuple[Job, Job]:
    """An optimiser step on noise, and a forward pass with all heads."""
    length = round(seconds * recipe.stft.sample_rate_hz)
    shape = (batch, len(recipe.targets), recipe.data.channels, length)
    stems = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    mixture = stems.sum(1)
    optimizer = torch.optim.Adam(objective.trained().values(), lr=1e-6)
    half = precision_for(recipe.train, device) == "bf16"

    def step() -> None:
        objective.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss, _ = objective(mixture, stems)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def forward() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            objective.model.eval()(mixture)

    return step, forward


def architecture_markdown(values: Mapping[str, Any]) -> str:
    """The table of `docs/architecture.md`."""
    columns = (
        Column("variant", "name"),
        Column("recipe", _words),
        Column("published", "published"),
        Column("parameters", "parameters", ",.0f"),
        Column("training speed", lambda row: _speed(row["training"]), ">"),
        Column("inference speed", lambda row: _speed(row["inference"]), ">"),
    )
    return Table(pd.DataFrame(values["variants"]), columns, literal=True).markdown + "\n"


def _words(row: Mapping[str, Any]) -> str:
    words = " ".join(filter(None, [row["recipe"] if row["recipe"] != "mtl_generic" else "", row["words"]]))
    return f"`{words}`" if words else "the default"


def _speed(speed: Mapping[str, float]) -> str:
    return f"{speed['median']:.2f} ({speed['low']:.2f}–{speed['high']:.2f})"


ARCHITECTURE = Kind(
    "parameters and speed of every variant of the network beside the default at equal N, R and excerpt",
    architecture_arguments,
    measure_architecture,
    architecture_markdown,
)
