"""One side of `benchmarks.step`: training steps of the checkout it is started in, asked for on standard input.

`benchmarks.step` starts the text of this file with ``python -c`` in the root of a checkout, which may be older than
this file: it takes the allocator and the optimiser that a training of that version uses.
"""

import importlib
import json
import resource
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.profiler

import refined_bsrnn
from refined_bsrnn.recipe import load_recipe


def module(*names: str) -> Any:
    """The first of these modules that the checkout has: their places differ between versions."""
    root = Path(refined_bsrnn.__file__).parent
    found = next(name for name in names if (root / name.replace(".", "/")).with_suffix(".py").exists())
    return importlib.import_module(f"refined_bsrnn.{found}")


BSRNN: Any = module("network.model", "model").BSRNN
Objective: Any = module("training.objective", "train").Objective
big_blocks_kept: Any = getattr(module("system", "files"), "big_blocks_kept", nullcontext)
has_fused_adam: Any = getattr(module("training.optimiser", "train"), "has_fused_adam", lambda device: False)


class Side:
    """A network, its optimiser and one batch of noise."""

    def __init__(self, words: list[str], recipe: str, batch: int, seconds: float, channels: int, weights: str | None):
        torch.manual_seed(0)
        self.recipe = load_recipe(recipe, words)
        self.objective = Objective(BSRNN.from_recipe(self.recipe), self.recipe).train()
        if weights:
            self.objective.model.load_state_dict(torch.load(weights, weights_only=True))
        fused = has_fused_adam(torch.device("cpu"))
        self.optimizer = torch.optim.Adam(self.objective.trained().values(), lr=1e-4, fused=fused)
        length = round(seconds * self.recipe.stft.sample_rate_hz)
        generator = torch.Generator().manual_seed(1)
        self.stems = 0.1 * torch.randn(batch, len(self.recipe.targets), channels, length, generator=generator)
        self.mixture = self.stems.sum(1) + 0.1 * torch.randn(batch, channels, length, generator=generator)

    def results(self, path: str) -> dict[str, Any]:
        """Write weights, estimates, loss and gradients of the first step; no step is taken."""
        weights = {name: value.clone() for name, value in self.objective.model.state_dict().items()}
        with torch.no_grad():
            estimates = self.objective.model(self.mixture)
        loss, _ = self.objective(self.mixture, self.stems)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in self.objective.trained().items() if p.grad is not None}
        self.optimizer.zero_grad()
        torch.save(weights, f"{path}.weights")
        torch.save({"loss": loss.detach(), "estimates": estimates, "gradients": gradients}, f"{path}.results")
        return {"parameters": sum(p.numel() for p in self.objective.trained().values())}

    def step(self) -> dict[str, float]:
        """One training step: processor and wall seconds."""
        wall, processor = time.perf_counter(), time.process_time()
        loss, _ = self.objective(self.mixture, self.stems)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"processor": time.process_time() - processor, "wall": time.perf_counter() - wall}

    def profile(self, n_steps: int) -> dict[str, float]:
        """Milliseconds of the processor per step by PyTorch's operator, without what an operator calls."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            for _ in range(n_steps):
                self.step()
        return {event.key: event.self_cpu_time_total / 1000 / n_steps for event in found.key_averages()}

    def peak(self) -> dict[str, float]:
        """The largest memory of the process so far."""
        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
        return {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def main() -> None:
    """Answer every line, a list of a method's name and its arguments, with one line of JSON."""
    if not Path(refined_bsrnn.__file__).is_relative_to(Path.cwd()):
        sys.exit(f"refined_bsrnn is imported from {refined_bsrnn.__file__}; expected {Path.cwd()}.")
    answers, sys.stdout = sys.stdout, sys.stderr  # the package's messages are not answers
    torch.set_num_threads(int(sys.argv[1]))
    side = Side(**json.loads(sys.argv[2]))
    with big_blocks_kept():
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(getattr(side, name)(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
