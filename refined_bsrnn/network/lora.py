"""Low-rank updates of a frozen backbone (LoRA, Hu et al. 2021): they adapt the backbone to a new target without
training it.

For every weight matrix W of the backbone's linear, recurrent and convolutional layers, an adapter holds two thin
matrices whose product is added to W: W + (alpha / rank) · up · down. `up` starts at zero, so that an untrained adapter
changes nothing. The adapter is saved in the file of the head it was trained with and is removed with that head.
"""

import copy
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import RecipeError


def adaptable(backbone: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of every matrix an adapter updates: norms, gains and biases stay as they are."""
    for path, module in backbone.named_modules():
        for name, weight in module.named_parameters(prefix=path, recurse=False):
            kind = name.rpartition(".")[2]
            if isinstance(module, nn.Linear | nn.RNNBase | nn.Conv1d) and kind.startswith("weight"):
                yield name, weight


class Adapter(nn.Module):
    """The updates for one backbone; ``rank`` columns per matrix, or as many as the matrix has."""

    def __init__(self, backbone: nn.Module, rank: int, alpha: float):
        super().__init__()
        if rank < 1:
            raise RecipeError(f"base.rank is {rank}; expected 1 or more.")
        self.rank, self.alpha = rank, alpha
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in adaptable(backbone):
            rows, columns = len(weight), weight[0].numel()
            thin = min(rank, rows, columns)
            down = torch.empty(thin, columns)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            self.down[_key(name)] = nn.Parameter(down)
            self.up[_key(name)] = nn.Parameter(torch.zeros(rows, thin))

    def weights(self, backbone: nn.Module) -> dict[str, Tensor]:
        """{name in the backbone: updated weight}, with gradients to the adapter alone where the backbone is frozen."""
        updated = {}
        for name, weight in adaptable(backbone):
            update = self.up[_key(name)] @ self.down[_key(name)]
            updated[name] = weight + (self.alpha / self.rank) * update.view_as(weight)
        return updated

    def run(self, backbone: nn.Module, spectrogram: Tensor) -> Tensor:
        """The backbone's features with the updates applied; the backbone itself does not change.

        The weights are replaced in a copy of its structure that shares its parameters (1 ms), because another thread
        may be using the backbone at the same time.
        """
        structure = copy.deepcopy(backbone, {id(p): p for p in backbone.parameters()})
        # Frozen or not: cuDNN's recurrent layers give no gradient in eval mode.
        nn.Module.train(structure, torch.is_grad_enabled())
        return functional_call(structure, self.weights(backbone), (spectrogram,))

    @torch.no_grad()
    def merge_into(self, backbone: nn.Module) -> None:
        """Add the updates to the backbone's weights, for good: it is another backbone from then on."""
        own = dict(backbone.named_parameters())
        for name, weight in self.weights(backbone).items():
            own[name].copy_(weight)


class Adapters(nn.ModuleDict):
    """The adapters of a network by name, and which heads read features made with them.

    Attribute: ``of`` (head → adapter); a head that is not in it reads the backbone's own features.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, str] = {}

    def attach(self, name: str, adapter: Adapter, heads: Iterable[str]) -> Adapter:
        """From here on these heads read features made with the adapter."""
        self[name] = adapter
        self.of |= dict.fromkeys(heads, name)
        return adapter

    def release(self, head: str) -> None:
        """Forget a head, and its adapter if no other head uses it."""
        name = self.of.pop(head, None)
        if name is not None and name not in self.of.values():
            del self[name]


def _key(name: str) -> str:
    return name.replace(".", "/")  # a dot would be a path of modules
