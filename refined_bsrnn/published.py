"""Published scores, each with the protocol it was measured by. Shown for orientation, never ranked with runs.

Sources: BSRNN, Luo and Yu 2022 (arXiv 2209.15174, table III); README of magronp/bsrnn and its `docs/analysis.md`;
README of open-unmix-pytorch. Rows are comparable within one protocol only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

HQ_USDR = "uSDR, mean over tracks; MUSDB18-HQ test"
HQ_CSDR = "cSDR (museval), median over frames, then over tracks; MUSDB18-HQ test"
HQ_CSDR_SUM = f"{HQ_CSDR}; separates the sum of stems"
NON_HQ_CSDR = "cSDR (museval), median over frames, then over tracks; MUSDB18 (compressed) test"
MUSEVAL = "museval SDR, median over frames, then over tracks; MUSDB18 test, which version is not stated"
VALIDATION_USDR = "uSDR, mean over the 14 validation tracks of MUSDB18-HQ"


@dataclass(frozen=True)
class Published:
    """One published row: scores in dB per target."""

    name: str
    protocol: str
    metric: str  # usdr or csdr
    scores: Mapping[str, float]

    def text(self, target: str) -> str:
        """The score with as many decimals as were published; a dash where there is none."""
        decimals = 1 if self.protocol == VALIDATION_USDR else 2
        return f"{self.scores[target]:.{decimals}f}" if target in self.scores else "–"


def _row(name: str, protocol: str, vocals: float, bass: float, drums: float, other: float) -> Published:
    metric = "usdr" if protocol.startswith("uSDR") else "csdr"
    return Published(name, protocol, metric, {"vocals": vocals, "bass": bass, "drums": drums, "other": other})


PUBLISHED = (
    _row("BSRNN (paper)", HQ_USDR, 10.04, 6.80, 8.92, 6.01),
    _row("BSRNN (paper), fine-tuned on more music", HQ_USDR, 10.47, 7.20, 9.66, 6.33),
    _row("BSRNN (paper)", HQ_CSDR, 10.01, 7.22, 9.01, 6.70),
    _row("BSRNN (paper), fine-tuned on more music", HQ_CSDR, 10.47, 8.16, 10.15, 7.08),
    _row("Hybrid Demucs, in the BSRNN paper", HQ_CSDR, 8.13, 8.76, 8.24, 5.59),
    _row("KUIELab-MDX-Net, in the BSRNN paper", HQ_CSDR, 8.97, 7.83, 7.20, 5.90),
    _row("CWS-PResUNet, in the BSRNN paper", HQ_CSDR, 8.92, 5.93, 6.38, 5.84),
    _row("magronp bsrnn-large", HQ_CSDR_SUM, 9.14, 7.72, 8.07, 5.68),
    _row("magronp oBSRNN", HQ_CSDR_SUM, 9.81, 9.85, 10.31, 6.31),
    _row("magronp oBSRNN-SIMO", HQ_CSDR_SUM, 10.66, 9.73, 10.98, 7.78),
    _row("BSRNN (paper)", NON_HQ_CSDR, 10.21, 7.51, 8.58, 6.62),
    _row("Open-Unmix UMX-L", MUSEVAL, 7.21, 6.02, 7.15, 4.89),
    _row("magronp bsrnn (N 64, R 8)", VALIDATION_USDR, 7.7, 6.1, 9.7, 4.8),
    _row("magronp oBSRNN", VALIDATION_USDR, 10.2, 10.2, 11.3, 6.9),
    _row("magronp oBSRNN-SIMO", VALIDATION_USDR, 11.3, 9.8, 11.8, 8.4),
)
