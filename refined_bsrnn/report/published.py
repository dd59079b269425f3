"""Published scores, each with the protocol it was measured by. Shown for orientation, never ranked with runs.

Sources: BSRNN, Luo and Yu 2022 (arXiv 2209.15174, tables I and III); README of magronp/bsrnn, now and as of October
2024, and its `docs/analysis.md`; X-UMX (Sawata et al. 2021) and the READMEs of open-unmix-pytorch and of nnabla's
examples; READMEs of crlandsc/Music-Demixing-with-Band-Split-RNN and amanteur/BandSplitRNN-PyTorch; the notebook of the
first Refined BSRNN. Rows are comparable within one protocol only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HQ_USDR = "uSDR, mean over tracks; MUSDB18-HQ test"
HQ_USDR_SUM = f"{HQ_USDR}; separates the sum of stems"
NON_HQ_USDR = "uSDR, mean over tracks; MUSDB18 (compressed) test"
HQ_CSDR = "cSDR (museval), median over frames, then over tracks; MUSDB18-HQ test"
HQ_CSDR_SUM = f"{HQ_CSDR}; separates the sum of stems"
NON_HQ_CSDR = "cSDR (museval), median over frames, then over tracks; MUSDB18 (compressed) test"
MUSEVAL = "museval SDR, median over frames, then over tracks; MUSDB18 test, which version is not stated"
VALIDATION_USDR = "uSDR, mean over the 14 validation tracks of MUSDB18-HQ"
AMANTEUR_USDR = "uSDR, mean over tracks; test split, pieces of 3 s every 0.5 s"
AMANTEUR_CSDR = "SDR of frames of 2 s every 1.5 s, median over frames, then mean over tracks; not the cSDR of others"
LABEL_NOISE = "“SDR”, not defined; checkpoints of the label noise challenge"
LISTED = "“SDR” of a list in the README of crlandsc, which mixes protocols and training data"
CHUNKS = (
    "running average over batches of 1 s pieces, energies added up within a batch; test split, mono, each signal "
    "normalised by itself, the checkpoint chosen on the same split, unequal training"
)


@dataclass(frozen=True)
class Published:
    """One published row: scores in dB per target."""

    name: str
    protocol: str
    metric: str  # usdr, csdr, or "other": none that is computed here
    scores: Mapping[str, float]
    decimals: int = 2  # as many as were published

    def text(self, target: str) -> str:
        """The score with as many decimals as were published; a dash if there is none."""
        return f"{self.scores[target]:.{self.decimals}f}" if target in self.scores else "–"


def protocols(rows: Sequence[Published], targets: Sequence[str]) -> dict[str, list[Published]]:
    """The rows that score at least one of the targets, by protocol."""
    found: dict[str, list[Published]] = {}
    for row in rows:
        if set(targets) & set(row.scores):
            found.setdefault(row.protocol, []).append(row)
    return found


def _metric(protocol: str) -> str:
    if protocol.startswith("uSDR, mean"):
        return "usdr"
    return "csdr" if protocol.startswith(("cSDR (museval)", "museval SDR")) else "other"


def _row(
    name: str, protocol: str, vocals: float, bass: float, drums: float, other: float, decimals: int = 2
) -> Published:
    scores = {"vocals": vocals, "bass": bass, "drums": drums, "other": other}
    return Published(name, protocol, _metric(protocol), scores, decimals)


def _one(name: str, protocol: str, target: str, score: float, decimals: int = 2) -> Published:
    return Published(name, protocol, _metric(protocol), {target: score}, decimals)


PUBLISHED = (
    _row("BSRNN (paper)", HQ_USDR, 10.04, 6.80, 8.92, 6.01),
    _row("BSRNN (paper), fine-tuned on more music", HQ_USDR, 10.47, 7.20, 9.66, 6.33),
    *(
        _one(f"BSRNN (paper), bands {bands}", HQ_USDR, "vocals", score)
        for bands, score in (("v1", 8.15), ("v2", 8.21), ("v3", 8.06), ("v4", 9.51), ("v5", 9.57), ("v6", 9.78))
    ),
    _row("magronp bsrnn, October 2024", HQ_USDR_SUM, 9.1, 6.4, 8.3, 5.3, decimals=1),
    _row("magronp optimised, October 2024", HQ_USDR_SUM, 9.5, 7.2, 9.6, 5.7, decimals=1),
    _row("BSRNN (paper), on MUSDB18", NON_HQ_USDR, 9.92, 6.77, 8.68, 5.97),
    _row("BSRNN (paper), fine-tuned on more music, on MUSDB18", NON_HQ_USDR, 10.36, 7.17, 9.46, 6.27),
    _row("BSRNN (paper)", HQ_CSDR, 10.01, 7.22, 9.01, 6.70),
    _row("BSRNN (paper), fine-tuned on more music", HQ_CSDR, 10.47, 8.16, 10.15, 7.08),
    _row("Hybrid Demucs, in the BSRNN paper", HQ_CSDR, 8.13, 8.76, 8.24, 5.59),
    _row("KUIELab-MDX-Net, in the BSRNN paper", HQ_CSDR, 8.97, 7.83, 7.20, 5.90),
    _row("CWS-PResUNet, in the BSRNN paper", HQ_CSDR, 8.92, 5.93, 6.38, 5.84),
    _row("SIMO-BSRNN, quoted by magronp", HQ_CSDR, 9.73, 7.80, 10.06, 6.56),
    _row("magronp bsrnn-large", HQ_CSDR_SUM, 9.14, 7.72, 8.07, 5.68),
    _row("magronp oBSRNN", HQ_CSDR_SUM, 9.81, 9.85, 10.31, 6.31),
    _row("magronp oBSRNN-SIMO", HQ_CSDR_SUM, 10.66, 9.73, 10.98, 7.78),
    _row("magronp bsrnn, October 2024", HQ_CSDR_SUM, 8.8, 7.8, 8.3, 5.5, decimals=1),
    _row("magronp optimised, October 2024", HQ_CSDR_SUM, 9.4, 8.4, 9.6, 6.2, decimals=1),
    _row("BSRNN (paper), on MUSDB18", NON_HQ_CSDR, 10.21, 7.51, 8.58, 6.62),
    _row("BSRNN (paper), fine-tuned on more music, on MUSDB18", NON_HQ_CSDR, 10.53, 8.30, 9.65, 7.00),
    _row("Hybrid Demucs, in the BSRNN paper, on MUSDB18", NON_HQ_CSDR, 8.04, 8.67, 8.58, 5.59),
    _row("KUIELab-MDX-Net, in the BSRNN paper, on MUSDB18", NON_HQ_CSDR, 9.00, 7.86, 7.33, 5.95),
    _row("ResUNetDecouple+, in the BSRNN paper, on MUSDB18", NON_HQ_CSDR, 8.98, 6.04, 6.62, 5.29),
    _row("Open-Unmix UMX-L", MUSEVAL, 7.21, 6.02, 7.15, 4.89),
    _row("Open-Unmix UMX", MUSEVAL, 6.32, 5.23, 5.73, 4.02),
    _row("Open-Unmix UMXHQ", MUSEVAL, 6.25, 5.07, 6.04, 4.28),
    _row("X-UMX", MUSEVAL, 6.61, 5.43, 6.47, 4.64),
    _row("magronp bsrnn (N 64, R 8)", VALIDATION_USDR, 7.7, 6.1, 9.7, 4.8, decimals=1),
    _row("magronp bsrnn, one encoder and four maskers", VALIDATION_USDR, 8.2, 6.7, 8.9, 5.6, decimals=1),
    _row("magronp bsrnn-large", VALIDATION_USDR, 9.2, 7.3, 10.3, 5.9, decimals=1),
    _row("magronp oBSRNN", VALIDATION_USDR, 10.2, 10.2, 11.3, 6.9, decimals=1),
    _row("magronp oBSRNN-SIMO", VALIDATION_USDR, 11.3, 9.8, 11.8, 8.4, decimals=1),
    _one("amanteur, epoch 139", AMANTEUR_USDR, "vocals", 6.883, decimals=3),
    _one("amanteur, epoch 139", AMANTEUR_CSDR, "vocals", 6.665, decimals=3),
    _row("crlandsc", LABEL_NOISE, 6.262, 5.605, 4.831, 3.268, decimals=3),
    _row("Sparse HT Demucs, fine-tuned, more music", LISTED, 9.37, 10.47, 10.83, 6.41),
    _row("HT Demucs, fine-tuned, more music", LISTED, 9.20, 9.78, 10.08, 6.42),
    _row("Demucs", LISTED, 6.84, 7.01, 6.86, 4.42),
    *(
        _one(f"first Refined BSRNN, {name}", CHUNKS, target, score, decimals=3)
        for name, target, score in (
            ("generic bands", "drums", 4.249),
            ("v7", "drums", 4.173),
            ("drums to bass, generic bands", "bass", 4.421),
            ("drums to bass, generic bands, again", "bass", 3.609),
            ("drums to bass, v7", "bass", 2.978),
            ("drums to bass, v7, again", "bass", 2.005),
            ("drums to bass, v7, a third time", "bass", 2.709),
            ("drums to vocals, generic bands", "vocals", 1.258),
            ("drums to vocals, v7", "vocals", 1.139),
            ("drums to other, generic bands", "other", 1.890),
            ("drums to other, v7", "other", 1.415),
            ("several targets to other, v7, at its best", "other", 1.518),
        )
    ),
)
