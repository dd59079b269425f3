"""Predicted speed on many GPUs; the tables of docs/scaling.md. Nothing here is measured.

    python -m benchmarks.scaling

docs/scaling.md explains the formula and every assumption; the constants below are those assumptions.
"""

from dataclasses import dataclass, replace

from refined_bsrnn.network.info import describe
from refined_bsrnn.recipe import load_recipe, recipe_folder

# Assumptions about the machine.
FLOPS = 50e12  # floating point operations per second that one GPU achieves in bf16
LATENCY = 10e-6  # seconds of one dependent step of a recurrent layer, both directions at once
INSIDE, BETWEEN = 200e9, 25e9  # bytes per second of a GPU to its neighbours, and of a machine to the others
MESSAGE = 20e-6  # seconds until a message has passed one GPU
DISK = 2e9  # bytes per second from the feature cache
PER_MACHINE = 8
REDUCTIONS = 3  # per step: the gradients, how often each target is present, the losses
# Assumptions about the training.
EXCERPT = 3.0  # seconds
PER_GPU = 8  # excerpts per GPU and step
BACKWARD = 2.0  # the backward pass in forward passes
DATA = {  # name → hours of audio in the set, passes over it (of MUSDB18-HQ: the 200,000 steps of 8 of the recipe)
    "MUSDB18-HQ": (6.5, 205),
    "MoisesDB + MUSDB18-HQ": (20.9, 205),
    "10,000 h": (10_000.0, 3),
}
TRANSFER_STEPS = 10_000  # of recipes/transfer.yaml, here with PER_GPU excerpts each


