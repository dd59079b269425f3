"""The files for those who carry on: workflows, hooks, citation, issue forms. What they name is in the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import refined_bsrnn
from refined_bsrnn.apps.cli.main import main

if sys.version_info >= (3, 11):
    import tomllib
else:  # what pytest brings there
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
WITH_COMMANDS = [*WORKFLOWS, *FORMS, *SCRIPTS, *(ROOT / ".github").glob("*.md"), ROOT / ".pre-commit-config.yaml"]


def read(path):
    return yaml.safe_load(path.read_text())


def steps(path):
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_there_are_workflows_and_forms():
    assert WORKFLOWS
    assert FORMS
    assert SCRIPTS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_runs_what_is_there(path):
    workflow = read(path)
    assert True in workflow  # YAML 1.1 reads the key `on` as a boolean
    assert all(job["timeout-minutes"] and job["runs-on"] for job in workflow["jobs"].values())
    assert all(("run" in step) != ("uses" in step) for step in steps(path))
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in steps(path) if "uses" in step)


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda p: p.name)
def test_commands_that_a_file_names_exist(path):
    text = path.read_text()
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:run: |`)make ([\w-]+)", text)) <= targets
    assert not [name for name in re.findall(r"scripts/\w+\.(?:py|sh)", text) if not (ROOT / name).exists()]


NAMED = sorted({x for path in [*FORMS, *SCRIPTS] for x in re.findall(r"`refined-bsrnn ([\w-]+)", path.read_text())})


@pytest.mark.parametrize(
    "command", [*NAMED, "bands", "train", "separate"]
)  # the last three: scripts/check_installed.sh
def test_a_named_command_is_one(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_a_shell_script_is_one(path):
    assert subprocess.run(["sh", "-n", path], capture_output=True).returncode == 0


def test_the_workflow_tests_every_python_version_of_the_package():
    low, end = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups())
    (matrix,) = [
        job["strategy"]["matrix"]
        for job in read(ROOT / ".github/workflows/ci.yml")["jobs"].values()
        if "strategy" in job
    ]
    assert matrix["python"] == [f"3.{minor}" for minor in range(low, end)]
    runs = [step.get("run") for step in steps(ROOT / ".github/workflows/ci.yml")]
    assert {"make check-static", "make test", "python -m build"} <= set(runs)


def test_hooks_have_the_linter_that_make_check_has():
    repositories = {repo["repo"].rsplit("/", 1)[-1]: repo for repo in read(ROOT / ".pre-commit-config.yaml")["repos"]}
    (version,) = re.findall(r"^ruff==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert repositories["ruff-pre-commit"]["rev"] == f"v{version}"
    assert {hook["id"] for hook in repositories["ruff-pre-commit"]["hooks"]} == {"ruff-check", "ruff-format"}


def test_the_citation_is_of_this_version():
    citation = read(ROOT / "CITATION.cff")
    required = {"cff-version", "message", "title", "authors", "version", "license", "type"}
    assert required <= set(citation)
    assert citation["version"] == refined_bsrnn.__version__
    assert citation["license"] == PROJECT["license"]


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.name)
def test_an_issue_form_is_one(path):
    form = read(path)
    assert form["name"]
    assert form["description"]
    ids = [element["id"] for element in form["body"]]
    assert len(ids) == len(set(ids))
    for element in form["body"]:
        assert element["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert element["attributes"]["label"]


def test_a_bug_comes_with_recipe_and_provenance():
    body = {element["id"]: element for element in read(ROOT / ".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert all(body[name]["validations"]["required"] for name in ("command", "recipe", "provenance"))


@pytest.mark.slow
def test_the_check_of_an_installed_package_refuses_a_checkout(tmp_path):
    """Its first act: what is imported must lie in site-packages."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", ROOT / "scripts" / "check_installed.sh", python.parent], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode != 0
    assert "is not an installed package" in done.stderr
