"""The table that answers the main claim, from made-up results."""

import json

import pytest

from benchmarks.claim import claim_table


@pytest.fixture
def results(tmp_path):
    def write(run, seed, seconds, **scores):
        """Scores of songs a, b and c per target."""
        tracks = [
            {"track": name, "targets": {target: {"estimate": {"usdr": x[i]}} for target, x in scores.items()}}
            for i, name in enumerate("abc")
        ]
        folder = tmp_path / f"{run}.s{seed}"
        folder.mkdir()
        text = json.dumps({"training": {"seed": seed, "seconds": seconds}, "tracks": tracks[:: 1 - 2 * (seed % 2)]})
        (folder / "results.json").write_text(text)

    write("bass-v7", 0, 500, bass=[2.0, 4.0, 6.0])
    write("bass-v7", 1, 500, bass=[3.0, 5.0, 7.0])
    write("no-bass", 0, 1000, drums=[1.0, 1.0, 1.0])
    write("no-bass", 1, 1000, drums=[1.0, 1.0, 1.0])
    write("no-bass-to-bass", 0, 200, bass=[1.0, 3.0, 5.0])
    write("no-bass-to-bass", 1, 400, bass=[1.0, 3.0, 5.0])
    write("no-bass-to-bass-10tracks", 1, 50, bass=[0.0, 2.0, 1.0])
    write("no-bass-to-bass-10tracks", 2, 50, bass=[9.0, 9.0, 9.0])  # no v7 of this seed
    return tmp_path


def test_shares_and_differences_over_seeds_and_songs(results):
    *_, ten, frozen, alone = claim_table(results).splitlines()
    # 3 of 4 and 3 of 5 dB; 1 dB less in each song, then 2 dB: 1.5 in each.
    assert frozen.startswith("| bass | head on the frozen backbone, all songs | 0, 1 | 3.00 ± 0.00 | 68 ± 11 % | ")
    assert frozen.endswith(" | 1.50 [1.50, 1.50] | 30 ± 14 % |")
    assert ten.startswith("| bass | head on the frozen backbone, 10 songs | 1 | 1.00 | 20 % | 4.00 [3.00, ")
    assert alone == "| bass | v7, this target alone, to its end | 0, 1 | 4.50 ± 0.71 | | | |"
