"""EHF: 100 images of one person with a mesh of SMPL-X's topology, fitted to a scan.

    root/01_img.jpg  root/01_2Djnt.json  root/01_align.ply

``align.ply`` holds 10475 vertices, metres, in a world that one fixed camera sees; the camera is
that of ``EHF_camera.txt``. ``2Djnt.json`` are OpenPose's body, hands and face.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from data.format.labels import CropLabels, Keypoints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.bodies import (
    PIXEL_CENTRE,
    as_numbers,
    box_around,
    centred,
    project,
    reading,
    take_tree,
)
from data.sources.labelled.places import list_files, read_json
from engine.errors import UserError, explain, failure_of

SIZE = 1600, 1200
K = np.array([[1498.22426237, 0, 790.263706], [0, 1498.22426237, 578.90334], [0, 0, 1]])
ROTATION = np.array([-2.98747896, 0.01172457, -0.05704687])
TRANSLATION = np.array([-0.03609917, 0.43416458, 2.37101226])
VERTICES = 10475
# Parts of OpenPose's JSON, in the order of the joint set, and how many points each has.
PARTS = (
    ("pose_keypoints_2d", 25),
    ("hand_left_keypoints_2d", 21),
    ("hand_right_keypoints_2d", 21),
    ("face_keypoints_2d", 70),
)
MESH_MOST = 64 << 20  # bytes of a mesh file


@LABELLED.register("ehf")
@dataclass
class Ehf(LabelledSource):
    """Expressive Hands and Faces."""

    def read(self) -> Iterator[LabelledImage]:
        """Yield the 100 images."""
        Rt = np.column_stack([cv2.Rodrigues(ROTATION)[0], TRANSLATION])
        camera = centred(K)
        for path in self.follow(list_files(self.root, "_img.jpg")):
            number = os.path.basename(path).partition("_")[0]
            vertices = read_mesh(os.path.join(self.root, f"{number}_align.ply"))
            pixels, ahead = project(vertices, camera, Rt)
            yield LabelledImage(
                image=path,
                clip=number,
                subject="ehf",
                box=box_around(pixels[ahead]),
                labels=CropLabels(
                    keypoints=read_openpose(os.path.join(self.root, f"{number}_2Djnt.json")),
                    vertices=vertices,
                ),
                size=SIZE,
                K=camera,
                Rt=Rt,
                split="test",
            )


def read_openpose(path: str) -> Keypoints:
    """OpenPose's 137 points of the first person of a JSON file.

    Raises:
        UserError: it cannot be read, or holds nobody.
    """
    with reading(path, "OpenPose file of body, hands and face"):
        person = take_tree(take_tree(read_json(path))["people"][0])
        rows = []
        for name, count in PARTS:
            rows.append(as_numbers(person[name], name, 3 * count).reshape(-1, 3))
        points = np.concatenate(rows)
        return Keypoints("openpose137", points[:, :2] + PIXEL_CENTRE, np.clip(points[:, 2], 0, 1))


def read_mesh(path: str) -> np.ndarray:
    """The (10475, 3) vertices of a PLY file.

    Raises:
        UserError: it cannot be read, or has another number of vertices.
    """
    import trimesh

    try:
        size = os.path.getsize(path)
        if size > MESH_MOST:
            raise UserError(f"{path} has {size} bytes, more than the {MESH_MOST} that are read")
        with open(path, "rb") as file:
            mesh = trimesh.load_mesh(file, "ply", process=False, maintain_order=True)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no PLY file: {error}") from None
    with reading(path, "mesh of SMPL-X"):
        return as_numbers(np.asarray(mesh.vertices), "its vertices", VERTICES, 3)
