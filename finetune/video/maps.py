"""Maps of a take's people, a frame each, as image generators take them.

Nothing but the people is in them; what is behind is black.

depth    grey, near white: 1/depth from the nearest to the farthest place that anybody is at in the
         whole take, so that a grey means one distance throughout
normals  red to the left, green up, blue towards the camera, each from -1 (0) to 1 (255): what
         ControlNet 1.1 was trained on (its page: "blue is front, red is left, green is top")
parts    the body's parts in the colours of finetune.maps
skeleton OpenPose's figure; see finetune.video.figures
"""

import functools

import numpy as np

from data.bodies.base import BodyModel
from data.bodies.parts import name_parts
from engine.geometry import crop_intrinsics
from finetune.animation.rig import TO_WORLD
from finetune.animation.track import Take
from finetune.maps.draw import PART_COLOURS
from finetune.video.figures import draw_figures
from finetune.viz.raster import Layers, shared_raster

REACH_M = 1.0  # of a person around joint 0, for the scale of depths
LEAST_M = 0.1
LEAST_GREY = 40  # of the farthest, so that it is not taken for nobody

MAPS: dict[str, str] = {
    "depth": "near is white",
    "normals": "red left, green up, blue towards the camera",
    "parts": "a colour a part",
    "skeleton": "as OpenPose draws people",
}


def draw_map(take: Take, frame: int, size: tuple[int, int], name: str) -> np.ndarray:
    """Return one map of a frame, (H, W, 3) uint8.

    Args:
        size: width and height of what is drawn.  name: of MAPS.
    """
    if name == "skeleton":
        return draw_figures(take, frame, size)
    out = np.zeros((size[1], size[0], 3), np.uint8)
    shown = take.list_frame(frame)
    if not shown:
        return out
    people = [take.tracks[number].make_person(row, number) for number, row in shown]
    owners = None
    if name == "parts":
        parts = [find_parts(take.tracks[number].body) for number, _ in shown]
        owners = np.concatenate(parts)
    K = crop_intrinsics(take.intrinsics, (0, 0, take.width, take.height), size)
    meshes = [(person.vertices, person.faces) for person in people]
    layers = shared_raster().layers(meshes, K, size, owners=owners)
    there = layers.mesh >= 0
    out[there] = _colour(layers, name, there, find_range(take))
    return out


def _colour(layers: Layers, name: str, there: np.ndarray, reach: tuple[float, float]) -> np.ndarray:
    """(n, 3) colours of the samples at which somebody is."""
    if name == "parts":
        colours = np.array(PART_COLOURS, np.uint8)
        return colours[layers.mesh[there] % len(colours)]
    if name == "normals":
        towards = layers.normals[there] @ TO_WORLD.T * [-1, 1, 1]
        return np.clip(np.round((towards + 1) * 127.5), 0, 255).astype(np.uint8)
    near, far = reach
    share = (1 / layers.depth[there] - 1 / far) / (1 / near - 1 / far)
    grey = LEAST_GREY + (255 - LEAST_GREY) * np.clip(share, 0, 1)
    return np.repeat(np.round(grey).astype(np.uint8)[:, None], 3, 1)


def find_range(take: Take) -> tuple[float, float]:
    """Return the nearest and the farthest depth in metres that anybody is at, in the whole take."""
    depths = np.concatenate([track.translation[:, 2] for track in take.tracks])
    return max(LEAST_M, float(depths.min()) - REACH_M), max(
        2 * LEAST_M, float(depths.max()) + REACH_M
    )


@functools.lru_cache(maxsize=4)
def find_parts(body: BodyModel) -> np.ndarray:
    """Return (F,) the part that each triangle of a body model is of, by its corners' joints."""
    if body.faces is None:
        raise ValueError(f"a coarse {body.name} has no faces")
    of_joint, _ = name_parts(body)
    vertices = of_joint[body.read_skin().argmax(1).cpu()]
    return vertices[body.faces.cpu()].median(1).values.numpy()
