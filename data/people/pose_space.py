"""Postures by a few latents: the generator's own angles, and how they go together.

Each angle has the generator's distribution (quantiles of drawn postures, so it stays within the
limits), and the angles are tied by the correlation of their normal scores: a Gaussian copula. The
latents are along its first principal axes; the rest is drawn.
"""

import numpy as np

from data.people import motion, poses
from data.people.config import PeopleConfig

DRAWS = 3000
SEED = 5


class PoseSpace:
    """Turns latents into the angles of a body, or of hands.

    Args:
        config: whose postures, walks and hand shapes are drawn from.

    Attributes:
        angles: (DRAWS, n) degrees of what was drawn, each column in order.
        axes: (n, k) what one of each latent does to the normal scores.
        names: of the n angles.
    """

    SIZES = {"body": 14, "hand": 8}

    def __init__(self, config: PeopleConfig) -> None:
        self.kind, self.domain = config.kind, config.domain
        self.names = list(poses.NAMES) if self.kind == "body" else _name_hand()
        drawn = self._draw(np.random.default_rng(SEED), DRAWS)
        self.angles = np.sort(drawn, 0)
        # Where many are equal, at a limit, each has the score of their middle.
        places = np.argsort(np.argsort(drawn, 0, kind="stable"), 0, kind="stable")
        self.scores = find_scores(DRAWS)
        scores = self.scores[places]
        values, vectors = np.linalg.eigh(np.corrcoef(scores.T))
        count = self.SIZES[self.kind]
        order = np.argsort(values)[::-1]
        spread = np.sqrt(np.maximum(values[order], 0))
        axes = vectors[:, order] * spread
        axes *= np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
        self.axes, self.rest = axes[:, :count], axes[:, count:]
        self.explained = float((values[order][:count]).sum() / values.sum())

    def place(self, rng: np.random.Generator, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(36,) angles of a body and (2, 17) of its hands, degrees.

        Args:
            rng: of what the latents (k,) leave open.
        """
        free = rng.normal(0, 1, self.axes.shape[1])
        latents = np.where(np.isnan(latents), free, latents)
        found = self.find_angles(
            self.axes @ latents + self.rest @ rng.normal(0, 1, len(self.rest.T))
        )
        if self.kind == "hand":
            angles = self._draw_body(rng)
            return angles, np.stack([found, found])
        hands = [motion.sample_hand(rng, self.domain.hand_names()) for _ in range(2)]
        return found, np.stack(hands)

    def find_angles(self, scores: np.ndarray) -> np.ndarray:
        """(n,) degrees of normal scores."""
        columns = zip(scores, self.angles.T, strict=True)
        return np.array([np.interp(score, self.scores, column) for score, column in columns])

    def explain(self, latents: np.ndarray) -> dict[str, tuple[float, float]]:
        """{angle: (normal score, degrees)} of a posture, the rest at its middle."""
        scores = self.axes @ latents
        degrees = self.find_angles(scores)
        pairs = zip(scores.tolist(), degrees.tolist(), strict=True)
        return dict(zip(self.names, pairs, strict=True))

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        if self.kind == "hand":
            names = self.domain.hand_names()
            return np.stack([motion.sample_hand(rng, names) for _ in range(count)])
        return np.stack([self._draw_body(rng) for _ in range(count)])

    def _draw_body(self, rng: np.random.Generator) -> np.ndarray:
        clock = motion.even_times(1, 0.1)
        postures, hands = self.domain.posture_names(), self.domain.hand_names()
        share, upright = self.domain.walk_share, self.domain.upright
        moves = motion.sample_motion(rng, clock, postures, hands, share, may_run=not upright)
        return moves.angles[0]


def find_scores(count: int) -> np.ndarray:
    """(count,) what normal numbers in their order are expected to be (Blom 1958)."""
    from scipy.special import ndtri

    return ndtri((np.arange(1, count + 1) - 0.375) / (count + 0.25))


def _name_hand() -> list[str]:
    fingers = [
        f"{name}_{i + 1}" for name in ("index", "middle", "ring", "little") for i in range(3)
    ]
    return [*(f"thumb_{i + 1}" for i in range(4)), *fingers, "spread"]
