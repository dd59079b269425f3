"""The built-in synthetic stems."""

from collections.abc import Sequence

from ..synth import builtin_root
from .folder import folder
from .listing import Layout, Listing


def builtin(splits: Sequence[str]) -> Listing:
    """The built-in synthetic stems, made on first use."""
    return folder(splits, str(builtin_root()))


BUILTIN_STEMS = Layout(builtin)
