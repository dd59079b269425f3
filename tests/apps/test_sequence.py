"""Commands side by side, as `make demo` runs them."""

import multiprocessing

import pytest

from refined_bsrnn.apps.cli.sequence import meanwhile
from refined_bsrnn.console import say


def test_the_second_process_prints_into_its_log_which_is_shown_at_the_end(tmp_path, capsys):
    log = tmp_path / "new" / "second.log"
    with meanwhile([("bands", "v7"), ("evaluate", "--help")], log):
        say("in the block")
    assert "$ refined-bsrnn bands v7\n" in log.read_text()
    assert "usage: refined-bsrnn evaluate" in log.read_text()
    error = capsys.readouterr().err
    assert error.index("in the block") < error.index("$ refined-bsrnn bands v7")


def test_a_failure_in_the_second_process_ends_the_demo_with_its_words_and_exit_code(tmp_path, capsys):
    with pytest.raises(SystemExit) as end, meanwhile([("bands", "nonsense"), ("bands", "v7")], tmp_path / "log"):
        pass
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "refined-bsrnn: " in error
    assert "nonsense" in error
    assert "bands v7" not in error


def test_the_second_process_does_not_outlive_the_demo(tmp_path):
    with pytest.raises(KeyboardInterrupt), meanwhile([("bands", "v7")] * 10000, tmp_path / "log"):
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()
