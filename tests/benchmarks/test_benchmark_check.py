"""The checker's benchmark: songs that are whole, and the command as a user types it."""

import json
from argparse import Namespace

import pytest

from benchmarks.check import CHECK, _songs, check_markdown
from benchmarks.measure import run
from refined_bsrnn.data.check.checker import check
from refined_bsrnn.data.scan import scan
from refined_bsrnn.errors import DataError
from refined_bsrnn.recipe import DataSpec

KINDS = {"check": CHECK}


def test_the_songs_are_whole_and_those_of_the_seed(songs, tmp_path):
    tracks = scan(DataSpec(root=str(songs)), ("train",)).usable()
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        made = _songs(tracks, tmp_path / name / "train", Namespace(songs=2, seconds=3, seed=seed))
        assert sum(made) == sum(file.stat().st_size for file in (tmp_path / name).rglob("*.wav"))
    found = check(DataSpec(root=str(tmp_path / "one")))
    assert [round(track.seconds, 3) for track in found.scan.tracks] == [3, 3]
    assert all(facts.residual_db < -30 for facts in found.facts)  # mixture and stems agree, nothing clips
    assert not [f for f in found.findings if f.kind in ("clipped", "silent", "mixture")]
    bytes_of = [
        (tmp_path / name / "train" / "song-001" / "drums.wav").read_bytes() for name in ("one", "again", "other")
    ]
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]


def test_command(songs, tmp_path, capsys):
    words = ["check", "--data", str(songs), "--songs", "2", "--seconds", "2", "--jobs", "1", "--out", str(tmp_path)]
    assert run(KINDS, words) == 0
    values = json.loads((tmp_path / "check.json").read_text())
    assert (values["songs"], values["jobs"], values["seed"]) == (2, 1, 0)
    assert 0 < values["cpu_seconds"] < 600
    assert check_markdown(values) in capsys.readouterr().out


def test_songs_need_all_four_stems(songs):
    for file in songs.glob("train/*/bass.wav"):
        file.unlink()
    with pytest.raises(DataError, match="no training track has 'bass'; expected all of vocals, drums, bass, other"):
        run(KINDS, ["check", "--data", str(songs), "--songs", "1", "--seconds", "1"])
