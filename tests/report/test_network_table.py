"""What `info` shows: its values, by hand."""

import io

from rich.console import Console

from refined_bsrnn.report.network_table import network_table


def part(name, parameters, macs, parts=()):
    return {"name": name, "output": "1 × 2", "parameters": parameters, "macs_per_second": macs, "parts": parts}


def test_equal_blocks_are_one_line_and_others_are_not():
    inner = [part("time", 10, 5_000_000)]
    parts = [part("encoder", 5, 1_500_000), *(part(f"block {i}", 10, 5_000_000, inner) for i in (1, 2))]
    parts += [part("block 3", 10, 6_000_000), part("head a", 1000, 0), part("head b", 1000, 0)]
    info = {"parts": parts, "parameters": 2035, "macs_per_second": 17_500_000, "n_bands": 3, "channels": 2}
    console = Console(width=150, file=io.StringIO())
    console.print(network_table({**info, "receptive_field": "all", "latency": "none"}))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[0] == "2,035 parameters, 3 bands"
    assert "encoder 1 × 2 5 0.0 0.2 % 1.5" in lines
    assert "blocks 1 to 2 1 × 2 20 0.0 1.0 % 10.0" in lines
    assert "along time 1 × 2 20 0.0 1.0 % 10.0" in lines
    assert "block 3 1 × 2 10 0.0 0.5 % 6.0" in lines
    assert {f"head {name} 1 × 2 1,000 0.0 49.1 % 0.0" for name in "ab"} <= set(lines)
    assert "all 2,035 0.0 100 % 17.5" in lines
    assert lines[-2:] == ["receptive field: all", "latency: none"]
