"""GLB with a skeleton that moves, by the glTF 2.0 specification: for Blender and web viewers.

A node a person, whose children are the skeleton's first joint and the skinned mesh; one animation
for all. Metres, y up, the camera at the origin looks along -z. A person is hidden (the node's scale
is 0) in frames in which they are not found.
"""

from pathlib import Path

import numpy as np

from engine.errors import UserError
from finetune.animation.files import write_bytes
from finetune.animation.formats import FORMATS
from finetune.animation.rig import Rig, make_motion, make_rig
from finetune.animation.track import Take, Track
from finetune.animation.turning import to_quaternions
from finetune.export import TO_GLTF
from finetune.gltf import (
    ARRAY_BUFFER,
    Document,
    add_floor,
    add_lens,
    add_material,
    add_mesh,
)
from finetune.person import colour

SET = 4  # joints of a vertex that one attribute holds


@FORMATS.register("glb")
def write_glb(take: Take, stem: Path) -> list[Path]:
    """Write STEM.glb.

    Raises:
        UserError: a body model is no skinned mesh, or has more joints than an index holds.
    """
    document = Document()
    animation: dict = {"name": Path(take.video).stem, "samplers": [], "channels": []}
    _add_camera(document, take)
    if take.floor is not None:
        add_floor(document, take.floor * TO_GLTF)
    for number, track in enumerate(take.tracks):
        _add_person(document, animation, take, track, number)
    document.add("animations", animation)
    return [write_bytes(f"{stem}.glb", document.to_bytes())]


def _add_camera(document: Document, take: Take) -> None:
    """The video's camera, where glTF can hold it."""
    camera = add_lens(document, take.intrinsics, take.width, take.height)
    if camera is not None:
        document.add_root({"name": "camera", "camera": camera})


def _add_person(document: Document, animation: dict, take: Take, track: Track, number: int) -> None:
    rig, motion = make_rig(track), make_motion(track)
    joints = _add_joints(document, rig)
    mesh = document.add(
        "nodes",
        {
            "name": f"{track.name}.mesh",
            "mesh": _add_mesh(document, rig, track.name, number),
            "skin": _add_skin(document, rig, track.name, joints),
        },
    )
    person = document.add_root({"name": track.name, "children": [joints[0], mesh]})
    times = document.add_array(track.times.astype(np.float32), bounds=True)
    turns = to_quaternions(motion.turns).astype(np.float32)
    for joint, node in enumerate(joints):
        _animate(document, animation, node, "rotation", times, turns[:, joint])
    _animate(document, animation, joints[0], "translation", times, motion.places)
    shown_at, shown = list_shown(track, take)
    if not all(shown):
        there = document.add_array(np.array(shown_at, np.float32), bounds=True)
        scale = np.repeat(np.array(shown, np.float32)[:, None], 3, 1)
        _animate(document, animation, person, "scale", there, scale, "STEP")


def list_shown(track: Track, take: Take) -> tuple[list[float], list[bool]]:
    """Return when a person comes and goes, in seconds, and whether they are there from then on."""
    times, shown = [0.0], [track.frames[0] == 0]
    for part in track.list_stretches():
        if track.frames[part.start] > 0:
            times.append(float(track.times[part.start]))
            shown.append(True)
        after = int(track.frames[part.stop - 1]) + 1
        if after < len(take.times):
            times.append(float(take.times[after]))
            shown.append(False)
    return times, shown


def _add_joints(document: Document, rig: Rig) -> list[int]:
    """A node a joint, at rest without a rotation."""
    first = len(document.tree["nodes"])
    for joint, name in enumerate(rig.joint_names):
        node: dict = {"name": name, "translation": rig.offsets[joint].tolist()}
        children = [first + child for child, up in enumerate(rig.parents) if up == joint]
        if children:
            node["children"] = children
        document.add("nodes", node)
    return list(range(first, first + len(rig.joint_names)))


def _add_skin(document: Document, rig: Rig, name: str, joints: list[int]) -> int:
    inverse = np.tile(np.eye(4, dtype=np.float32), (len(joints), 1, 1))
    inverse[:, :3, 3] = -rig.joints
    columns = inverse.swapaxes(1, 2).reshape(len(joints), 16)
    return document.add(
        "skins",
        {
            "name": name,
            "joints": joints,
            "skeleton": joints[0],
            "inverseBindMatrices": document.add_array(columns),
        },
    )


def _add_mesh(document: Document, rig: Rig, name: str, number: int) -> int:
    if len(rig.joint_names) > np.iinfo(np.uint16).max:
        raise UserError(f"{name}: {len(rig.joint_names)} joints are more than glTF's indices hold")
    attributes = {}
    owners, shares = rig.list_influences()
    spare = -owners.shape[1] % SET
    owners = np.pad(owners, ((0, 0), (0, spare))).astype(np.uint16)
    shares = np.pad(shares, ((0, 0), (0, spare))).astype(np.float32)
    for first in range(0, owners.shape[1], SET):
        part, place = slice(first, first + SET), first // SET
        attributes[f"JOINTS_{place}"] = document.add_array(owners[:, part], ARRAY_BUFFER)
        attributes[f"WEIGHTS_{place}"] = document.add_array(shares[:, part], ARRAY_BUFFER)
    material = add_material(document, name, colour(number))
    return add_mesh(document, name, rig.vertices, rig.faces, material, attributes)


def _animate(
    document: Document,
    animation: dict,
    node: int,
    path: str,
    times: int,
    values: np.ndarray,
    way: str = "LINEAR",
) -> None:
    """A channel of the animation."""
    output = document.add_array(values.astype(np.float32))
    animation["samplers"].append({"input": times, "output": output, "interpolation": way})
    target = {"node": node, "path": path}
    animation["channels"].append({"sampler": len(animation["samplers"]) - 1, "target": target})