@dataclass(frozen=True)
class Size:
    """The counts of `refined-bsrnn info` for a network with four heads."""

    name: str
    parameters: int
    macs_backbone: float  # multiply-accumulates of a forward pass per second of stereo audio
    macs_head: float  # of one head
    n_heads: int
    dependent_steps: float  # of a forward pass over one excerpt: frames and bands, in every block
    cache_bytes: float  # of the features of one second of stereo audio, in 16 bits

    def step(self, n_excerpts: float) -> float:
        """Seconds of a training step on one GPU, communication apart."""
        macs = self.macs_backbone + self.n_heads * self.macs_head
        passes = 1 + BACKWARD
        return passes * (self.dependent_steps * LATENCY + n_excerpts * EXCERPT * 2 * macs / FLOPS)

    def full_step(self, n_excerpts: float) -> float:
        """Seconds of a step that trains the whole network with one head."""
        return replace(self, n_heads=1).step(n_excerpts)

    def frozen_step(self, n_excerpts: float) -> float:
        """Seconds of a step that trains one head behind a frozen backbone: that one has no backward pass."""
        backbone = self.dependent_steps * LATENCY + n_excerpts * EXCERPT * 2 * self.macs_backbone / FLOPS
        return backbone + (1 + BACKWARD) * n_excerpts * EXCERPT * 2 * self.macs_head / FLOPS

    def cached_step(self, n_excerpts: float) -> float:
        """Seconds of such a step from cached features: reading them, and the head."""
        head = (1 + BACKWARD) * n_excerpts * EXCERPT * 2 * self.macs_head / FLOPS
        return n_excerpts * EXCERPT * self.cache_bytes / DISK + head

    def communication(self, n_gpus: int) -> float:
        """Seconds in which the gradients (float32) of all GPUs are summed: rings inside and between the machines."""
        gradient, machines = 4.0 * self.parameters, -(-n_gpus // PER_MACHINE)
        inside = min(n_gpus, PER_MACHINE)
        seconds = 2 * (inside - 1) / inside * gradient / INSIDE + 2 * (machines - 1) / machines * gradient / BETWEEN
        return seconds + REDUCTIONS * 2 * (n_gpus - 1) * MESSAGE

    def efficiency(self, n_gpus: int) -> float:
        """Share of ``n_gpus`` times one GPU's speed, with as many excerpts per GPU and nothing overlapped."""
        return self.step(PER_GPU) / (self.step(PER_GPU) + self.communication(n_gpus))

    def speed_up(self, n_gpus: int) -> float:
        """How many times faster a step of PER_GPU excerpts in all becomes when GPUs share it; at least one each."""
        return self.step(PER_GPU) / (self.step(PER_GPU / n_gpus) + self.communication(n_gpus))

    def hours(self, audio_hours: float) -> float:
        """GPU hours of a training on so many hours of audio, on one GPU."""
        return audio_hours / (PER_GPU * EXCERPT) * self.step(PER_GPU)


def size(name: str) -> Size:
    """``small`` or another size of recipes/mtl_generic.yaml."""
    recipe = load_recipe(recipe_folder() / "mtl_generic.yaml", [f"size={name}"])
    info, n_heads, n = describe(recipe), len(recipe.targets), recipe.backbone.features
    heads = [part for part in info.parts if part.name.startswith("head")]
    macs = sum(part.macs_per_second for part in info.parts)
    head = sum(part.macs_per_second for part in heads) / n_heads
    frames = recipe.stft.sample_rate_hz / recipe.stft.hop
    return Size(
        name=name,
        parameters=sum(part.parameters for part in info.parts),
        macs_backbone=macs - n_heads * head,
        macs_head=head,
        n_heads=n_heads,
        dependent_steps=recipe.backbone.repeats * (EXCERPT * frames + info.n_bands),
        cache_bytes=2 * info.channels * info.n_bands * frames * n,
    )


def scaling_markdown(sizes: list[Size]) -> str:
    """The four tables of predictions."""
    lines = ["| prediction | " + " | ".join(s.name for s in sizes) + " |", "|---|" + "---:|" * len(sizes)]

    def row(what: str, *values: str) -> None:
        lines.append(f"| {what} | {' | '.join(values)} |")

    row("parameters (counted, not predicted)", *(f"{s.parameters:,}" for s in sizes))
    row("gradient bytes per step (counted)", *(f"{4e-6 * s.parameters:.1f} MB" for s in sizes))
    row(f"step of {PER_GPU} excerpts on one GPU", *(f"{1e3 * s.step(PER_GPU):.0f} ms" for s in sizes))
    waiting = (3 * s.dependent_steps * LATENCY / s.step(PER_GPU) for s in sizes)
    row("of which waiting for dependent steps", *(f"{100 * share:.0f} %" for share in waiting))
    row("audio seconds per second on one GPU", *(f"{PER_GPU * EXCERPT / s.step(PER_GPU):.0f}" for s in sizes))
    lines += ["", "| GPUs | " + " | ".join(f"{s.name}: communication | efficiency | speed-up" for s in sizes) + " |"]
    lines.append("|---:|" + "---:|---:|---:|" * len(sizes))
    for n in (8, 16, 32, 64):
        cells = []
        for s in sizes:
            shared = f"×{s.speed_up(n):.1f}" if n <= PER_GPU else "–"
            cells += [f"{1e3 * s.communication(n):.1f} ms", f"{100 * s.efficiency(n):.0f} %", shared]
        row(str(n), *cells)
    lines += ["", "| data | audio seen | " + " | ".join(f"{s.name}, GPU hours" for s in sizes) + " |"]
    lines.append("|---|---:|" + "---:|" * len(sizes))
    for name, (hours, passes) in DATA.items():
        row(
            f"{name} ({hours:,.1f} h × {passes})",
            f"{hours * passes:,.0f} h",
            *(f"{s.hours(hours * passes):,.1f}" for s in sizes),
        )
    lines += ["", "| transfer of one head | " + " | ".join(f"{s.name}: step | GPU hours" for s in sizes) + " |"]
    lines.append("|---|" + "---:|---:|" * len(sizes))
    ways = {"everything trained": "full_step", "frozen backbone": "frozen_step", "cached features": "cached_step"}
    for what, method in ways.items():
        seconds = [getattr(s, method)(PER_GPU) for s in sizes]
        row(what, *(cell for x in seconds for cell in (f"{1e3 * x:.1f} ms", f"{x * TRANSFER_STEPS / 3600:.2f}")))
    return "\n".join(lines)


if __name__ == "__main__":
    print(scaling_markdown([size("small"), size("large")]))
