"""Published RoFormers, written down apart from the package: their tensors, and what they compute.

`published` takes the tensors under their published names and in their published order, and uses none of the package's
modules. It was compared with the public package (msst 0.1.0) on eight small networks: largest difference 1e-7.
"""

import math
from itertools import count, pairwise

import torch
import yaml

BINS = 129  # of n_fft 256
WIDTHS = (1, 2, 3, 6, 20, 40, 57)
# Where librosa.filters.mel(sr=8000, n_fft=256, n_mels=8) is above zero, bin 0 and the last one added.
MEL = ((0, 17), (9, 26), (17, 34), (26, 44), (34, 58), (44, 75), (58, 98), (75, 129))


def config_of(stems=("vocals", "drums"), target=None, mel=False, audio=None, inference=None, **model):
    """A configuration in MSST's form for a small network at 8 kHz; ``model``: other values than these."""
    bands = {"num_bands": 8, "sample_rate": 8000} if mel else {"freqs_per_bands": WIDTHS}
    sizes = {"dim": 6, "depth": 2, "heads": 2, "dim_head": 4, "time_transformer_depth": 1, "freq_transformer_depth": 1}
    stft = {"stft_n_fft": 256, "stft_hop_length": 64, "stft_win_length": 256, "stft_normalized": False}
    masks = {"num_stems": 1 if target else len(stems), "mask_estimator_depth": 2, "flash_attn": True}
    return {
        "audio": {"chunk_size": 16000, "sample_rate": 8000, "hop_length": 441, **(audio or {})},
        "model": {"stereo": True, **sizes, **stft, **masks, **bands, **model},
        "training": {"instruments": list(stems), "target_instrument": target, "lr": 1e-5},
        "inference": {"num_overlap": 4, "batch_size": 1, **(inference or {})},
    }


def bands_of(model):
    """The bins of each band."""
    if "num_bands" in model:
        return [list(range(start, stop)) for start, stop in MEL]
    edges = [sum(model["freqs_per_bands"][:i]) for i in range(len(model["freqs_per_bands"]) + 1)]
    return [list(range(start, stop)) for start, stop in pairwise(edges)]


