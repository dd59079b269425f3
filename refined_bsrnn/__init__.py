"""Multi-task, universal-feature transfer learning in music source separation with Band-Split RNN.

from . import Separator
stems = Separator.from_pretrained("runs/mtl").separate("song.mp3", heads=["bass"])
"""

from typing import TYPE_CHECKING, Any

from .recipe import load_recipe

if TYPE_CHECKING:
    from .network.model import BSRNN
    from .separation.separator import Separator

__version__ = "0.1.0"
__all__ = ["BSRNN", "Separator", "__version__", "load_recipe"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for, so that `--help`, `bands` and `report` answer at once."""
    if name == "BSRNN":
        from .network.model import BSRNN

        return BSRNN
    if name == "Separator":
        from .separation.separator import Separator

        return Separator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
