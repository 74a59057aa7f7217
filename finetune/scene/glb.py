"""The people of an image on their floor, as one GLB file.

Metres, y up, the floor at y = 0. The origin lies on the floor below the camera, which looks along
-z. Nodes: a mesh for each person by their name, "ground", "camera".
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.animation.files import write_bytes
from finetune.animation.turning import to_quaternions
from finetune.export import TO_GLTF, names_of
from finetune.gltf import Document, add_floor, add_lens, add_material, add_mesh
from finetune.person import Person, colour
from finetune.scene.ground import Ground, list_corners

AROUND_M = 1.0  # of floor beyond the outermost people


def save_scene(
    path: str | Path,
    people: Sequence[Person],
    ground: Ground,
    size: tuple[int, int],
) -> None:
    """Write the people of an image, the floor and the camera.

    Args:
        people: at least one.  size: width and height of the image in pixels.
    Raises:
        Failure: the file cannot be written.
    """
    document = Document()
    for number, (person, name) in enumerate(zip(people, names_of(people), strict=True)):
        placed = place_points(person.vertices, ground)
        material = add_material(document, name, colour(number))
        mesh = add_mesh(document, name, placed, person.faces, material)
        document.add_root({"name": name, "mesh": mesh})
    points = np.concatenate([person.vertices for person in people])
    add_floor(document, place_points(list_corners(ground, points, AROUND_M), ground))
    _add_camera(document, people[0].intrinsics, size, ground)
    document.tree["scenes"][0]["extras"] = {"ground": ground.describe()}
    write_bytes(path, document.to_bytes())


def place_points(points: np.ndarray, ground: Ground) -> np.ndarray:
    """Return (n, 3) points of the camera's frame in that of the file."""
    level = np.asarray(points, np.float64) @ ground.turn.T
    return level * TO_GLTF + [0, ground.height_m, 0]


def _add_camera(document: Document, K: np.ndarray, size: tuple[int, int], ground: Ground) -> None:
    """The camera; where glTF cannot hold its lens, a bare node."""
    turn = TO_GLTF[:, None] * ground.turn * TO_GLTF
    node = {
        "name": "camera",
        "translation": [0.0, ground.height_m, 0.0],
        "rotation": to_quaternions(turn[None, None].astype(np.float64))[0, 0].tolist(),
    }
    camera = add_lens(document, K, *size)
    document.add_root(node if camera is None else {**node, "camera": camera})
