"""A plain Band-Split RNN as in its paper: one target, float32, a loop over the bands, no optimisations.

It is meant to be read together with Luo and Yu, 2022 (arXiv 2209.15174), section III, and to be compared with the
package: it uses only the bands of the package. `Reference.load` loads the weights of a trained or new `BSRNN`; the
estimates are then equal.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from refined_bsrnn.bands import band_split
from refined_bsrnn.recipe import Recipe


class Norm(nn.Module):
    """The authors' GroupNorm with one group: statistics over a sequence and its features, (M, S, N) → (M, S, N)."""

    def __init__(self, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2), keepdim=True)
        variance = ((x - mean) ** 2).mean((1, 2), keepdim=True)
        return (x - mean) / (variance + 1e-7).sqrt() * self.weight + self.bias


class ResidualRNN(nn.Module):
    """Norm, bidirectional LSTM, linear layer, and the input added: (M, S, N) → (M, S, N)."""

    def __init__(self, features: int):
        super().__init__()
        self.norm = Norm(features)
        self.rnn = nn.LSTM(features, 2 * features, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.rnn(self.norm(x))[0])


class Reference(nn.Module):
    """Band split, ``repeats`` pairs of an RNN over time and one over bands, one mask."""

    def __init__(self, ranges: Sequence[tuple[int, int]], features: int, repeats: int, n_fft: int, hop: int):
        super().__init__()
        self.ranges, self.n_fft, self.hop = list(ranges), n_fft, hop
        widths = [stop - start for start, stop in ranges]
        self.norms = nn.ModuleList(Norm(2 * width) for width in widths)
        self.linears = nn.ModuleList(nn.Linear(2 * width, features) for width in widths)
        self.time = nn.ModuleList(ResidualRNN(features) for _ in range(repeats))
        self.band = nn.ModuleList(ResidualRNN(features) for _ in range(repeats))
        self.masks = nn.ModuleList(
            nn.Sequential(
                Norm(features), nn.Linear(features, 4 * features), nn.Tanh(), nn.Linear(4 * features, 4 * width)
            )
            for width in widths
        )

    def forward(self, mixture: Tensor) -> Tensor:
        """Waveform (M, L) → the target's waveform (M, L); channels are items of their own."""
        window = torch.hann_window(self.n_fft, device=mixture.device)
        spectrogram = torch.stft(mixture, self.n_fft, self.hop, window=window, return_complex=True)  # (M, F, T)
        bands = []
        for (start, stop), norm, linear in zip(self.ranges, self.norms, self.linears, strict=True):
            part = spectrogram[:, start:stop].transpose(1, 2)  # (M, T, G)
            bands.append(linear(norm(torch.cat([part.real, part.imag], dim=-1))))  # (M, T, N)
        x = torch.stack(bands, dim=1)  # (M, K, T, N)
        n_items, n_bands, n_frames, n_features = x.shape
        for along_time, along_bands in zip(self.time, self.band, strict=True):
            x = along_time(x.reshape(n_items * n_bands, n_frames, n_features)).view(x.shape)
            x = x.transpose(1, 2).reshape(n_items * n_frames, n_bands, n_features)  # (M·T, K, N)
            x = along_bands(x).view(n_items, n_frames, n_bands, n_features).transpose(1, 2)  # (M, K, T, N)
        masked = []
        for k, ((start, stop), mlp) in enumerate(zip(self.ranges, self.masks, strict=True)):
            value, gate = mlp(x[:, k]).chunk(2, dim=-1)  # (M, T, 2G) each
            real, imag = (value * gate.sigmoid()).chunk(2, dim=-1)  # (M, T, G) each
            masked.append(torch.complex(real.float(), imag.float()).transpose(1, 2) * spectrogram[:, start:stop])
        estimate = torch.cat(masked, dim=1)  # (M, F, T)
        return torch.istft(estimate, self.n_fft, self.hop, window=window, length=mixture.shape[-1])

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> "Reference":
        """A new network with a recipe's bands, STFT, N and R; everything else is as in the paper."""
        stft, bands = recipe.stft, recipe.bands
        split = band_split(bands.kind, sample_rate_hz=stft.sample_rate_hz, n_fft=stft.n_fft, **bands.options)
        return cls(list(split.ranges), recipe.backbone.features, recipe.backbone.repeats, stft.n_fft, stft.hop)

    def load(self, state: Mapping[str, Tensor], target: str) -> "Reference":
        """Take the weights of a `BSRNN` for one target from its state dict; raises if one is missing or misshapen."""
        own = {
            "norms.": "backbone.encoder.norms.",
            "linears.": "backbone.encoder.linears.",
            "masks.": f"heads.{target}.bands.",
        }
        for i in range(len(self.time)):
            own |= {f"{axis}.{i}.": f"backbone.blocks.{i}.{axis}." for axis in ("time", "band")}
        values = {}
        for name in self.state_dict():
            prefix_of = next(prefix for prefix in own if name.startswith(prefix))
            values[name] = state[own[prefix_of] + name.removeprefix(prefix_of)]
        self.load_state_dict(values)
        return self
