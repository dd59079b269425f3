"""Energy in provenance.json: measured by a stand-in for codecarbon, whose numbers are known."""

import importlib.metadata
import json
import subprocess
import sys
import types

import pytest

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.runs.energy import energy_recorded, energy_wanted
from refined_bsrnn.runs.folder import RunFolder
from refined_bsrnn.training.train import train

from ..conftest import micro_recipe

MEASURED = {"duration": 12.34, "energy_consumed": 0.006, "cpu_energy": 0.003, "gpu_energy": 0.002, "ram_energy": 0.001}


class FakeTracker:
    """Counts what it is asked; `fails` names the method that raises, as codecarbon itself never does."""

    fails = None
    made: list[dict]

    def __init__(self, **options):
        self.made.append(options)
        self.running = False

    def start(self):
        if self.fails == "start":
            raise PermissionError("no counters here")
        self.running = True

    def stop(self):
        assert self.running
        if self.fails == "stop":  # what codecarbon does with its own errors: nothing is raised, nothing is there
            return
        self.final_emissions_data = types.SimpleNamespace(**MEASURED, emissions=0.0021)


@pytest.fixture
def codecarbon(monkeypatch):
    tracker = type("Tracker", (FakeTracker,), {"made": []})
    monkeypatch.setitem(sys.modules, "codecarbon", types.SimpleNamespace(OfflineEmissionsTracker=tracker))
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda x: "3.3.2" if x == "codecarbon" else version(x))
    monkeypatch.delenv("CODECARBON_COUNTRY_ISO_CODE", raising=False)
    monkeypatch.delenv("REFINED_BSRNN_ENERGY", raising=False)
    return tracker


def entries(path):
    return json.loads(path.read_text())["energy"]


def test_nothing_is_measured_unless_asked_for(codecarbon, tmp_path):
    with energy_recorded(tmp_path / "provenance.json", "train", energy_wanted(), about=dict):
        pass
    assert not codecarbon.made
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
def test_the_environment_asks_for_it(monkeypatch, value, wanted):
    monkeypatch.setenv("REFINED_BSRNN_ENERGY", value)
    assert energy_wanted() is wanted
    assert energy_wanted(True)


def test_an_entry_has_the_measured_energy_and_no_co2_without_a_country(codecarbon, tmp_path, capsys):
    place = tmp_path / "provenance.json"
    with energy_recorded(place, "separate", True, about=lambda: {"python": "3"}):
        pass
    assert json.loads(place.read_text())["python"] == "3"
    (entry,) = entries(place)
    assert entry.pop("started").endswith("Z")
    assert entry == {
        "what": "separate",
        "seconds": 12.3,
        "kwh": 0.006,
        "cpu_kwh": 0.003,
        "gpu_kwh": 0.002,
        "ram_kwh": 0.001,
        "co2_kg": None,
        "country": None,
        "codecarbon": "3.3.2",
    }
    assert "0.006 kWh, for CO2 set CODECARBON_COUNTRY_ISO_CODE" in " ".join(capsys.readouterr().err.split())
    assert codecarbon.made[0]["output_methods"] == []  # nothing on the disk, nothing sent


def test_co2_is_that_of_the_country(codecarbon, tmp_path, monkeypatch):
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    with energy_recorded(tmp_path / "p.json", "train", True, about=dict):
        pass
    assert codecarbon.made[0]["country_iso_code"] == "DEU"
    assert [(e["co2_kg"], e["country"]) for e in entries(tmp_path / "p.json")] == [(0.0021, "DEU")]


def test_a_second_block_appends_and_keeps_the_rest(codecarbon, tmp_path):
    place = tmp_path / "p.json"
    place.write_text('{"seed": 3}')
    for what in ("train", "separate"):
        with energy_recorded(place, what, True):
            pass
    assert [e["what"] for e in entries(place)] == ["train", "separate"]
    assert json.loads(place.read_text())["seed"] == 3


def test_what_fails_is_recorded_too_and_raised(codecarbon, tmp_path):
    with pytest.raises(KeyboardInterrupt), energy_recorded(tmp_path / "p.json", "train", True, about=dict):
        raise KeyboardInterrupt
    assert len(entries(tmp_path / "p.json")) == 1


def test_a_missing_file_is_not_made_where_it_has_nothing_to_say(codecarbon, tmp_path):
    """A training that fails before it has a folder leaves none."""
    with energy_recorded(tmp_path / "run" / "provenance.json", "train", True):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", ["start", "stop", "import", "write"])
def test_no_failure_stops_the_work(codecarbon, tmp_path, capsys, monkeypatch, fails):
    codecarbon.fails = fails
    place = tmp_path / "p.json"
    place.write_text("[1]" if fails == "write" else "{}")
    if fails == "import":
        monkeypatch.setitem(sys.modules, "codecarbon", None)
    before, done = place.read_text(), []
    with energy_recorded(place, "train", True):
        done.append(1)
    assert done
    assert place.read_text() == before
    text = " ".join(capsys.readouterr().err.split())
    expected = {"start": "no counters here", "import": "pip install 'refined-bsrnn[energy]'"}
    assert expected.get(fails, "The energy was not recorded") in text


class Accelerator:
    """One of four processes on two machines."""

    def __init__(self, index):
        self.is_main_process, self.is_local_main_process = index == 0, index % 2 == 0


@pytest.mark.parametrize(("index", "n_made", "n_written"), [(0, 1, 2), (1, 0, 0), (2, 1, 0), (3, 0, 0)])
def test_one_process_per_machine_measures_and_one_writes_all(
    codecarbon, tmp_path, monkeypatch, index, n_made, n_written
):
    other = {"what": "train", "kwh": 0.1, "co2_kg": None}
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: [*own, other])
    with energy_recorded(tmp_path / "p.json", "train", True, Accelerator(index), about=dict):
        pass
    assert len(codecarbon.made) == n_made
    assert (len(entries(tmp_path / "p.json")) if n_written else len(list(tmp_path.iterdir()))) == n_written


def test_a_training_and_its_continuation_are_in_its_provenance(codecarbon, songs):
    run, finished = train(micro_recipe(songs, log={"wandb": "off", "energy": True}))
    assert finished
    assert [e["what"] for e in entries(run.provenance)] == ["train"]
    assert main(["train", "--resume", str(run.path)]) == 0
    assert [e["what"] for e in entries(run.provenance)] == ["train", "train"]
    assert json.loads(run.provenance.read_text())["resumed_at_steps"] == [4]


def test_a_training_without_it_has_no_such_key(codecarbon, songs):
    run, _ = train(micro_recipe(songs))
    assert "energy" not in json.loads(RunFolder(run.path).provenance.read_text())
    assert not codecarbon.made


def test_a_separation_records_beside_its_stems(codecarbon, songs, tmp_path, monkeypatch):
    run, _ = train(micro_recipe(songs))
    song, out = songs / "test" / "song-0" / "mixture.wav", tmp_path / "out"
    assert main(["separate", str(song), "--model", str(run.path), "--out", str(out)]) == 0
    assert not (out / "provenance.json").exists()
    monkeypatch.setenv("REFINED_BSRNN_ENERGY", "1")
    assert main(["separate", str(song), "--model", str(run.path), "--out", str(out), "--overwrite"]) == 0
    assert [e["what"] for e in entries(out / "provenance.json")] == ["separate"]
    assert json.loads((out / "provenance.json").read_text())["packages"]["torch"]


def test_codecarbon_is_not_imported_by_the_module():
    code = "import sys, refined_bsrnn.runs.energy; sys.exit('codecarbon' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
