"""The command line: parse, call one function, report where the result is.

Exit codes: 0 done, 1 the work failed (with a message), 2 the command line or recipe is wrong, 130 interrupted. Messages
for people go to standard error, results for programs to standard output with ``--json``.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from ...errors import UserError
from ...system import bound_spinning, reason_of
from . import command_line, data, heads, learn, models, networks, scores, songs, training

# A module that takes long to import is imported by the command that uses it: `--help` and `bands` answer at once.
COMMANDS: command_line.Commands = {
    "train": training.train,
    "check-data": data.check_data,
    "transfer": training.transfer,
    "learn": learn.learn,
    "evaluate": scores.evaluate,
    "separate": songs.separate,
    "app": songs.app,
    "compare": training.compare,
    "models": ("Public models by name: list, show, pull, remove, path.", models.COMMANDS),
    "heads": ("The heads of a run: list, add, remove, rename, export, verify, forgetting.", heads.COMMANDS),
    "report": scores.report,
    "import": networks.import_networks,
    "import-obsrnn": ("The older name of import.", networks.import_networks),
    "export-onnx": networks.export_onnx,
    "info": networks.info,
    "bands": networks.bands,
}
DESCRIPTION = "Music source separation with Band-Split RNN: multi-task training, transfer to new sources."


def parse(arguments: Sequence[str]) -> tuple[command_line.Command, dict[str, Any]]:
    """The function that a command line calls and its arguments; `SystemExit` for an invalid command line."""
    return command_line.parse(COMMANDS, songs.plain_words(arguments), DESCRIPTION)


def _complain(text: str) -> None:
    from ...console import printable

    print(f"refined-bsrnn: {printable(text)}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    bound_spinning()
    for stream in (sys.stdout, sys.stderr):  # no letter that the terminal does not know ends the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    try:
        function, values = parse(sys.argv[1:] if arguments is None else arguments)
        code = function(**values)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # whoever reads the results has enough of them (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes at its end
        return 1
    except UserError as error:
        _complain(str(error))
        return error.exit_code
    except OSError as error:  # a disk, a share or a permission, not a mistake in here
        where = f"{error.filename} cannot be read or written: " if error.filename else ""
        _complain(f"{where}{reason_of(error)}.")
        return 1
    except KeyboardInterrupt:
        print("refined-bsrnn: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
