"""The choice of the device on which a network runs."""

import warnings

import torch
from torch import nn

from ..console import say
from ..errors import RecipeError, first_line


def check_device(device: str) -> torch.device:
    """The torch device of that name; ``auto``: the first of cuda, mps, cpu that can be used.

    If ``auto`` finds a device that cannot be used, it says why. Raises `RecipeError` if a named device does not exist.
    """
    if device == "auto":
        return _first_device()
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RecipeError(f"device {device!r} cannot be used here: {first_sentence(error)}.") from None
    return torch.device(device)


def _first_device() -> torch.device:
    for name, is_available in (("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)):
        why = ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                if is_available():
                    compute_a_little(name)
                    return torch.device(name)
            except (RuntimeError, AssertionError, ValueError) as error:
                why = first_sentence(error)
        why = why or next((first_sentence(warning.message) for warning in warned), "")
        if why:  # a driver that is too old, a GPU that PyTorch has no code for, one that is full
            say(f"The device {name} is there but cannot be used ({why}); the CPU is used instead.")
    return torch.device("cpu")


def compute_a_little(device: str) -> None:
    """A small computation like those of networks, which fails on an unsuitable device or driver."""
    x = torch.ones(1, 2, 4, device=device)
    with torch.no_grad():
        result = nn.LSTM(4, 4, batch_first=True).to(device)(x)[0] + nn.Linear(4, 4).to(device)(x)
    result.sum().item()  # waits for it


def first_sentence(error: object) -> str:
    """The first sentence of an error of PyTorch; the rest does not help the user."""
    return first_line(error).partition(". ")[0].rstrip(".")
