#!/bin/sh
# Make the virtual environment $1 with the package and its tools; install FFmpeg where that may be done.
set -eu

venv=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'; then
    echo "refined_bsrnn needs Python 3.10 to 3.13; $python is $("$python" --version). Try: make PYTHON=python3.12 ..." >&2
    exit 2
fi
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv" || {
        echo "Python cannot make a virtual environment. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2
        rm -rf "$venv"
        exit 1
    }
fi

# musdb and museval call FFmpeg's program; all else works without it.
provide_ffmpeg() {
    if command -v ffmpeg >/dev/null 2>&1; then
        return
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq ffmpeg; } >/dev/null ||
            echo "FFmpeg could not be installed; evaluate --museval needs it: apt-get install ffmpeg" >&2
    else
        echo "FFmpeg is missing; evaluate --museval needs it. Install it: sudo apt-get install ffmpeg (Debian," \
            "Ubuntu) or brew install ffmpeg (macOS)" >&2
    fi
}

echo "Installing refined_bsrnn and what it needs into $venv (several minutes and about 6 GB the first time)..."
provide_ffmpeg &
free_mb=$(df -Pm "$venv" | awk 'NR == 2 {print $4}')
# pip keeps another 3 GB of downloads for the next time where there is room for them.
cache=
[ "$free_mb" -ge 12000 ] || cache=--no-cache-dir
# Of 14,000 files few are ever imported: they are compiled when they are.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile $cache \
    --constraint constraints.txt --editable ".[dev,export,app]" || {
    echo "The installation ended early; $free_mb MB were free at $venv when it began, and it needs about 6,000." \
        "Mend what pip says above, then call the same command again: it goes on." >&2
    exit 1
}
wait
