"""Sends a report's tables and figures to wandb, as a separate run."""

from pathlib import Path
from typing import Any

import pandas as pd
import wandb

from ..errors import UserError
from ..recipe import LogSpec
from ..runs.wandb_mode import wandb_mode
from .results import summaries
from .tables import Report


def send(report: Report, out: Path, spec: LogSpec | None = None) -> str:
    """Log the files that `report` wrote to ``out``; returns the address. Offline if no account is set up."""
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
        values: dict[str, Any] = {"report/table": _table(report.frame), "report/scores": _table(summaries(report.runs))}
        if len(report.versus):
            titles: list[str | int] = [column.title for column in report.differences.columns]
            rows = [[cell.texts[0] for cell in cells] for cells in report.differences.rows]
            values["report/differences"] = wandb.Table(columns=titles, data=rows)
        values |= {f"report/{p.stem}": wandb.Image(str(p)) for p in report.files if p.suffix == ".png"}
        sent.log(values)
        return str(sent.url or sent.dir)


def _table(frame: pd.DataFrame) -> wandb.Table:
    """Numbers as numbers, so that they can be sorted and drawn; what is missing or empty as None."""
    plain = frame.astype(object).where(frame.notna() & (frame != ""), None)
    names: list[str | int] = list(plain)
    return wandb.Table(columns=names, data=plain.to_numpy().tolist(), allow_mixed_types=True)
