"""Whether wandb gets what is logged."""

import netrc
import os
from urllib.parse import urlparse

from ..recipe import LogSpec


def wandb_mode(spec: LogSpec) -> str:
    """``online``, ``offline`` or ``disabled``: the recipe's word, $WANDB_MODE, or whether an account is set up."""
    if spec.wandb != "auto":
        return "disabled" if spec.wandb == "off" else spec.wandb
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        return "online" if netrc.netrc().authenticators(host) else "offline"
    except (OSError, ValueError, netrc.NetrcParseError):
        return "offline"
