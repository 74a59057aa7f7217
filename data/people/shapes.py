"""Whom a clip shows: the shape of a body, and the face's expression."""

import numpy as np


def draw_phenotype(
    rng: np.random.Generator, female: bool, child: bool, spread: float
) -> np.ndarray:
    """(6,) float32 in anny's order: gender, age, muscle, weight, height, proportions."""
    gender = rng.uniform(0.75, 1) if female else rng.uniform(0, 0.25)
    age = rng.uniform(0.36, 0.6) if child else rng.uniform(0.62, 0.95)
    build = np.array([rng.beta(2.5, 2.5), rng.beta(2.2, 2.6), rng.beta(3, 3), rng.beta(3, 2)])
    return np.array([gender, age, *(0.5 + spread * (build - 0.5))], np.float32)


def draw_expression(rng: np.random.Generator, names: list[str]) -> np.ndarray:
    """(52,) float32: a few facial actions at random, jaw and smile more often, never the tongue."""
    face = np.zeros(len(names), np.float32)
    for action in rng.permutation(len(names))[:4]:
        face[action] = rng.beta(0.8, 2.5) * 0.7
    face[names.index("jawOpen")] = rng.beta(0.6, 4) * 0.6
    face[[names.index("mouthSmileLeft"), names.index("mouthSmileRight")]] = rng.beta(0.8, 1.5)
    face[names.index("tongueOut")] = 0
    return face
