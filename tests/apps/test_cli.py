"""The command line: what is typed, what comes out, the exit code."""

import io
import json
import os
import re
import runpy
import stat
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
from accelerate.commands.launch import launch_command, launch_command_parser

from refined_bsrnn.apps.cli.command_line import described, parameters
from refined_bsrnn.apps.cli.main import COMMANDS, main, parse
from refined_bsrnn.apps.texts import Time
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.runs.folder import RunFolder
from refined_bsrnn.system import write_text
from tests.conftest import RATE, STEMS, micro_recipe, write_songs

SCRIPTS = Path(__file__).parents[2] / "scripts"
QUICK = ["train.steps=2", "train.validate_every=2", "train.warmup_steps=0"]


@pytest.fixture
def recipe_file(tmp_path):
    root = write_songs(tmp_path / "songs", stems=(*STEMS, "guitar"))
    write_text(tmp_path / "recipe.yaml", dump_recipe(micro_recipe(root, bands={"kind": "tet24"})))
    return tmp_path / "recipe.yaml"


@pytest.fixture
def drums(recipe_file):
    assert main(["train", str(recipe_file), "targets=[drums]", *QUICK]) == 0
    return RunFolder(Path("runs/drums"))


def test_the_main_job_as_typed(drums, capsys, tmp_path):
    assert main(["transfer", "--base", "drums", "--target", "bass", *QUICK]) == 0
    assert main(["evaluate", "drums-to-bass"]) == 0
    assert main(["evaluate", "drums", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[0])["drums"]["n_tracks"] == 1
    song = tmp_path / "songs" / "test" / "song-0" / "mixture.wav"
    assert main(["separate", str(song), "--model", "drums-to-bass", "--head", "bass", "--out", "here", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["songs"][0]["stems"]["bass"]
    assert soundfile.info(written).frames == soundfile.info(song).frames
    assert main(["report", "drums", "drums-to-bass", "--out", "report"]) == 0
    assert "drums-to-bass" in capsys.readouterr().out
    assert Path("report/curves.png").stat().st_size > 1000
    assert "drums-to-bass" in Path("report/index.html").read_text()
    assert main(["evaluate", "drums", "--quick"]) == 0
    assert main(["report", "runs/drums/results-part.json"]) == 0
    assert "QUICK EVALUATION, uSDR alone, on 1 OF 1 TRACKS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rate", "channels", "length", "suffix"),
    [(RATE, 1, 1, "wav"), (44100, 6, 5001, "flac"), (22050, 2, 30000, "ogg"), (48000, 1, 20001, "mp3")],
)
def test_a_file_comes_back_at_its_rate_length_and_channels(drums, tmp_path, rate, channels, length, suffix):
    song = tmp_path / f"song.{suffix}"
    soundfile.write(song, 0.1 * np.random.default_rng(0).standard_normal((length, channels)), rate)
    assert main(["separate", str(song), "--model", "drums", "--out", "out"]) == 0
    got, wanted = soundfile.info(f"out/drums/song/drums.{'flac' if suffix == 'flac' else 'wav'}"), soundfile.info(song)
    assert (got.samplerate, got.channels, got.frames) == (wanted.samplerate, wanted.channels, wanted.frames)


def test_overrides_may_stand_anywhere(drums):
    assert main(["transfer", "train.steps=1", "--base", "drums", "--target", "bass", "guitar", *QUICK[1:]]) == 0
    run = RunFolder(Path("runs/drums-to-bass-guitar"))
    assert run.load_recipe().train.steps == 1
    assert run.head_names() == ["bass", "guitar"]


def test_a_recipe_with_a_base_is_a_transfer_and_repeats_from_its_resolved_form(drums):
    assert main(["transfer", "--base", "drums", "--target", "bass", *QUICK]) == 0
    assert main(["train", "runs/drums-to-bass/recipe.yaml", "run.name=again"]) == 0
    log = [(Path("runs") / name / "metrics.jsonl").read_text() for name in ("drums-to-bass", "again")]
    first, second = ([json.loads(line).get("loss") for line in text.splitlines()] for text in log)
    assert first == second


def test_resume_of_a_finished_run(drums):
    assert main(["train", "--resume", "drums"]) == 0


def test_bands(capsys, tmp_path):
    assert main(["bands", "v7", "tet24", "--json"]) == 0
    bands = json.loads(capsys.readouterr().out)
    assert (bands["v7"]["n_bands"], bands["tet24"]["n_bands"]) == (41, 36)
    assert main(["bands", "tet", "divisions=12", "--png", "b.png"]) == 0
    assert Path("b.png").stat().st_size > 1000
    assert "tet: 87 bands" in capsys.readouterr().out


def test_options_of_bands_belong_to_the_scheme_before_them(capsys):
    assert main(["bands", "v7", "mel", "n_bands=32", "mel", "n_bands=48", "--json"]) == 0
    bands = json.loads(capsys.readouterr().out)
    assert {name: (b["n_bands"], b["overlapping"]) for name, b in bands.items()} == {
        "v7": (41, False),
        "mel n_bands=32": (32, True),
        "mel n_bands=48": (48, True),
    }
    assert bands["mel n_bands=32"]["ranges"][:2] == [[0, 8], [4, 13]]
    assert main(["bands", "rounding=floor", "v7", "bass"]) == 0
    first_bins = [line.split("first bins ")[1][:5] for line in capsys.readouterr().out.splitlines()]
    assert first_bins == ["0 4 8", "0 2 4"]
    assert main(["bands", "mel", "n_bands=32"]) == 0
    assert "mel: 32 bands; overlapping bins 0-8 4-13" in capsys.readouterr().out


def test_band_tables(capsys):
    assert main(["bands", "v7", "--table"]) == 0
    assert "| `v7` | 41 | 41 | 41 |" in capsys.readouterr().out
    assert main(["bands", "--match", "36", "v7", "erb"]) == 0
    out = capsys.readouterr().out
    assert "`erb n_bands=36`" in out
    assert "v7" not in out
    assert main(["bands", "v7", "--match", "2"]) == 2
    assert "no scheme has 2 bands" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "expected a recipe"),
        (["train", "nowhere.yaml"], 2, "there is no recipe 'nowhere.yaml'"),
        (["train", "micro", "train.stpes=3"], 2, "Did you mean 'steps'"),
        (["train", "micro", "bands.kind=tet25", "data.root=."], 2, "bands.kind='tet25' is unknown. Did you mean 'tet2"),
        (["train", "micro", "data.root=/nowhere/at/all"], 1, "there is no such folder"),
        (["train", "micro", "data.root=."], 1, "no tracks in"),
        (["train", "--resume", "mtl"], 2, "there is no run 'mtl'"),
        (["train", "micro", "--resume", "mtl"], 2, "give no recipe or override"),
        (["transfer", "--base", "drums", "--target", "bass"], 2, "there is no run 'drums'. Runs in runs/: none yet"),
        (["evaluate", "mtl"], 2, "there is no run 'mtl'"),
        (["separate", "song.wav", "--model", "mtl"], 2, "there is no run 'mtl'"),
        (["evaluate"], 2, "expected a run to evaluate, or --estimates DIR"),
        (["evaluate", "mtl", "--quick", "--museval"], 2, "--quick is uSDR alone; leave out --museval"),
        (["evaluate", "--estimates", "nowhere", "--data", "."], 1, "there is no folder nowhere"),
        (["report", "mtl"], 2, "there is no run 'mtl'"),
        (["report", "mtl", "--wandb"], 2, "--wandb sends what is written; say where: --out DIR"),
        (["bands", "divisions=12"], 2, "write the scheme first"),
        (["bands", "v8"], 2, "Known: bass, bs_roformer, custom, drums"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(arguments, code, message, capsys):
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_errors_with_a_run_there(drums, capsys, tmp_path):
    assert main(["separate", "nowhere.wav", "--model", "drums"]) == 1
    assert "there is no file nowhere.wav" in capsys.readouterr().err
    assert main(["separate", "nowhere.wav", "--model", "drums", "--head", "bass"]) == 2
    assert "has no head 'bass'. Heads: drums" in capsys.readouterr().err
    assert main(["report", "drums"]) == 1
    assert "refined-bsrnn evaluate" in capsys.readouterr().err
    drums.backbone.write_bytes(drums.backbone.read_bytes()[:1000])
    assert main(["evaluate", "drums"]) == 1
    assert "backbone.safetensors (1000 bytes) cannot be read as a backbone: it is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["train", "micro", "--nonsense"], ["separate", "a.wav", "--model", "m", "x=1", "--y"], []]
)
def test_command_lines_that_cannot_be_parsed(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["separate", "a.wav", "--mdoel", "m"], "unrecognized arguments: --mdoel m. Did you mean '--model'?"),
        (["heads", "lsit", "mtl"], "there is no command 'lsit'. Did you mean 'list'?"),
        (["evaluate", "mtl", "--split", "tset"], "invalid choice: 'tset'"),
        (["evaluate", "mtl", "--jobs", "two"], "invalid int value: 'two'"),
        (
            ["separate", "a.wav", "--out", ""],
            "argument '' is empty, as from an unset variable of the shell",
        ),
        (["train", "micro", "--from="], "argument --from is empty"),
        (["learn", "oud", ""], "argument '' is empty"),
        (["transfer", "--target", "bass"], "the following arguments are required: --base"),
    ],
)
def test_a_misspelt_word_names_the_nearest_one(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def commands(found=COMMANDS, before=()):
    for name, command in found.items():
        command = command[1] if isinstance(command, tuple) else command
        yield from [([*before, name], command)] if callable(command) else commands(command, (*before, name))


@pytest.mark.parametrize(
    ("words", "command"), list(commands()), ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_every_parameter_of_a_command_is_explained(words, command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    shown = capsys.readouterr().out
    _, texts = described(command)
    plain = {"head", "new", "name", "models", "network", "scheme"}  # say themselves what they are
    for name, hint, _, is_option in parameters(command):
        assert not is_option or texts[name][2], name
        assert is_option or name in texts or name in plain, name
        option = re.sub("_seconds$", "", name) if Time in (hint, *get_args(hint)) else name
        assert not is_option or re.search(f"--(no-)?{option.strip('_').replace('_', '-')}", shown), name


def test_a_default_is_said_and_used(capsys):
    with pytest.raises(SystemExit):
        main(["separate", "--help"])
    assert "(default: separated)" in " ".join(capsys.readouterr().out.split())
    _, values = parse(["separate", "a.wav", "--head", "a,b", "--head", "c", "--sum", "a+b,b+c", "--start", "1:30"])
    options = values["options"]
    assert (options.out, options.head, options.start_seconds) == (Path("separated"), ["a", "b", "c"], 90.0)
    assert options.sum == [["a", "b"], ["b", "c"]]
    assert (values["how"].shifts, values["how"].batch) == (1, "auto")
    assert parse(["separate", "a.wav", "--batch", "4"])[1]["how"].batch == 4


def test_a_tilde_in_an_option_is_the_home_folder(drums, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    for words in (["drums", "--root=~/runs"], ["~/runs/drums"]):
        assert main(["heads", "list", *words, "--json"]) == 0
        assert "drums" in capsys.readouterr().out
    assert main(["heads", "list", "~nobody-of-that-name/drums"]) == 2
    assert "no run '~nobody-of-that-name/drums'" in capsys.readouterr().err


def test_ctrl_c(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("refined_bsrnn.bands.band_split", interrupted)
    assert main(["bands"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        command = [sys.executable, "-m", "refined_bsrnn.apps.cli.main", "bands", "v7", "--json"]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda p: p.stem)
def test_scripts_are_short_and_can_be_executed(script):
    assert len(script.read_text().splitlines()) <= 65
    assert script.read_text().startswith("#!/usr/bin/env python3\n")
    assert script.stat().st_mode & stat.S_IXUSR


@pytest.mark.slow
def test_scripts_run_as_typed(recipe_file, monkeypatch, capsys):
    words = [str(SCRIPTS / "train_mtl.py"), str(recipe_file), "targets=[drums]", *QUICK]
    launch_command(launch_command_parser().parse_args(["--cpu", *words]))  # in a process of its own
    assert list(Path("runs/drums/wandb").glob("offline-run-*")) == []  # the recipe says off

    def typed(script, *words):
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")

    typed("transfer.py", "--base", "drums", "--target", "bass", *QUICK)
    assert "are frozen" in capsys.readouterr().err.split("Transfer from")[1]
    typed("plot_bands.py", "v7", "tet24")
    assert Path("bands.png").exists()


@pytest.mark.parametrize("encoding", ["cp1251", "ascii", "cp437", "cp932", "latin-1:strict"])
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["bands", "--table"], ["separate", "--help"], ["bands", "v7", "--json"], ["train", "ж.yaml"]],
)
def test_any_terminal_can_show_it(encoding, arguments, monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding.partition(":")[0], "strict") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    out.flush()
    err.flush()
    assert code == (2 if arguments[0] == "train" else 0)
    assert out.buffer.getvalue() if code == 0 else err.buffer.getvalue()


def test_what_the_system_refuses_is_a_sentence(monkeypatch, capsys):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "some/file\x1b[31m")

    monkeypatch.setattr("refined_bsrnn.bands.band_split", refuse)
    assert main(["bands"]) == 1
    assert capsys.readouterr().err == (
        r"refined-bsrnn: some/file\x1b[31m cannot be read or written: Permission denied." + "\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", "--tracks", "a*", "mtl"], {"run": "mtl", "tracks": ["a*"]}),
        (["evaluate", "mtl", "--tracks", "a,b", "--tracks", "c"], {"run": "mtl", "tracks": ["a", "b", "c"]}),
        (["report", "a", "--out", "o", "b"], {"run": ["a", "b"], "out": Path("o")}),
        (["heads", "export", "--heads", "a,b", "mtl", "--out", "o"], {"run": "mtl", "heads": ["a", "b"]}),
        (["transfer", "--target", "a,b", "x=1", "--base", "m"], {"target": ["a", "b"], "overrides": ["x=1"]}),
        (["transfer", "x=1", "--target", "a", "b", "y=2", "--base", "m"], {"overrides": ["x=1", "y=2"]}),
        (["train", "--resume", "m"], {"resume": "m", "recipe": None, "overrides": []}),
        (["train", "r", "a=1", "b=2"], {"recipe": "r", "overrides": ["a=1", "b=2"]}),
        (["check-data", "--jobs", "2", "r", "a=1"], {"data": "r", "overrides": ["a=1"]}),
        (["heads", "list", "--json", "mtl"], {"run": "mtl", "json": True}),
    ],
)
def test_options_may_stand_before_what_they_are_for(arguments, expected):
    _, args = parse(arguments)
    assert {key: args[key] for key in expected} == expected
