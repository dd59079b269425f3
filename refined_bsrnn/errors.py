"""Errors a user can cause and mend. Each message says what was found, what was expected and what to do.

The command line prints the message alone and exits with the class's code; anything else is a bug and keeps its
traceback.
"""


class UserError(Exception):
    """The work failed for a reason the user can mend (exit code 1)."""

    exit_code = 1


class RecipeError(UserError):
    """The recipe or the command line is wrong (exit code 2)."""

    exit_code = 2


class AudioError(UserError):
    """An audio file cannot be read, written or used."""


class DataError(UserError):
    """A data set is missing something or disagrees with itself."""


class CheckpointError(UserError):
    """A run folder, backbone or head cannot be loaded or does not belong where it was put."""
