"""Dependencies between the targets of a recipe whose estimates need each other."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from ..errors import CheckpointError, RecipeError, UserError
from ..recipe import HeadSpec, Recipe
from .consistency import TOGETHER
from .heads import Head


class Ties:
    """The ties between the targets of one recipe: estimates that sum to the mixture, heads with bridges.

    Attributes: ``remainder_target``, the target without a head, which is the mixture minus all others (``together:
    subtract_last``), or None; ``bridged``, the targets whose heads use the mean of their hidden layers. Raises
    `RecipeError` for a bridge of one head.
    """

    def __init__(self, recipe: Recipe):
        self.consistency, self.targets = recipe.together, recipe.targets
        self.remainder_target = recipe.targets[-1] if recipe.together == "subtract_last" else None
        self.bridged: tuple[str, ...] = ()
        if recipe.head.options.get("bridge"):
            self.bridged = tuple(target for target in recipe.targets if target != self.remainder_target)
            if len(self.bridged) < 2:
                raise RecipeError(
                    f"head.bridge is true with the head {self.bridged[0]} alone: it averages the hidden layers of "
                    "several. Expected two or more heads, or head.bridge=false."
                )

    def __bool__(self) -> bool:
        """Whether the estimate of one target may need the heads of all targets of the recipe."""
        return self.consistency != "none" or bool(self.bridged)

    def with_remainder(self, heads: Collection[str]) -> list[str]:
        """All targets that these heads can estimate, with the remainder target if no other head is missing."""
        rest = self.remainder_target
        complete = rest is not None and set(self.targets) - {rest} <= set(heads)
        return [*heads, rest] if rest is not None and complete else list(heads)

    def check_added(self, target: str, spec: HeadSpec) -> None:
        """Raises `CheckpointError` if no head of that name can be attached."""
        if target == self.remainder_target:
            raise CheckpointError(f"{target!r} has no head: it is what the others leave (together: subtract_last).")
        if spec.options.get("bridge") and target not in self.bridged:
            raise CheckpointError(
                f"the head {target!r} is bridged to others (head.bridge), whose hidden layers it needs; bridged here: "
                f"{', '.join(self.bridged) or 'none'}. It works in the network it was trained in, under its own name."
            )

    def check_removed(self, target: str) -> None:
        """Raises `UserError` if other estimates need the head."""
        if self.consistency != "none" and target in self.targets:
            raise UserError(
                f"together is {self.consistency}: the targets {', '.join(self.targets)} are estimated together, "
                f"{target!r} cannot be taken away from them."
            )
        if target in self.bridged:
            raise UserError(
                f"head.bridge is true: {target!r} cannot be taken away from {', '.join(self.bridged)}, whose heads go "
                "on from the mean of their hidden layers."
            )

    def heads_for(self, wanted: Iterable[str], heads: nn.ModuleDict) -> list[str]:
        """The heads that must run for the wanted targets; `UserError` if one of them is missing from ``heads``."""
        wanted = list(wanted)
        run = [t for t in dict.fromkeys([*wanted, *self._summed(wanted, heads)]) if t != self.remainder_target]
        return list(dict.fromkeys([*run, *self._bridged(run, heads)]))

    def in_order(self, heads: Iterable[str]) -> list[str]:
        """The same heads, bridged ones first, always in one order, because the rounding of a mean depends on the
        order.
        """
        heads = list(heads)
        return list(dict.fromkeys([*(target for target in self.bridged if target in heads), *heads]))

    def apply(self, masked: Mapping[str, Tensor], mixture: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """{target: pairs (B, C, T, F, 2)} of the wanted targets, tied to the mixture if the recipe says so."""
        tied = self._summed(wanted, masked)
        if tied:
            masked = {**masked, **TOGETHER[self.consistency](masked, mixture, tied)}
        return {target: masked[target] for target in wanted}

    def _summed(self, wanted: Collection[str], heads: Iterable[str]) -> Sequence[str]:
        """The targets whose estimates must sum to the mixture, if one of the wanted targets is among them; else
        none.
        """
        if self.consistency == "none" or not set(wanted) & set(self.targets):
            return ()
        if self.remainder_target and self.remainder_target not in wanted:  # the others are what their heads say
            return ()
        missing = [target for target in self.targets if target not in (*heads, self.remainder_target)]
        if missing:
            raise UserError(
                f"together is {self.consistency}: the targets {', '.join(self.targets)} are estimated together, and "
                f"there is no head {missing[0]!r}. Heads here: {', '.join(heads) or 'none'}."
            )
        return self.targets

    def _bridged(self, run: Iterable[str], heads: nn.ModuleDict) -> Sequence[str]:
        """The heads whose hidden layers are averaged, if one of the running heads is among them; else none."""
        if not any(cast(Head, heads[target]).bridge for target in run):
            return ()
        missing = [target for target in self.bridged if target not in heads]
        if missing:
            raise UserError(
                f"head.bridge is true: the heads {', '.join(self.bridged)} go on from the mean of their hidden layers, "
                f"and there is no head {missing[0]!r}. Heads here: {', '.join(heads)}."
            )
        return self.bridged
