"""The comparison of band schemes: cells by hand, parameters against the network, the document against the command."""

from pathlib import Path

import pytest
import torch

from refined_bsrnn.bands import SCHEMES, BandSplit, band_split
from refined_bsrnn.errors import RecipeError
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.recipe import make_recipe
from refined_bsrnn.report.band_table import (
    TABLE_SCHEMES,
    band_facts,
    band_table,
    encoder_parameters,
    head_parameters,
    match_features,
    matched_table,
    model_parameters,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "bands.md"


def widths(kind, **options):
    return [stop - start for start, stop in band_split(kind, **options)]


@pytest.mark.parametrize(("kind", "hidden_layers"), [("v7", 1), ("tet24", 2), ("musical", 1), ("erb", 2)])
def test_formulas_agree_with_the_network(kind, hidden_layers):
    values = {"targets": ["a"], "bands": {"kind": kind}, "head": {"hidden_layers": hidden_layers}}
    with torch.device("meta"):
        model = BSRNN.from_recipe(make_recipe({**values, "backbone": {"features": 64, "repeats": 2}}))
    assert count_parameters(model.backbone.encoder) == encoder_parameters(widths(kind), 64)
    assert count_parameters(model.heads["a"]) == head_parameters(widths(kind), 64, hidden_layers)
    if hidden_layers == 1:
        assert count_parameters(model) == model_parameters(widths(kind), 64, 2)


def test_published_sizes():
    assert head_parameters(widths("v7"), 64) == 1_741_188
    assert head_parameters(widths("joint"), 128, hidden_layers=2) == 20_854_020
    assert model_parameters(widths("v7"), 64, 8) == 5_322_824


def test_features_of_equal_size():
    assert match_features(widths("v7"), 5_322_824, 8) == 64
    n = match_features(widths("musical"), 5_322_824, 8)
    sizes = [abs(model_parameters(widths("musical"), m, 8) - 5_322_824) for m in (n - 1, n, n + 1)]
    assert min(sizes) == sizes[1]


def test_facts_by_hand():
    # at 8 kHz and n_fft 16 a bin is 500 Hz: bands 0–500, 500–1000, 1000–2000, 1500–4000 Hz
    split = BandSplit(((0, 1), (1, 2), (2, 4), (3, 9)), ((1.0,), (1.0,), (1.0, 0.5), (0.5, 1, 1, 1, 1, 1)))
    facts = band_facts(split, 8000, 16)
    assert facts["cents_below"] == pytest.approx(1200)
    assert facts["cents_above"] == pytest.approx((1200 + 1698.04) / 2, abs=0.01)  # 8/3 are 1698 cents
    assert facts["single_bin_bands"] == 2
    assert facts["redundancy"] == pytest.approx(10 / 9)


def cells(table, label):
    (row,) = [line for line in table.splitlines() if line.startswith(f"| `{label}` |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_rows_by_hand():
    table = band_table().markdown
    assert len(table.splitlines()) == 2 + len(SCHEMES) - 1
    assert cells(table, "v7")[:3] == ["41", "41", "41"]
    # 2 · 2 · 1025 + 2 · 64 · 1025 + 41 · 64 parameters
    assert cells(table, "v7")[5:] == ["0", "1.00", "137,924", "1,741,188"]
    assert cells(table, "tet24")[:3] + cells(table, "tet24")[5:6] == ["36", "39", "41", "8"]
    assert cells(table, "bs_roformer")[:3] == ["62", "–", "–"]
    assert cells(table, "v3")[3:5] == ["–", "316"]
    assert cells(table, "musical")[6] == "2.09"
    assert cells(table, "semitone")[:3] == ["88", "99", "105"]


def test_matched_rows_have_one_k_and_one_size():
    table = matched_table(41).markdown
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert {row[1].strip() for row in rows} == {"41"}
    assert cells(table, "v7")[-1] == "64"
    assert "`bass`" not in table
    with pytest.raises(RecipeError, match="no scheme has 2 bands"):
        matched_table(2, [("v7", {}), ("bass", {})])


def test_the_document_names_every_scheme():
    assert all(f"`{kind}`" in DOCUMENT.read_text() for kind, _ in TABLE_SCHEMES)
