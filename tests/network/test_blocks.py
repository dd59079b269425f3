"""The layers of the backbone against computations apart from them."""

import pytest
import torch
from torch.nn import functional as F

from refined_bsrnn.network.blocks import BandSequenceRNN, ConvCell, DilatedConvs, RMSNorm
from refined_bsrnn.recipe import BackboneSpec


def group_norm(x, norm):
    return F.group_norm(x, 1, norm.weight, norm.bias, 1e-7)


def test_groups_are_items_with_the_same_weights():
    torch.manual_seed(0)
    grouped = BandSequenceRNN(BackboneSpec(features=6), 5, groups=3)
    alone = BandSequenceRNN(BackboneSpec(features=2), 5)
    alone.load_state_dict(grouped.state_dict())
    x = torch.randn(2, 2, 5, 7, 6)
    parts = [alone(part) for part in x.chunk(3, dim=-1)]
    torch.testing.assert_close(grouped(x), torch.cat(parts, dim=-1))


@pytest.mark.parametrize("causal", [False, True])
def test_the_convolution_is_the_published_one(causal):
    """Three taps to 4 N channels (2 N where causal), then ReLU; so 6.4 dB in oBSRNN's study has 12 N² + 4 N weights."""
    cell, x = ConvCell(4, 8, causal), torch.randn(3, 9, 4)
    assert cell.conv.weight.shape == ((8, 4, 3) if causal else (16, 4, 3))
    padded = F.pad(x.transpose(1, 2), (2, 0) if causal else (1, 1))
    expected = F.conv1d(padded, cell.conv.weight, cell.conv.bias).relu().transpose(1, 2)
    torch.testing.assert_close(cell(x)[0], expected)


def test_dilated_convolutions_are_those_of_bscnn():
    """Written as published: input layer, stack, one merging layer per level over its neighbours, output layer."""
    torch.manual_seed(0)
    layer, x = DilatedConvs(4, 6, "gn1", dilations=3), torch.randn(2, 20, 4)

    def unit(module, x, dilation=1):
        conv = module.conv.conv
        return F.conv1d(group_norm(x, module.norm), conv.weight, conv.bias, padding=dilation, dilation=dilation).relu()

    y = unit(layer.enter, x.transpose(1, 2))
    first = unit(layer.dilated[0], y, 1)
    second = unit(layer.dilated[1], first, 2)
    third = unit(layer.dilated[2], second, 4)
    merged = [
        unit(layer.merged[0], torch.cat([first, second], 1)),
        unit(layer.merged[1], torch.cat([first, second, third], 1)),
        unit(layer.merged[2], torch.cat([second, third], 1)),
    ]
    expected = x + unit(layer.leave, torch.cat(merged, 1)).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected)


def test_rms_norm_is_the_published_one():
    """x / ‖x‖ · √N · gain (BS-RoFormer)."""
    norm, x = RMSNorm(5), torch.randn(3, 7, 5)
    norm.weight.data = torch.randn(5)
    torch.testing.assert_close(norm(x), F.normalize(x, dim=-1) * 5**0.5 * norm.weight)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
