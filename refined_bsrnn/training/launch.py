"""What `accelerate launch` may ask for and this training does not do."""

import os

from ..errors import RecipeError

SHARDED = {  # variable that accelerate launch sets → what it stands for
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}


def refuse_sharding() -> None:
    """`RecipeError` if the processes are to hold parts of the network instead of a copy each.

    Averaged weights, clipping per head, the hash of a frozen backbone and the state of a run are all made from whole
    parameters by name; a sharded network has none. There is nothing to gain either: see docs/scaling.md.
    """
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "y", "on", "t"):
            raise RecipeError(
                f"accelerate launch was told to use {name}, which splits the network over the processes; expected data "
                "parallelism, where every process has the whole network: it needs less than 1 GB with its optimiser "
                "state. Leave that option out of the accelerate config, or use recipes/accelerate/gpu8.yaml."
            )
