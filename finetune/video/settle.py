"""From what is recovered in single frames to tracks: each person has one shape.

A network sees each frame anew and gives a person another size in each, with the depth to match: the
two cannot be told apart in an image. One shape for all frames, and each depth scaled as the size
is, keeps the person on the image and takes that noise out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data.bodies.base import BodyModel
from engine.errors import UserError
from finetune.animation.track import Take, Track
from finetune.video.asked import Who
from finetune.video.recover import Rows

LEAST_FRAMES = 2  # of somebody who is written, in a video of so many


def make_take(
    video: str,
    times: np.ndarray,
    size: tuple[int, int],
    K: np.ndarray,
    rows: Mapping[str, Rows],
    everybody: Sequence[Who],
    bodies: Mapping[str, BodyModel],
) -> Take:
    """Return the Take of all that was recovered in a video.

    Args:
        size: width and height of a frame.
        rows: {"body", "hand": of all frames}.
        bodies: {"body", "hand": the full body model}.
    Raises:
        UserError: nobody is in more than a frame.
    """
    tracks: list[Track] = []
    for number, who in enumerate(everybody):
        if who.kind not in rows:
            continue
        mine = rows[who.kind].who == number
        if mine.sum() >= min(LEAST_FRAMES, len(times)):
            name = f"{who.part}-{len(tracks) + 1}"
            tracks.append(_make_track(name, who, rows[who.kind], mine, times, K, bodies[who.kind]))
    if not tracks:
        raise UserError(f"{video}: nobody was recovered in it")
    return Take(video, times, *size, K, tracks)


def _make_track(
    name: str,
    who: Who,
    rows: Rows,
    mine: np.ndarray,
    times: np.ndarray,
    K: np.ndarray,
    body: BodyModel,
) -> Track:
    order = np.flatnonzero(mine)
    order = order[np.argsort(rows.frame[order], kind="stable")]
    shape = average_shape(body, rows.shape[order], rows.score[order])
    scale = measure_size(body, shape[None]) / measure_size(body, rows.shape[order])
    unsure, surface = rows.uncertainty[order], rows.surface[order]
    return Track(
        name=name,
        kind=who.part,
        body=body,
        frames=rows.frame[order],
        times=times[rows.frame[order]],
        pose=rows.pose[order],
        shape=shape,
        translation=(rows.translation[order] * scale[:, None]).astype(np.float32),
        intrinsics=K,
        confidence=rows.score[order],
        box=rows.box[order],
        uncertainty=unsure if unsure.shape[1] else None,
        surface=surface if surface.shape[1] else None,
        hands=rows.hands[order],
        found=rows.found[order],
    )


def average_shape(body: BodyModel, shapes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the (S,) mean of (T, S) shapes in their free numbers, by how sure each frame is."""
    space = body.shape_space
    free = space.to_free(torch.from_numpy(shapes)).numpy()
    mean = np.average(free, 0, np.maximum(scores, 1e-3))
    return space.to_parameters(torch.from_numpy(mean.astype(np.float32))).numpy()


@torch.no_grad()
def measure_size(body: BodyModel, shapes: np.ndarray) -> np.ndarray:
    """Return (T,) metres that tell the size of bodies (T, S): all bones end to end."""
    device = body.vertex_ids.device
    parents = torch.tensor(body.parents[1:], device=device)
    out = []
    for first in range(0, len(shapes), 16):
        part = torch.from_numpy(shapes[first : first + 16]).float().to(device)
        _, joints = body.read_rest(part)
        out.append((joints[:, 1:] - joints[:, parents]).norm(dim=-1).sum(1).cpu().numpy())
    return np.concatenate(out).astype(np.float64)