def layout(model, bias=False, feed_forward=4):
    """{name: shape} of the published network."""
    n, heads, inner = model["dim"], model["heads"], model["heads"] * model["dim_head"]
    mel, channels = "num_bands" in model, 2 if model["stereo"] else 1
    shapes = {"shared_qkv_bias": [3 * inner], "shared_out_bias": [n]} if bias else {}
    for block in range(model["depth"]):
        for axis, depth in enumerate((model["time_transformer_depth"], model["freq_transformer_depth"])):
            for i in range(depth):
                root, wide = f"layers.{block}.{axis}.layers.{i}.", feed_forward * n
                shapes |= {f"{root}0.rotary_embed.freqs": [model["dim_head"] // 2], f"{root}0.norm.gamma": [n]}
                shapes |= {f"{root}0.to_qkv.weight": [3 * inner, n], f"{root}0.to_out.0.weight": [n, inner]}
                shapes |= {f"{root}0.to_qkv.bias": [3 * inner], f"{root}0.to_out.0.bias": [n]} if bias else {}
                shapes |= {f"{root}0.to_gates.weight": [heads, n], f"{root}0.to_gates.bias": [heads]}
                shapes |= {f"{root}1.net.0.gamma": [n], f"{root}1.net.1.weight": [wide, n]}
                shapes |= {f"{root}1.net.1.bias": [wide], f"{root}1.net.4.weight": [n, wide]}
                shapes |= {f"{root}1.net.4.bias": [n]}
            shapes |= {f"layers.{block}.{axis}.norm.gamma": [n]} if mel else {}
    shapes |= {} if mel else {"final_norm.gamma": [n]}
    hidden = model.get("mlp_expansion_factor", 4) * n
    for k, bins in enumerate(bands_of(model)):
        width, root = 2 * channels * len(bins), f"band_split.to_features.{k}."
        shapes |= {f"{root}0.gamma": [width], f"{root}1.weight": [n, width], f"{root}1.bias": [n]}
        sizes = [n, *[hidden] * (model["mask_estimator_depth"] - (not mel)), 2 * width]
        for stem in range(model["num_stems"]):
            for i, (into, out) in enumerate(pairwise(sizes)):
                root = f"mask_estimators.{stem}.to_freqs.{k}.0.{2 * i}."
                shapes |= {f"{root}weight": [out, into], f"{root}bias": [out]}
    return shapes


def usual_speeds(head_dim):
    return torch.tensor([10000 ** (-2 * i / head_dim) for i in range(head_dim // 2)])


def tensors_of(model, seed=0, own_speeds=False, **options):
    """A random network; what is shared in it is the same tensor."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in layout(model, **options).items():
        tensors[name] = torch.randn(shape, generator=random) / math.sqrt(shape[-1] if len(shape) > 1 else 10)
        tensors[name] += 1 if name.endswith("gamma") else 0
    for name in tensors:
        axis = name.split(".")[2] if name.count(".") > 2 else ""
        if name.endswith("freqs"):
            first = tensors[f"layers.0.{axis}.layers.0.0.rotary_embed.freqs"]
            tensors[name] = first if own_speeds else usual_speeds(model["dim_head"])
        for shared, copy in (("shared_qkv_bias", "to_qkv.bias"), ("shared_out_bias", "to_out.0.bias")):
            tensors[name] = tensors[shared] if name.endswith(copy) else tensors[name]
    return tensors


def write(folder, config, tensors, wrapped=None, half=False):
    """The checkpoint and its configuration, as they are published."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half() if half else tensor for name, tensor in tensors.items()}
    torch.save({wrapped: tensors} if wrapped else tensors, folder / "model.ckpt")
    (folder / "config.yaml").write_text(yaml.dump(config))  # tuples become !!python/tuple
    return folder / "model.ckpt", folder / "config.yaml"


# --- what they compute ------------------------------------------------------------------------------------------------


def norm(x, gamma):
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) * math.sqrt(x.shape[-1]) * gamma


def attention(t, root, x, heads):
    y = norm(x, t[f"{root}norm.gamma"])
    qkv = y @ t[f"{root}to_qkv.weight"].T + t.get(f"{root}to_qkv.bias", 0)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))  # (M, heads, S, D)
    turn = torch.exp(1j * torch.arange(x.shape[1])[:, None] * t[f"{root}rotary_embed.freqs"])  # (S, D/2)
    q, k = (torch.view_as_real(torch.view_as_complex(z.unflatten(-1, (-1, 2))) * turn).flatten(-2) for z in (q, k))
    mixed = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1) @ v
    gates = torch.sigmoid(y @ t[f"{root}to_gates.weight"].T + t[f"{root}to_gates.bias"])  # (M, S, heads)
    mixed = mixed.transpose(1, 2) * gates[..., None]
    return mixed.flatten(2) @ t[f"{root}to_out.0.weight"].T + t.get(f"{root}to_out.0.bias", 0)


def transformer(t, root, x, heads):
    """(M, S, N) → (M, S, N)."""
    for i in count():
        if f"{root}layers.{i}.0.norm.gamma" not in t:
            break
        x = x + attention(t, f"{root}layers.{i}.0.", x, heads)
        net = f"{root}layers.{i}.1.net."
        y = norm(x, t[f"{net}0.gamma"]) @ t[f"{net}1.weight"].T + t[f"{net}1.bias"]
        x = x + torch.nn.functional.gelu(y) @ t[f"{net}4.weight"].T + t[f"{net}4.bias"]
    return norm(x, t[f"{root}norm.gamma"]) if f"{root}norm.gamma" in t else x


def mask(t, root, x):
    """(T, N) → (T, numbers of the band), gated."""
    for i in count(0, 2):
        x = x @ t[f"{root}{i}.weight"].T + t[f"{root}{i}.bias"]
        if f"{root}{i + 2}.weight" not in t:
            break
        x = torch.tanh(x)
    value, gate = x.chunk(2, dim=-1)
    return value * torch.sigmoid(gate)


@torch.no_grad()
def published(tensors, config, mixture):
    """(C, L) → (stems, C, L)."""
    t, model, bands = tensors, config["model"], bands_of(config["model"])
    n_fft, hop = model["stft_n_fft"], model["stft_hop_length"]
    options = {"n_fft": n_fft, "hop_length": hop, "window": torch.hann_window(n_fft)}
    spectrogram = torch.stft(mixture, **options, return_complex=True).permute(2, 1, 0)  # (T, F, C)
    parts = []
    for k, bins in enumerate(bands):
        x = torch.view_as_real(spectrogram[:, bins]).flatten(1)  # (T, bins · C · 2)
        root = f"band_split.to_features.{k}."
        parts.append(norm(x, t[f"{root}0.gamma"]) @ t[f"{root}1.weight"].T + t[f"{root}1.bias"])
    x = torch.stack(parts)  # (K, T, N)
    for block in range(model["depth"]):
        x = transformer(t, f"layers.{block}.0.", x, model["heads"])
        x = transformer(t, f"layers.{block}.1.", x.transpose(0, 1), model["heads"]).transpose(0, 1)
    x = norm(x, t["final_norm.gamma"]) if "final_norm.gamma" in t else x
    estimates = []
    for stem in range(model["num_stems"]):
        total, n_masks = torch.zeros_like(spectrogram), torch.zeros(len(spectrogram[0]), 1)
        for k, bins in enumerate(bands):
            numbers = mask(t, f"mask_estimators.{stem}.to_freqs.{k}.0.", x[k])
            total[:, bins] += torch.view_as_complex(numbers.unflatten(-1, (len(bins), -1, 2)).contiguous())
            n_masks[bins] += 1
        masked = spectrogram * total / n_masks
        if model.get("zero_dc", True):
            masked[:, 0] = 0
        estimates.append(torch.istft(masked.permute(2, 1, 0), **options, length=mixture.shape[-1]))
    return torch.stack(estimates)
