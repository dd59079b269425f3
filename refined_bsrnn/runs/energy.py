"""The energy of a training, a transfer or a separation, measured by codecarbon, in a provenance.json.

Off by default: `log.energy=true` in a recipe or REFINED_BSRNN_ENERGY=1 turns it on. It never stops the work: if
codecarbon is missing or fails, a message says so and nothing is recorded.
"""

import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..console import say
from ..system import read_json, write_json

VARIABLE = "REFINED_BSRNN_ENERGY"
COUNTRY_VARIABLE = "CODECARBON_COUNTRY_ISO_CODE"  # codecarbon's own name for it
ANY_COUNTRY = "USA"  # codecarbon needs one; without the user's choice the CO2 that it computes is not recorded


def energy_wanted(recipe_says: bool = False) -> bool:
    """Whether the recipe or the environment asks for a measurement of the energy."""
    return recipe_says or os.environ.get(VARIABLE, "").lower() in ("1", "true", "yes", "on")


@contextmanager
def energy_recorded(
    place: Path, what: str, wanted: bool, accelerator: Any = None, about: Callable[[], Mapping[str, Any]] | None = None
) -> Iterator[None]:
    """Measure the block and append the result to the list ``energy`` of the JSON file ``place``.

    One process per machine measures its whole machine, and the list gets one entry per machine. ``about`` gives the
    values of a new file; without it a file that is missing at the end of the block is not made.
    """
    if not wanted:
        yield
        return
    meter = _start() if accelerator is None or accelerator.is_local_main_process else None
    started, complete = time.time(), False
    try:
        yield
        complete = True
    finally:
        entries = _stop(meter, what, started)
        if accelerator is not None and complete:  # if the block failed, the other processes may not come to this line
            from accelerate.utils import gather_object

            entries = gather_object(entries)
        if entries and (accelerator is None or accelerator.is_main_process):
            _append(place, entries, about)


def _start() -> Any:
    """A running tracker of codecarbon; None if it cannot be had."""
    try:
        from codecarbon import OfflineEmissionsTracker  # seconds to import

        # It writes tracebacks of what it can do without, and its import sets another level.
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        country = os.environ.get(COUNTRY_VARIABLE) or ANY_COUNTRY
        tracker = OfflineEmissionsTracker(country_iso_code=country, output_methods=[], log_level="critical")
        tracker.start()
        return tracker
    except ImportError:
        say("The energy is not measured: codecarbon is missing. Install it: pip install 'refined-bsrnn[energy]'.")
    except Exception as problem:  # whatever it is, it is no reason to stop
        say(f"The energy is not measured: codecarbon does not start ({_line(problem)}).")
    return None


def _stop(tracker: Any, what: str, started: float) -> list[dict[str, Any]]:
    """What the tracker has measured, as a list of one entry; empty if there is nothing."""
    if tracker is None:
        return []
    try:
        tracker.stop()
        found = tracker.final_emissions_data
        country = os.environ.get(COUNTRY_VARIABLE)
        return [
            {
                "what": what,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "seconds": round(float(found.duration), 1),
                "kwh": float(found.energy_consumed),
                "cpu_kwh": float(found.cpu_energy),
                "gpu_kwh": float(found.gpu_energy),
                "ram_kwh": float(found.ram_energy),
                "co2_kg": float(found.emissions) if country else None,
                "country": country,
                "codecarbon": importlib.metadata.version("codecarbon"),
            }
        ]
    except Exception as problem:  # codecarbon swallows its own errors: then there are no final data
        say(f"The energy was not recorded: codecarbon has no result ({_line(problem)}).")
        return []


def _append(place: Path, entries: list[dict[str, Any]], about: Callable[[], Mapping[str, Any]] | None) -> None:
    try:
        if place.exists():
            values = read_json(place)
        elif about is not None:
            values = dict(about())
        else:
            return
        write_json(place, {**values, "energy": [*values.get("energy", []), *entries]})
    except Exception as problem:  # a full disk, a file that is not ours
        say(f"The energy was not recorded: {_line(problem)}")
        return
    kwh, co2 = sum(entry["kwh"] for entry in entries), [entry["co2_kg"] for entry in entries]
    carbon = f"{sum(co2):.3g} kg of CO2" if None not in co2 else f"for CO2 set {COUNTRY_VARIABLE}, for example to DEU"
    say(f"Energy: {kwh:.3g} kWh, {carbon}; recorded in {place}.")


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
