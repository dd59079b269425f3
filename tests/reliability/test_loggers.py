"""A logger that is slow, does not answer or cannot be reached: the training does not wait, and loses nothing."""

import json
import threading
from dataclasses import replace

import pytest

from refined_bsrnn.recipe import LogSpec
from refined_bsrnn.runs import tracking
from refined_bsrnn.runs.tracking import Mirror
from refined_bsrnn.runs.wandb_mode import wandb_mode
from refined_bsrnn.training.train import train
from tests.conftest import micro_recipe

LONG = 600.0  # seconds; who waits for a closed logger finds that it has taken something


class Logger:
    """Takes what it is given, once it is open."""

    name = "wandb"

    def __init__(self, is_open=True, fails_at=None):
        self.opened, self.fails_at, self.taken = threading.Event(), fails_at, []
        if is_open:
            self.opened.set()

    def start(self):
        self._take("start")

    def log(self, values, step):
        self._take(step)

    def log_table(self, *_, **__):
        self._take("table")

    def finish(self):
        self._take("finish")

    def _take(self, what):
        if what == self.fails_at:
            raise TimeoutError("no answer")
        self.opened.wait(LONG)
        self.taken.append(what)


@pytest.fixture
def recipe(songs, monkeypatch):
    """A training that logs to a slow wandb, which the test gives."""
    monkeypatch.setattr(tracking, "START_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "forget_wandb_helper", lambda: None)
    recipe = micro_recipe(songs, train={"steps": 6, "validate_every": 6, "checkpoint_every": 6})
    return replace(recipe, log=replace(recipe.log, wandb="offline", audio_seconds=0.0))


def test_a_training_waits_for_no_slow_logger_and_every_number_is_in_the_log(recipe, monkeypatch, capsys):
    slow = Logger(is_open=False)
    monkeypatch.setattr("accelerate.tracking.WandBTracker", lambda *_, **__: slow)
    run, finished = train(recipe)
    assert finished
    assert len([line for line in map(json.loads, run.metrics.read_text().splitlines()) if "loss" in line]) == 6
    assert slow.taken == []
    assert "wandb is too slow: " in capsys.readouterr().err
    slow.opened.set()


def test_what_a_logger_gets_comes_in_order_and_is_waited_for_in_the_end(monkeypatch):
    logger = Logger(is_open=False)
    monkeypatch.setattr(tracking, "START_SECONDS", 0.0)
    mirror = Mirror(logger)
    for step in range(5):
        mirror.attempt("log", {}, step=step)
    assert logger.taken == []
    logger.opened.set()
    mirror.close(LONG)
    assert logger.taken == ["start", *range(5), "finish"]


def test_where_the_first_cannot_be_reached_the_second_is_used(capsys):
    far, near = Logger(fails_at="start"), Logger()
    mirror = Mirror(far, near)
    mirror.attempt("log", {}, step=1)
    mirror.close(LONG)
    assert (far.taken, near.taken) == ([], ["start", 1, "finish"])
    assert "wandb cannot be reached: logging to it offline." in capsys.readouterr().err


def test_a_logger_that_takes_nothing_takes_no_memory(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "MOST_WAITING", 10)
    monkeypatch.setattr(tracking, "START_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "forget_wandb_helper", lambda: None)
    logger = Logger(is_open=False)
    mirror = Mirror(logger)
    for step in range(100):
        mirror.attempt("log", {}, step=step)
    assert mirror.waiting.qsize() == 10
    mirror.close(0.1)
    assert "entries are left out" in capsys.readouterr().err
    logger.opened.set()


def test_an_address_of_wandb_that_is_none_means_offline(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "https://[wandb")
    assert wandb_mode(LogSpec()) == "offline"
