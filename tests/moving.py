"""Made people that move, for tests of animation: tracks with a gap, of any body model."""

import numpy as np
import torch

from engine.geometry import axis_angle_to_matrix
from finetune.animation.track import Take, Track

FPS = 25.0
WIDTH, HEIGHT = 320, 180
K = np.array([[367.0, 0, 160], [0, 367.0, 90], [0, 0, 1]])


def make_track(body, kind="body", frames=(2, 3, 4, 7, 8), seed=0, name="body-1", bend=0.4):
    """A track of random poses that turn slowly, two to three metres away."""
    random = np.random.default_rng(seed)
    count, joints = len(frames), len(body.joint_names)
    start = random.normal(0, bend, (1, joints, 3))
    vectors = start + np.linspace(0, 0.3, count)[:, None, None] * random.normal(
        0, 1, (1, joints, 3)
    )
    # The models stand or lie in axes of their own: upright before the camera is near enough.
    vectors[:, 0] = [np.pi / 2 + 0.1, 0.1, 0.2]
    space = body.shape_space
    free = torch.tensor(random.normal(0, 0.5, len(space.names)), dtype=torch.float32)
    return Track(
        name=name,
        kind=kind,
        body=body,
        frames=np.array(frames, np.int64),
        times=np.array(frames) / FPS,
        pose=axis_angle_to_matrix(torch.tensor(vectors, dtype=torch.float32)).numpy(),
        shape=space.to_parameters(free).numpy(),
        translation=np.column_stack(
            [np.linspace(-0.3, 0.4, count), np.full(count, 0.1), np.linspace(2, 2.6, count)]
        ).astype(np.float32),
        intrinsics=K.copy(),
        confidence=np.linspace(0.5, 0.9, count).astype(np.float32),
        box=np.tile(np.array([100, 20, 180, 170], np.float32), (count, 1)),
    )


def make_take(*tracks, frames=10):
    """A take of made tracks."""
    return Take("made.mp4", np.arange(frames) / FPS, WIDTH, HEIGHT, K.copy(), list(tracks))
