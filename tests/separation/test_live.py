"""Live: a stream of blocks is what the network makes of the whole signal."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.audio import read_audio, write_audio
from refined_bsrnn.errors import AudioError, RecipeError
from refined_bsrnn.network.blocks import CAUSAL_NORMS, CELLS
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.network.receptive_field import latency_samples
from refined_bsrnn.network.signals import STFT
from refined_bsrnn.separation.live import Live, LiveInverse, LiveSTFT
from refined_bsrnn.separation.separator import Separator
from tests.apps.test_stems import make_run, noise, stem
from tests.conftest import RATE, micro_recipe


def causal(**values):
    torch.manual_seed(0)
    backbone = {"features": 4, "repeats": 2, "causal": True, "norm": "cumulative", **values.pop("backbone", {})}
    model = BSRNN.from_recipe(micro_recipe(None, backbone=backbone, **values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "norm.bias")) or ".0.weight" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    return Separator(model)


def run(live, mixture, size):
    return torch.cat([*(live.push(block) for block in mixture.split(size, dim=1)), live.finish()], dim=-1)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 3000), block=st.integers(1, 700), hop=st.sampled_from([32, 64, 100, 128]))
def test_the_stft_in_pieces_is_the_stft(length, block, hop):
    stft = STFT(256, hop)
    signal = noise(2, length)[None]
    wanted = stft(signal)
    live, inverse = LiveSTFT(stft), LiveInverse(stft)
    frames = [live.push(part) for part in signal.split(block, dim=2)] + [live.finish()]
    torch.testing.assert_close(torch.cat(frames, dim=-1), wanted, atol=1e-5, rtol=0)
    parts = [inverse.push(part) for part in frames if part.shape[-1]]
    done = torch.cat(parts, dim=-1)[..., :length]
    whole = torch.cat([done, inverse.finish(length - done.shape[-1])], dim=-1)
    torch.testing.assert_close(whole, signal, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", CAUSAL_NORMS)
@pytest.mark.parametrize("cell", [*CELLS, "dilated"])
@pytest.mark.parametrize("groups", [1, 2])
def test_streaming_equals_offline(norm, cell, groups):
    s = causal(backbone={"norm": norm, "time": cell, "groups": groups})
    mixture = noise(2, RATE // 3 + 123)
    with torch.no_grad():
        offline = s.model(mixture[None])
    for size in (300, 5000):
        streamed = run(Live(s), mixture, size)
        for got, name in zip(streamed, s.heads, strict=True):
            assert offline[name].abs().max() > 1e-3
            torch.testing.assert_close(got, offline[name][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "values",
    [
        {"backbone": {"stereo": "tac"}},
        {"backbone": {"stereo": "joint"}},
        {"head": {"kind": "residual"}},
        {"together": "consistent"},
        {"together": "subtract_last"},
        {"head": {"bridge": True}},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_streaming_equals_offline_for_variants(values, channels):
    s = causal(**values)
    mixture = noise(channels, RATE // 3)
    offline = s.separate(mixture)  # in one chunk
    for got, name in zip(run(Live(s), mixture, 500), s.heads, strict=True):
        torch.testing.assert_close(got, offline[name], atol=1e-5, rtol=0)


def test_an_adapters_backbone_remembers_too():
    s = causal()
    adapter = s.model.add_adapter("a", ["drums"], rank=2, alpha=2.0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    mixture = noise(2, RATE)
    offline = s.separate(mixture)
    for got, name in zip(run(Live(s), mixture, 500), s.heads, strict=True):
        torch.testing.assert_close(got, offline[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 64, 128, 129, 300])
def test_short_signals(length):
    s = causal()
    mixture = noise(1, length)
    with torch.no_grad():
        offline = s.model(mixture[None], ["drums"])["drums"]
    torch.testing.assert_close(run(Live(s, ["drums"]), mixture, 37), offline, atol=1e-5, rtol=0)


def test_the_latency_is_the_windows():
    s = causal()
    live = Live(s, ["vocals"])
    assert live.latency_samples == 255 >= latency_samples(s.model)  # no frame is begun before it is there as a whole
    n_in = n_out = 0
    for _ in range(300):
        n_in, n_out = n_in + 10, n_out + live.push(noise(1, 10)).shape[-1]
        assert n_out >= n_in - live.latency_samples
    changed = [torch.cat([noise(1, 1000, 1), noise(1, 1000, seed)], dim=1) for seed in (2, 3)]
    one, other = (run(Live(s, ["vocals"]), x, 100)[0] for x in changed)
    same = int((one - other).abs().amax(0).gt(1e-6).nonzero()[0])
    assert 1000 - 256 <= same < 1000


def test_streams_do_not_disturb_each_other_or_the_network():
    s = causal()
    before = {name: x.clone() for name, x in s.model.state_dict().items()}
    mixtures = [noise(1, RATE, seed) for seed in (1, 2)]
    alone = [run(Live(s), mixture, 400) for mixture in mixtures]
    lives = [Live(s), Live(s)]
    assert lives[0].core.core.model.backbone.encoder.linears[0].weight is s.model.backbone.encoder.linears[0].weight
    parts = [[], []]
    for blocks in zip(*(mixture.split(400, dim=1) for mixture in mixtures), strict=True):
        for live, part, block in zip(lives, parts, blocks, strict=True):
            part.append(live.push(block))
    for live, part, wanted in zip(lives, parts, alone, strict=True):
        assert torch.equal(torch.cat([*part, live.finish()], dim=-1), wanted)
    assert all(torch.equal(x, before[name]) for name, x in s.model.state_dict().items())


def test_blocks_that_cannot_be_used():
    live = Live(causal())
    with pytest.raises(AudioError, match="nothing to finish; expected blocks first"):
        live.finish()
    for block in (torch.zeros(500), torch.zeros(1, 2, 500), torch.zeros(0, 500)):
        with pytest.raises(AudioError, match=r"expected \(channels, samples\)"):
            live.push(block)
    live.push(np.zeros((2, 500)))
    with pytest.raises(AudioError, match=r"shape \(1, 500\); expected \(2, samples\)"):
        live.push(torch.zeros(1, 500))
    with pytest.raises(AudioError, match="NaN"):
        live.push(torch.full((2, 500), float("nan")))
    left = 500 - live.n_out
    assert live.finish().shape[1:] == (2, left)
    for ended in (live.finish, lambda: live.push(torch.zeros(2, 500))):
        with pytest.raises(AudioError, match="one end|has ended"):
            ended()


def test_networks_that_cannot_run_live():
    model = BSRNN.from_recipe(micro_recipe(None))
    with pytest.raises(RecipeError, match="looks at the whole signal; live it needs one trained with backbone.causal"):
        Live(Separator(model))
    with pytest.raises(RecipeError, match="a rope_transformer attends to all of its input"):
        Live(causal(backbone={"kind": "rope_transformer", "norm": "ln"}))


@pytest.mark.parametrize("rate", [RATE, 11025])
def test_the_command_live(rate, tmp_path, monkeypatch, capsys):
    backbone = {"features": 4, "repeats": 1, "causal": True, "norm": "cumulative"}
    make_run("live", ["vocals", "drums"], backbone=backbone)
    song = write_audio(tmp_path / "song.wav", noise(2, 3 * rate), rate)
    assert main(["separate", str(song), "--model", "live", "--live", "--residual"]) == 0
    err = capsys.readouterr().err
    assert "Live: blocks of 100 ms took" in err
    assert "Latency: 32 ms of the network's window" in err
    offline = Separator.from_pretrained("live", chunk_seconds=60.0).separate(song)
    for name, wanted in offline.items():
        torch.testing.assert_close(stem(name, model="live"), wanted, atol=1e-5, rtol=0)
    total = sum(stem(name, model="live") for name in (*offline, "residual"))
    torch.testing.assert_close(total, read_audio(song)[0], atol=1e-6, rtol=0)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(song.read_bytes())))
    assert main(["separate", "-", "--model", "live", "--live", "--start", "1", "--head", "drums"]) == 0
    assert stem("drums", "stdin", model="live").shape == (2, 2 * rate)
    make_run("whole", ["vocals"])
    assert main(["separate", str(song), "--model", "whole", "--live"]) == 2
    assert "backbone.causal" in capsys.readouterr().err
