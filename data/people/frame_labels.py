"""What the labels of a synthetic frame say of each of its people; see data/format/frame.py.

A row of the arrays in data/people/labels.py a person, and besides

    keypoint_set         "coco17"
    keypoints            (P, 17, 2) float32 pixels of the frame, at most its size beyond its border
    keypoint_confidence  (P, 17) float32, 0 where a point is not before the camera
    keypoint_visible     (P, 17) uint8: 0 outside the frame, 1 inside but hidden, 2 seen

World: metres, z up, the floor at 0. Who has no vertex in the frame is not among its people.
"""

from dataclasses import dataclass

import numpy as np

from data.bodies.landmarks import ANNY_JOINTS, LANDMARKS
from data.format.frame import FramePerson
from data.format.joint_sets import find_joint_set
from data.format.labels import HIDDEN, OUTSIDE, SEEN
from data.people.labels import find_visible_joints
from data.people.maker import Person
from data.people.render_frames import FrameImages
from engine.geometry import camera_centre, project

KEYPOINT_SET = "coco17"
NEAR_M = 0.05  # along the optical axis: what is nearer is projected nowhere


@dataclass
class Sight:
    """How one person is seen in one frame.

    Attributes:
        box: (4,) pixels around all vertices.  shown: see format.frame.FramePerson.
        seen: (13718,) bool, which vertices are.  visible: share of the surface.
        joint_visible: (B,) uint8.  keypoints: (17, 2).  keypoint_visible: (17,) uint8.
        keypoint_known: (17,) bool, whether it is before the camera at all.
    """

    box: np.ndarray
    shown: float
    seen: np.ndarray
    visible: float
    joint_visible: np.ndarray
    keypoints: np.ndarray
    keypoint_known: np.ndarray
    keypoint_visible: np.ndarray


def find_keypoints(joint_names: list[str]) -> np.ndarray:
    """(17,) places of COCO's keypoints among anny's joints and then its vertices."""
    places = []
    for name in find_joint_set(KEYPOINT_SET).joints:
        vertex = LANDMARKS["anny"].get(name)
        if vertex is None:
            places.append(joint_names.index(ANNY_JOINTS[name]))
        else:
            places.append(len(joint_names) + vertex)
    return np.array(places)


def find_sight(
    person: Person,
    vertices: np.ndarray,
    instant: int,
    number: int,
    camera: tuple[np.ndarray, np.ndarray],
    images: FrameImages,
    area: np.ndarray,
    keypoints: np.ndarray,
) -> Sight | None:
    """How a person is seen in the frame of an instant; None where no vertex is in it.

    Args:
        vertices: (13718, 3) of the body at that instant.
        number: the person's place in ``images.faces_camera``; the label in ``ids`` is one more.
        area: (13718,) share of the surface at each vertex.
        keypoints: of find_keypoints.
    """
    K, Rt = camera
    ids = images.ids[instant]
    xy, z = project(vertices, K, Rt)
    inside = _is_inside(xy, z, ids.shape)
    if not inside.any():
        return None
    faces = images.faces_camera[number, instant]
    seen = faces & _is_shown(xy, inside, ids, number + 1)
    # A vertex counts by its area as large as it looks from here, without its slant.
    part = area / np.linalg.norm(vertices - camera_centre(Rt), axis=1) ** 2
    shown = float((part * seen).sum() / max(float((part * faces).sum()), 1e-12))
    depth = np.where(ids == number + 1, images.depth[instant], 0.0)
    joints = person.joints[instant]
    joint_visible = find_visible_joints(joints[None], [camera], depth[None])[0]
    places, depths = project(np.concatenate([joints, vertices])[keypoints], K, Rt)
    before = z > NEAR_M
    box = np.concatenate([xy[before].min(0), xy[before].max(0)])
    vertex_visible = np.where(seen, SEEN, np.where(inside, HIDDEN, OUTSIDE)).astype(np.uint8)
    return Sight(
        _bound(box, ids.shape),
        min(shown, 1.0),
        seen,
        float((area * seen).sum()),
        joint_visible,
        _bound(places, ids.shape),
        depths > NEAR_M,
        np.concatenate([joint_visible, vertex_visible])[keypoints],
    )


def _bound(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels, x and y in turn, at most a frame's size beyond its border.

    What is beside the camera is projected to anywhere.
    """
    size = np.array([shape[1], shape[0]], np.float64)
    pairs = np.nan_to_num(points, nan=0.0).reshape(-1, 2)
    return np.clip(pairs, -size, 2 * size).reshape(points.shape)


def _is_inside(xy: np.ndarray, z: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return (z > NEAR_M) & (xy >= 0).all(1) & (xy < [shape[1], shape[0]]).all(1)


def _is_shown(xy: np.ndarray, inside: np.ndarray, ids: np.ndarray, label: int) -> np.ndarray:
    """(n,) bool: the pixel at a point is of that label.

    Pixels of an outline of which less than half is somebody's are nobody's: there a neighbour of
    the label counts, or people of 30 pixels would never be shown as a whole.
    """
    mine = np.pad(ids == label, 1)
    near = mine[1:-1, :-2] | mine[1:-1, 2:] | mine[:-2, 1:-1] | mine[2:, 1:-1]
    shows = mine[1:-1, 1:-1] | (near & (ids == 0))
    x, y = np.where(inside[:, None], xy, 0).astype(int).T
    return inside & shows[y, x]


def make_frame_labels(
    people: list[tuple[str, str, Person, Sight]], instant: int
) -> tuple[list[FramePerson], dict[str, np.ndarray] | None]:
    """The people of a frame and their labels; None where there is nobody.

    Args:
        people: (subject, track, Person, Sight) of each.
    """
    listed = [FramePerson(who, track, s.box, s.shown) for who, track, _, s in people]
    if not people:
        return listed, None
    persons, sights = [p for _, _, p, _ in people], [s for _, _, _, s in people]
    points = np.stack([sight.keypoints for sight in sights]).astype(np.float32)
    return listed, {
        "body_model": np.array("anny"),
        "pose": np.stack([person.pose[instant] for person in persons]),
        "root": np.stack([person.root[instant] for person in persons]),
        "phenotype": np.stack([person.phenotype for person in persons]),
        "face": np.stack([person.face for person in persons]),
        "joints": np.stack([person.joints[instant] for person in persons]),
        "joint_visible": np.stack([sight.joint_visible for sight in sights]),
        "vertex_visible": np.packbits(np.stack([sight.seen for sight in sights]), axis=1),
        "visible": np.array([sight.visible for sight in sights], np.float32),
        "keypoint_set": np.array(KEYPOINT_SET),
        "keypoints": points,
        "keypoint_confidence": np.stack([s.keypoint_known for s in sights]).astype(np.float32),
        "keypoint_visible": np.stack([sight.keypoint_visible for sight in sights]),
    }
