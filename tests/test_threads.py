"""Threads that wait: what every way to start the project sets before OpenMP is loaded, and what it leaves alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from refined_bsrnn.system import POLICY, SPINNING, processors
from refined_bsrnn.training import study

ROOT = Path(__file__).parent.parent
# In torch's place: tells what the environment was when it would have loaded OpenMP, and ends.
TORCH = """
import os, sys
print(*(os.environ.get(name) for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")), flush=True)
os._exit(77)
"""
MAIN = ["-m", "refined_bsrnn"]
COMMANDS = {
    "python -m refined_bsrnn": [*MAIN, "evaluate", "none"],
    "python -m refined_bsrnn.apps.cli.main": [
        "-m",
        "refined_bsrnn.apps.cli.main",
        "evaluate",
        "none",
    ],  # a study's runs
    "python -m benchmarks": ["-m", "benchmarks", "transfer"],
    "refined-bsrnn": [
        "-c",
        "import sys; from refined_bsrnn.apps.cli.main import main; sys.exit(main(['evaluate', 'none']))",
    ],
}
SCRIPTS = {
    "check_data": ["builtin"],
    "compare": ["compare_transfer"],
    "demo": None,  # see below
    "evaluate": ["none"],
    "glossary": None,  # needs no torch
    "label_noise_study": ["--model", "none", "--data", "none"],
    "plot_bands": None,  # needs no torch
    "report": None,  # needs no torch
    "separate": ["none.wav", "--model", "none", "--head", "drums"],
    "train_mtl": ["micro"],
    "transfer": ["--base", "none", "--target", "drums"],
}


def environment(**values):
    """This process's, without what says how threads wait."""
    plain = {name: value for name, value in os.environ.items() if name not in {POLICY, *SPINNING}}
    return {**plain, "PYTHONPATH": str(ROOT), **values}


@pytest.fixture
def seen(tmp_path):
    """Runs Python with arguments; what GOMP_SPINCOUNT and KMP_BLOCKTIME are when torch is first imported."""
    (tmp_path / "instead" / "torch").mkdir(parents=True)
    (tmp_path / "instead" / "torch" / "__init__.py").write_text(TORCH)
    path = os.pathsep.join([str(tmp_path / "instead"), str(ROOT)])

    def run(arguments, **values):
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment(**{"PYTHONPATH": path, **values}),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 77, done.stderr
        return done.stdout.splitlines()[-1]

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_bound_the_spinning_before_torch_is_loaded(seen, command):
    assert seen(COMMANDS[command]) == "1000 1"


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_bound_the_spinning_before_torch_is_loaded(seen, path):
    if SCRIPTS[path.stem] is not None:
        assert seen([str(path), *SCRIPTS[path.stem]]) == "1000 1"


def test_the_demo_bounds_the_spinning_before_torch_is_loaded(seen):
    """Its first command; the stems that it makes before need no torch (test_layers)."""
    assert (
        seen(["-c", f"import runpy; runpy.run_path({str(ROOT / 'scripts/demo.py')!r})['run']('evaluate', 'none')"])
        == "1000 1"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"GOMP_SPINCOUNT": "5"}, "5 1"),
        ({"KMP_BLOCKTIME": "infinite"}, "1000 infinite"),
        ({POLICY: "ACTIVE"}, "None None"),
        ({POLICY: "PASSIVE", "GOMP_SPINCOUNT": "7"}, "7 None"),
    ],
)
def test_what_the_user_has_set_stays(seen, given, expected):
    assert seen(COMMANDS["python -m refined_bsrnn"], **given) == expected


def openmp(arguments, **values):
    """How long every OpenMP library that the processes load says that its threads spin, in the order of loading."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(OMP_DISPLAY_ENV="VERBOSE", ACCELERATE_USE_CPU="true", **values),
        capture_output=True,
        text=True,
    )
    return re.findall(r"(?:GOMP_SPINCOUNT|KMP_BLOCKTIME) ?= ?'(\w+)'", done.stderr + done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the words are libgomp's")
def test_what_accelerate_launches_has_the_bound():
    """OpenMP itself tells. The launcher loads torch without it; the process that it starts is a new interpreter."""
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    found = openmp(["-m", *launch, "--module", "refined_bsrnn", "evaluate", "none"])
    assert found.count("1000") == 1
    assert set(found) == {"1000", "300000"}  # libgomp's default: the test sees the difference


def test_importing_the_package_leaves_the_environment_alone(seen):
    code = (
        "import os; before = dict(os.environ)\n"
        "import refined_bsrnn, refined_bsrnn.apps.cli.main\n"
        "assert dict(os.environ) == before\n"
        "from refined_bsrnn import Separator"
    )
    assert seen(["-c", code]) == "None None"


@pytest.mark.parametrize(
    ("gpus", "threads", "n_runs", "jobs"),
    [
        (0, None, 9, 6),
        (0, None, 4, 4),
        (0, "2", 9, 3),
        (0, "8", 9, 1),
        (0, "0", 9, 6),
        (3, None, 9, 3),
        (0, None, 0, 1),
    ],
)
def test_a_study_has_a_process_per_gpu_or_per_processor(monkeypatch, gpus, threads, n_runs, jobs):
    monkeypatch.setattr(study, "processors", lambda: 6)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: gpus)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert study.default_jobs(n_runs) == jobs


def test_the_processes_of_a_study_share_the_processors(monkeypatch):
    monkeypatch.setattr(study, "processors", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [study.slot_environment(0, jobs, 0)["OMP_NUM_THREADS"] for jobs in (1, 4, 6, 9)] == ["6", "1", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert study.slot_environment(0, 6, 0)["OMP_NUM_THREADS"] == "3"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no such call")
def test_processors_are_those_that_the_process_may_use():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from refined_bsrnn.system import processors; print(processors())"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert processors() == len(os.sched_getaffinity(0))
