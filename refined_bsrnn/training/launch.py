"""Options of `accelerate launch` that this training does not support."""

import os

from ..errors import RecipeError

SHARDED = {  # variable that accelerate launch sets → what it stands for
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}


def refuse_sharding() -> None:
    """`RecipeError` if each process would hold a part of the network instead of a copy.

    Averaged weights, clipping per head, the hash of a frozen backbone and the state of a run need whole parameters by
    name, which a sharded network does not have. Sharding would also save little: see docs/scaling.md.
    """
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "y", "on", "t"):
            raise RecipeError(
                f"accelerate launch was told to use {name}, which splits the network over the processes; expected data "
                "parallelism, where every process has the whole network: it needs less than 1 GB with its optimiser "
                "state. Leave that option out of the accelerate config, or use recipes/accelerate/gpu8.yaml."
            )
