"""The loader's benchmark on small data, and the loader's memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import data as data_benchmark
from benchmarks.measure import run
from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.names import REST
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import tracks_of
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.recipe import DataSpec
from tests.conftest import STEMS, micro_recipe


def test_the_table_has_wav_flac_and_augmentation_beside_bare_reads(songs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data_benchmark, "EXAMPLES", 2)
    monkeypatch.setattr(data_benchmark, "_training_speed", lambda recipe: 2.0)

    def twice_as_long(jobs, bare, *_):
        """What the clock would say: half a second of bare reads, a second of the loader."""
        assert len(jobs) == 2
        for job in jobs.values():
            job()
        return {name: [(0.5 if name == bare else 1.0, 0.5)] for name in jobs}

    monkeypatch.setattr(data_benchmark, "interleaved", twice_as_long)
    arguments = ["data", "--data", str(songs), "--rounds", "1", "--preset", "umx", "--out", str(tmp_path / "out")]
    assert run({"data": data_benchmark.DATA}, arguments) == 0
    table = capsys.readouterr().out
    assert "| files | augmentation | audio s/s per worker | bare soundfile | share | × tiny training |" in table
    values = json.loads((tmp_path / "out" / "data.json").read_text())
    assert [(row["files"], row["augmentation"]) for row in values["rows"]] == [
        ("wav, 16 bits", "none"),
        ("flac, 16 bits", "none"),
        ("wav, 24 bits", "none"),
        ("wav, float", "none"),
        ("wav, 16 bits", "umx"),
    ]
    for row in values["rows"]:  # of two examples of 3 s
        assert row["share_of_bare"]["median"] == 0.5
        assert (row["audio_seconds_per_second"], row["bare"]) == (6.0, 12.0)
    assert table.count("| 6 | 12 | 0.50 (0.50–0.50) | 3 |") == 5


@pytest.mark.parametrize("stems", [(), ("drums", REST)])
def test_the_bare_reads_are_those_of_the_examples(songs, monkeypatch, stems):
    recipe = micro_recipe(songs, targets=["drums"], augment={"preset": "none", "remix": 0.5})
    parts = make_parts(tracks_of(track_table(songs, ["train"])), ["drums"], DataSpec(stems=stems))
    mixes = RandomMixes(parts, recipe, 10)
    read = []
    opened = soundfile.SoundFile.read

    def spy(self, frames=-1, *args, **kwargs):
        read.append((os.fsdecode(self.name), self.tell(), frames))
        return opened(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    for i in range(10):
        read.clear()
        mixes[i]
        assert read == [(str(path), start, n) for path, start, n in mixes.reads(i)]


MEMORY = """
import resource, sys
from pathlib import Path
from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.system import keep_big_blocks
from refined_bsrnn.recipe import make_recipe
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import tracks_of
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
keep_big_blocks()
stft = {"sample_rate_hz": 8000, "n_fft": 256, "hop": 64}
recipe = make_recipe({"targets": ["drums"], "stft": stft, "train": {"chunk_seconds": 1}, "augment": {"remix": 0.5}})
for root in map(Path, sys.argv[1:]):
    before = resident()
    parts = make_parts(tracks_of(track_table(root, ["train"])), recipe.targets, recipe.data)
    mixes = RandomMixes(parts, recipe, 200)
    grown = 0.0
    for i in range(200):
        mixes[i]
        grown = max(grown, resident() - before)
    print(grown)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_grows_neither_with_the_length_nor_with_the_number_of_songs(tmp_path):
    """MiB beyond those at the start: of 2 songs of 5 s, then of 8 of 2 minutes, which are 96 times as much audio."""
    roots = []
    for name, n_songs, seconds in (("few", 2, 5), ("many", 8, 120)):
        roots.append(tmp_path / name)
        noise = np.random.default_rng(0).integers(-3000, 3000, (8000 * seconds, 2)).astype(np.int16)
        for i in range(n_songs):
            folder = roots[-1] / "train" / f"song-{i}"
            folder.mkdir(parents=True)
            for stem in STEMS:
                soundfile.write(folder / f"{stem}.wav", noise, 8000)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, roots)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    few, many = map(float, done.stdout.split())
    assert few < 64
    assert many < 16
