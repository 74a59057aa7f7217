"""Whether a network is as sure as it should be: coverage that it expects, and that is observed.

Along each axis an error about the root is said to be Laplace distributed (finetune/heads/
confidence.py). Of all axes of all keypoints the share of errors within the central interval that is
said to hold 90 % should be .9; so at every level.
"""

import io
from typing import Any

import numpy as np
import torch

from finetune.heads.base import Prediction
from finetune.heads.confidence import SD, list_errors

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FEWER = 16  # of so many vertices one is counted: neighbours say the same
COLOURS = {"keypoints": "#2f6fb3", "vertices": "#c8742b"}


class Calibration:
    """Counts, batch by batch, how many errors lie within the intervals of each level."""

    def __init__(self) -> None:
        self.within = {name: np.zeros(len(LEVELS)) for name in COLOURS}
        self.counts = dict.fromkeys(COLOURS, 0)
        self.said = {name: [] for name in COLOURS}
        self.off = {name: [] for name in COLOURS}

    def add(self, found: Prediction, true: Prediction) -> None:
        """Count a batch; nothing where the prediction does not say how sure it is."""
        if found.uncertainty is None or found.vertex_uncertainty is None:
            return
        points, surface = list_errors(found, true)
        self._count("keypoints", points[:, 1:], found.uncertainty[:, 1:])
        self._count("vertices", surface[:, ::FEWER], found.vertex_uncertainty[:, ::FEWER])

    def _count(self, name: str, errors: torch.Tensor, sd: torch.Tensor) -> None:
        off, scale = errors.abs().cpu().double().numpy(), sd.cpu().double().numpy() / SD
        # The central interval of level p reaches to -b log(1 - p).
        ratio = off / scale[..., None]
        for number, level in enumerate(LEVELS):
            self.within[name][number] += (ratio <= -np.log1p(-level)).sum()
        self.counts[name] += ratio.size
        self.said[name].append(1000 * scale.mean(1))
        self.off[name].append(1000 * off.mean((1, 2)))

    def summarise(self) -> dict[str, Any] | None:
        """Returns what evaluation.json holds; None where nothing was said.

        expected, observed: coverage.  gap: mean distance of the two.  said_mm: mean error along an
        axis as it is expected, observed_mm: as it is.  crops: correlation of the two over crops.
        """
        if not self.counts["keypoints"]:
            return None
        return {name: self._summarise(name) for name in COLOURS}

    def _summarise(self, name: str) -> dict[str, Any]:
        observed = self.within[name] / self.counts[name]
        said, off = np.concatenate(self.said[name]), np.concatenate(self.off[name])
        varied = len(said) > 2 and said.std() > 0 and off.std() > 0
        return {
            "expected": list(LEVELS),
            "observed": [round(float(share), 4) for share in observed],
            "gap": round(float(np.abs(observed - LEVELS).mean()), 4),
            "said_mm": round(float(said.mean()), 2),
            "observed_mm": round(float(off.mean()), 2),
            "crops": round(float(np.corrcoef(said, off)[0, 1]), 3) if varied else None,
        }


def word_calibration(summary: dict[str, Any]) -> str:
    """Returns the sentence that an evaluation says of it."""
    points = summary["keypoints"]
    at = points["observed"][LEVELS.index(0.9)]
    return (
        f"Confidence: of keypoints' errors along an axis {100 * at:.0f} % lie within the intervals "
        f"that are said to hold 90 %; they are said to be {points['said_mm']:.0f} mm on average "
        f"and are {points['observed_mm']:.0f} mm."
    )


def draw_calibration(summary: dict[str, Any]) -> bytes:
    """Returns a PNG: observed coverage over the expected one; the diagonal is as it should be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color="#9aa3b0")
    for name, colour in COLOURS.items():
        values = summary[name]
        label = f"{name}, off by {values['gap']:.3f} on average"
        panel.plot(values["expected"], values["observed"], "o-", color=colour, label=label)
    panel.set(
        xlim=(0, 1), ylim=(0, 1), xlabel="expected coverage", ylabel="observed coverage", aspect=1
    )
    panel.legend(frameon=False, loc="upper left")
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()
