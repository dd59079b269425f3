"""What `make` installs with, where the disk is nearly full or the installation fails; pip and df are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "setup.sh"


def set_up(folder, free_mb, code=0):
    programs = {"bin/df": f"echo; echo '/dev/x 9 9 {free_mb} 97% /'", "venv/bin/python": f'echo "$*"; exit {code}'}
    programs["bin/ffmpeg"] = "exit 0"
    for name, text in programs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    words = ["sh", str(SCRIPT), "venv"]
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)


pytestmark = pytest.mark.skipif(not shutil.which("sh"), reason="a shell of POSIX is what make needs, too")


def test_with_little_room_nothing_is_kept_for_the_next_time(tmp_path):
    done = set_up(tmp_path, 13_000)
    assert (done.returncode, "--no-cache-dir" in done.stdout) == (0, False)
    done = set_up(tmp_path, 7_000)
    assert (done.returncode, "--no-cache-dir" in done.stdout) == (0, True)
    assert "--constraint constraints.txt --editable .[dev,export,app]" in done.stdout


def test_an_installation_that_fails_says_how_much_room_there_was(tmp_path):
    done = set_up(tmp_path, 4_000, code=1)
    assert done.returncode == 1
    assert "4000 MB were free at venv when it began, and it needs about 6,000." in done.stderr
    assert "call the same command again" in done.stderr
