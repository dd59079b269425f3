"""Configurations of accelerate launch, the SLURM script, and what is refused."""

import os
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser

from refined_bsrnn.errors import RecipeError
from refined_bsrnn.training.job import SHARDED, refuse_sharding
from refined_bsrnn.training.train import make_accelerator

from ..conftest import micro_recipe

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "recipes" / "accelerate"
PROCESSES = {
    "cpu": (1, 1, "NO"),
    "gpu1": (1, 1, "NO"),
    "gpu8": (1, 8, "MULTI_GPU"),
    "gpu2x8": (2, 16, "MULTI_GPU"),
}


def test_every_configuration_is_tested():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PROCESSES)


@pytest.mark.parametrize("name", PROCESSES)
def test_accelerate_reads_the_configuration(name):
    n_machines, n_processes, kind = PROCESSES[name]
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))  # refuses keys that it does not know
    assert (config.num_machines, config.num_processes) == (n_machines, n_processes)
    assert str(getattr(config.distributed_type, "value", config.distributed_type)) == kind
    assert not config.fsdp_config
    assert not config.deepspeed_config
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert any(f"recipes/accelerate/{name}.yaml" in line for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", PROCESSES)
def test_accelerate_launches_with_the_configuration(name):
    """As far as accelerate goes without starting anything; machines have no GPU here, so it is told not to look."""
    words = ["--config_file", str(FOLDER / f"{name}.yaml"), "scripts/train_mtl.py", "recipes/micro.yaml"]
    args, config, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert (args.num_machines, args.num_processes) == PROCESSES[name][:2]
    assert args.use_cpu == (name == "cpu")
    assert not args.use_fsdp
    assert config


@pytest.mark.parametrize("variable", SHARDED)
def test_a_sharded_launch_is_refused_with_the_reason(variable, monkeypatch, songs):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(RecipeError, match=f"told to use {SHARDED[variable]}.*expected data parallelism"):
        make_accelerator(micro_recipe(songs))
    monkeypatch.setenv(variable, "false")
    refuse_sharding()


def test_the_variable_is_the_one_that_accelerate_sets_for_fsdp():
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--use_fsdp", "--num_processes", "2", "scripts/train_mtl.py"]
    environment = prepare_multi_gpu_env(_validate_launch_command(launch_command_parser().parse_args(words))[0])
    assert [name for name in SHARDED if environment.get(name) == "true"] == ["ACCELERATE_USE_FSDP"]


FAKES = {
    "scontrol": 'printf "node7\\nnode8\\n"',
    "srun": 'shift; for id in 0 1; do SLURM_NODEID=$id "$@"; done',  # the option, then the command on each machine
    "accelerate": 'printf "%s|" "$@" "$REFINED_BSRNN_CACHE"; echo',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Run the SLURM script where its programs only say what they were asked; one line per machine."""
    for name, text in FAKES.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def run(*words, **environment):
        values = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "12345678", **environment}
        command = ["bash", FOLDER / "slurm.sh", *words]
        done = subprocess.run(command, env={**os.environ, **values}, capture_output=True, text=True)
        return done, [line.strip("|").split("|") for line in done.stdout.splitlines()]

    return run


def test_the_slurm_script_starts_every_machine_with_its_rank(slurm, tmp_path):
    done, lines = slurm("recipes/my own.yaml", "size=large", RUN="big", REFINED_BSRNN_CACHE="/shared/cache")
    assert done.returncode == 0, done.stderr
    assert len(lines) == 2
    for rank, words in enumerate(lines):
        args = launch_command_parser().parse_args([str(word) for word in words[1:-1]])
        assert (args.num_machines, args.num_processes, args.machine_rank) == (2, 16, rank)
        assert (args.main_process_ip, args.main_process_port) == ("node7", 25678)
        assert args.config_file == "recipes/accelerate/gpu2x8.yaml"
        assert args.training_script == "scripts/train_mtl.py"
        assert args.training_script_args == ["recipes/my own.yaml", "size=large", "run.root=runs", "run.name=big"]
        assert words[-1] == "/shared/cache"


def test_the_slurm_script_continues_a_run_that_has_a_state(slurm, tmp_path):
    state = tmp_path / "runs" / "big" / "state" / "last.safetensors"
    state.parent.mkdir(parents=True)
    state.touch()
    _, lines = slurm("recipes/mtl_generic.yaml", RUN="big")
    args = launch_command_parser().parse_args(lines[1][1:-1])
    assert args.training_script_args == ["--resume", "runs/big"]


def test_the_slurm_script_wants_a_name(slurm):
    done, lines = slurm("recipes/mtl_generic.yaml", RUN="")
    assert done.returncode != 0
    assert "Set RUN to the name of the run" in done.stderr
    assert not lines


def test_accelerate_starts_as_many_processes_on_cpus_as_the_configuration_says(tmp_path):
    """Accelerate's own launcher starts a script that only notes that it ran."""
    script = tmp_path / "note.py"
    script.write_text(
        "import os, pathlib\n"
        "note = os.environ['ACCELERATE_USE_CPU'] + os.environ.get('WORLD_SIZE', '1')\n"
        "pathlib.Path(f'{os.getpid()}.txt').write_text(note)\n"
    )
    words = ["--config_file", str(FOLDER / "cpu.yaml"), str(script)]
    launch_command(launch_command_parser().parse_args(words))
    notes = [path.read_text().lower() for path in tmp_path.glob("*.txt")]
    assert notes == ["true1"] * PROCESSES["cpu"][1]
