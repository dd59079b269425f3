"""A report's tables and figures to wandb, as one run of its own."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from ..errors import UserError
from ..recipe import LogSpec
from ..runs.wandb_mode import wandb_mode
from .tables import VERSUS_COLUMNS, Report, long_csv


def send(report: Report, out: Path, spec: LogSpec | None = None) -> str:
    """Log what `report` wrote into ``out``; returns where it is. Offline where no account is set up."""
    spec = spec or LogSpec()
    mode: Any = wandb_mode(spec)
    name = f"report-{out.resolve().name}"
    settings = wandb.Settings(silent=True, console="off", x_stats_sampling_interval=60.0)
    try:
        sent = wandb.init(
            project=spec.project, name=name, job_type="report", mode=mode, dir=str(out.resolve()), settings=settings
        )
    except wandb.Error as error:
        raise UserError(f"wandb cannot be reached ({error}); set WANDB_MODE=offline to write files instead.") from None
    with sent:
        values: dict[str, Any] = {"report/table": _table(report.csv), "report/scores": _table(long_csv(report.runs))}
        if report.versus:
            rows = [v.texts for v in report.versus]
            values["report/differences"] = wandb.Table(columns=list(VERSUS_COLUMNS), data=rows)
        for path in report.files:
            if path.suffix == ".png":
                values[f"report/{path.stem}"] = wandb.Image(str(path))
        sent.log(values)
        return str(sent.url or sent.dir)


def _table(text: str) -> wandb.Table:
    """Numbers as numbers, so that they can be sorted and drawn; empty fields as None."""
    header, *rows = csv.reader(io.StringIO(text))
    columns = [_typed(column) for column in zip(*rows, strict=True)]
    data = [list(row) for row in zip(*columns, strict=True)]
    return wandb.Table(columns=[*header], data=data, allow_mixed_types=True)


def _typed(column: Sequence[str]) -> list[float | str | None]:
    """A column of numbers and empty fields as such; any other as it is."""
    try:
        return [float(text) if text else None for text in column]
    except ValueError:
        return [text or None for text in column]
