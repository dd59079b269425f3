"""The table that answers the main claim, from made-up results."""

import json

import pytest

from benchmarks.claim import claim_table


@pytest.fixture
def results(tmp_path):
    def write(run, seed, **scores):
        """Scores of songs a, b, c, and if there are four of a real one, per target."""
        tracks = [
            {"track": name, "targets": {target: {"estimate": {"usdr": x[i]}} for target, x in scores.items()}}
            for i, name in list(enumerate(("a", "b", "c", "eir_a")))[: len(next(iter(scores.values())))]
        ]
        folder = tmp_path / f"{run}.s{seed}"
        folder.mkdir()
        text = json.dumps({"training": {"seed": seed}, "tracks": tracks[:: 1 - 2 * (seed % 2)]})
        (folder / "results.json").write_text(text)

    write("bass-v7", 0, bass=[2.0, 4.0, 6.0, 0.0])
    write("bass-v7", 1, bass=[3.0, 5.0, 7.0, 1.0])
    write("no-bass", 0, drums=[1.0, 1.0, 1.0, 1.0])
    write("no-bass-to-bass", 0, bass=[1.0, 3.0, 5.0, -1.0])
    write("no-bass-to-bass", 1, bass=[1.0, 3.0, 5.0, -3.0])
    write("no-bass-to-bass-10tracks", 1, bass=[0.0, 2.0, 1.0, 5.0])
    write("no-bass-to-bass-10tracks", 2, bass=[9.0, 9.0, 9.0, 9.0])  # no v7 of this seed
    write("drums-v7", 0, drums=[1.0, 2.0, 3.0])
    return tmp_path


def test_shares_and_differences_over_seeds_and_songs(results):
    _, _, drums, ten, frozen, alone = claim_table(results).splitlines()
    # Rendered: 3 of 4 and 3 of 5 dB; in each song 1 dB less, then 2 dB less. All: 2 of 3 and 1.5 of 4 dB.
    assert frozen == (
        "| bass | head on the frozen backbone, all songs | 0, 1 | 3.00 ± 0.00 | 68 ± 11 % | 1.50 [1.50, 1.50] "
        "| -2.00 ± 1.41 | 1.75 ± 0.35 | 52 ± 21 % |"
    )
    assert ten.startswith("| bass | head on the frozen backbone, 10 songs | 1 | 1.00 | 20 % | 4.00 [3.00, ")
    assert ten.endswith(" | 5.00 | 2.00 | 50 % |")
    assert alone == (
        "| bass | v7, this target alone, to its end | 0, 1 | 4.50 ± 0.71 |  |  | 0.50 ± 0.71 | 3.50 ± 0.71 |  |"
    )
    assert drums == "| drums | v7, this target alone, to its end | 0 | 2.00 |  |  | – | 2.00 |  |"
