"""A logger that is slow, does not answer or cannot be reached: the training does not wait, and loses nothing."""

import json
import threading
import time
from dataclasses import replace

import pytest

from refined_bsrnn.runs import tracking
from refined_bsrnn.runs.tracking import Mirror
from refined_bsrnn.training.train import train
from tests.conftest import micro_recipe


class Logger:
    """Takes what it is given, after some seconds each."""

    name = "wandb"

    def __init__(self, seconds=0.0, fails_at=None):
        self.seconds, self.fails_at, self.taken = seconds, fails_at, []

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
        time.sleep(self.seconds)
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
    slow = Logger(seconds=30.0)
    monkeypatch.setattr("accelerate.tracking.WandBTracker", lambda *_, **__: slow)
    began = time.monotonic()
    run, finished = train(recipe)
    assert finished
    assert time.monotonic() - began < 20
    assert len([line for line in map(json.loads, run.metrics.read_text().splitlines()) if "loss" in line]) == 6
    assert slow.taken == []
    assert "wandb is too slow: " in capsys.readouterr().err


def test_what_a_logger_gets_comes_in_order_and_is_waited_for_in_the_end():
    logger = Logger(seconds=0.02)
    mirror = Mirror(logger)
    for step in range(5):
        mirror.attempt("log", {}, step=step)
    mirror.close(10)
    assert logger.taken == ["start", *range(5), "finish"]


def test_where_the_first_cannot_be_reached_the_second_is_used(capsys):
    far, near = Logger(fails_at="start"), Logger()
    mirror = Mirror(far, near)
    mirror.attempt("log", {}, step=1)
    mirror.close(10)
    assert (far.taken, near.taken) == ([], ["start", 1, "finish"])
    assert "wandb cannot be reached: logging to it offline." in capsys.readouterr().err


def test_a_logger_that_takes_nothing_takes_no_memory(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "MOST_WAITING", 10)
    monkeypatch.setattr(tracking, "START_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "forget_wandb_helper", lambda: None)
    open_again = threading.Event()
    logger = Logger()
    logger.start = open_again.wait
    mirror = Mirror(logger)
    for step in range(100):
        mirror.attempt("log", {}, step=step)
    assert mirror.waiting.qsize() == 10
    mirror.close(0.1)
    assert "entries are left out" in capsys.readouterr().err
    open_again.set()
