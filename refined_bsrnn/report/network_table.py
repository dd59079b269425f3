"""The table of a network's parts for a terminal, from the values of `network.info`."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from .table import Column, Table

# What the modules of a block are called in the table.
INNER = {
    "time": "along time",
    "band": "along bands",
    "tac": "across channels (TAC)",
    "attention": "attention over time",
}


def network_table(info: Mapping[str, Any]) -> Group:
    """The parts, with equal consecutive blocks as one line; above them the sums, below them the receptive field."""
    records, total = [], info["parameters"]
    for name, block, times in _grouped(info["parts"]):
        inner = [(f"  {INNER.get(part['name'], part['name'])}", part) for part in block["parts"]]
        records += [_record(label, part, times, total) for label, part in [(name, block), *inner]]
    whole = {"output": "", "parameters": total, "macs_per_second": info["macs_per_second"]}
    records.append(_record("all", whole, 1, total) | {"group": " "})
    columns = [
        Column("part", "part"),
        Column("output for 1 s", "output"),
        Column("parameters", "parameters", ",.0f"),
        Column("MB", "megabytes", ",.1f"),
        Column("share", lambda record: f"{100 * record['share']:.1f} %" if record["share"] < 1 else "100 %", ">"),
        Column(f"MMAC per s of {info['channels']}-channel audio", "mmac", ",.1f"),
    ]
    title = f"{total:,} parameters, {info['n_bands']} bands"
    seen = f"receptive field: {info['receptive_field']}\nlatency: {info['latency']}"
    return Group(Text(title, style="italic"), Table(pd.DataFrame(records), columns).rich, Text(seen, style="dim"))


def _record(label: str, part: Mapping[str, Any], times: int, total: int) -> dict[str, Any]:
    n, mmac = times * part["parameters"], times * part["macs_per_second"] / 1e6
    named = {"part": label, "output": part["output"], "parameters": n, "mmac": mmac}
    named["megabytes"] = 4e-6 * n  # float32
    return {**named, "share": n / max(1, total), "group": ""}


def _grouped(parts: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], int]]:
    """Runs of equal blocks as (name, one of them, how many)."""
    groups: list[tuple[str, Mapping[str, Any], int]] = []
    for part in parts:
        last = groups[-1][1] if groups else None
        same = last and all(p["name"].startswith("block") for p in (last, part))
        if last and same and all(last[key] == part[key] for key in ("parameters", "macs_per_second")):
            first, number = (p["name"].removeprefix("block ") for p in (last, part))
            groups[-1] = (f"blocks {first} to {number}", last, groups[-1][2] + 1)
        else:
            groups.append((part["name"], part, 1))
    return groups
