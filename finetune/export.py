"""People as files for other software: GLB for Blender and three.js, NPZ and JSON for programs."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import trimesh

from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from finetune.person import ARRAYS, OF_VERTICES, Person, colour, vertex_normals

FORMAT = 1
# glTF's y points up and its camera looks along -z: a rotation by 180 degrees about x.
TO_GLTF = np.array([1, -1, -1], np.float32)
DIGITS = 6  # of the JSON file: micrometres
OF_SEQUENCES = ("track", "time_s")
OF_REFINED = ("refined", "error_px")
OF_FOUND = ("score",)
# Of all people, or of each kind of them.
Names = Sequence[str] | Mapping[str, Sequence[str]]


def names_of(people: Sequence[Person]) -> list[str]:
    """Returns a name a person, unique in the list: "body-1", "right_hand-2", ..."""
    return [f"{person.kind}-{i}" for i, person in enumerate(people, 1)]


def save_glb(
    path: str | Path, people: Sequence[Person], colours: Sequence[np.ndarray] | None = None
) -> None:
    """Write one binary glTF file: a node, a mesh with normals and a coloured material a person.

    Metres, where the people are before the camera; the camera is at the origin and looks along -z,
    y is up.

    Args:
        path: of the file.  people: list of Person, at least one.
        colours: of each person (V, 3) uint8 sRGB of the vertices; None: a colour a person.
    Raises:
        UserError: the file cannot be written; there is nobody to write.
    """
    if not people:
        raise UserError(f"{path}: nobody was found, so there is no mesh to write")
    scene = trimesh.Scene()
    for i, (person, name) in enumerate(zip(people, names_of(people), strict=True)):
        material = trimesh.visual.material.PBRMaterial(
            name=name,
            baseColorFactor=linear_colour(colour(i)),
            metallicFactor=0.0,
            roughnessFactor=0.8,
            doubleSided=True,
        )
        # process=False: trimesh would merge and drop vertices, and their numbers mean something.
        mesh = trimesh.Trimesh(
            person.vertices * TO_GLTF,
            person.faces,
            vertex_normals=vertex_normals(person.vertices, person.faces) * TO_GLTF,
            visual=trimesh.visual.TextureVisuals(material=material)
            if colours is None
            else trimesh.visual.ColorVisuals(vertex_colors=linear_colour(colours[i])),
            process=False,
        )
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    _write(path, scene.export(file_type="glb", include_normals=True))


def save_numbers(
    stem: str | Path,
    people: Sequence[Person],
    keypoint_names: Names | None = None,
    joint_names: Names | None = None,
    focal_from: str = "",
    more: Mapping[str, object] | None = None,
) -> None:
    """Write all arrays of all people in ``stem``.npz.

    Everything but the meshes is in ``stem``.json too.

    The NPZ holds, for each kind of the people found (such as "body"), "body/faces" once,
    "body/person" (n,) the places in the list, and each other array of Person as "body/vertices" (n,
    V, 3) and so on, where all people of the kind have it. The JSON holds "people", in the order of
    the list, and the names; its numbers are rounded to 6 digits after the point.

    Args:
        stem: path without the ending.  people: list of Person.  keypoint_names, joint_names: K and
            J names; where kinds have different ones, {kind: names}.
        focal_from: words on where the focal length comes from; "": nobody said.
        more: entries of the JSON beside these, such as the floor.
    Raises:
        UserError: a file cannot be written, or there are not as many names as keypoints or joints.
    """
    for what, of_kinds in (("keypoints", keypoint_names), ("joints", joint_names)):
        for person, name in zip(people, names_of(people), strict=True):
            names = of_kinds[person.kind] if isinstance(of_kinds, Mapping) else of_kinds
            if names is not None and len(names) != len(getattr(person, what)):
                raise UserError(
                    f"{stem}: {len(names)} names for the {len(getattr(person, what))} {what} of "
                    f"{name}"
                )
    arrays = {}
    for kind in dict.fromkeys(person.kind for person in people):
        of_kind = [person for person in people if person.kind == kind]
        arrays[f"{kind}/person"] = np.array(
            [i for i, person in enumerate(people) if person.kind == kind], np.int32
        )
        arrays[f"{kind}/faces"] = of_kind[0].faces
        for name in (*ARRAYS, *OF_SEQUENCES, *OF_REFINED, *OF_FOUND):
            values = [getattr(person, name) for person in of_kind]
            if name != "faces" and all(value is not None for value in values):
                arrays[f"{kind}/{name}"] = np.stack(values)
    file = io.BytesIO()
    # None of the arrays' names is that of an option.
    # pyrefly: ignore[bad-argument-type]
    np.savez_compressed(file, **arrays)
    _write(f"{stem}.npz", file.getvalue())
    known = {
        "format": FORMAT,
        "units": "metres, pixels, rotation matrices",
        "axes": "camera: x right, y down, z forward; the first pixel's centre is at (0.5, 0.5)",
        **({"focal_length_from": focal_from} if focal_from else {}),
        "keypoint_names": keypoint_names,
        "joint_names": joint_names,
        "joints_of_a_left_hand": "pose is the left hand's own; joint_names are those of its mirror "
        "image, the right one",
        **(more or {}),
        "people": [
            _describe_person(person, name)
            for person, name in zip(people, names_of(people), strict=True)
        ],
    }
    _write(f"{stem}.json", json.dumps(known).encode())


def _describe_person(person: Person, name: str) -> dict:
    """All but the mesh, as JSON holds it; what the person does not have is left out."""
    out: dict[str, object] = {"name": name, "kind": person.kind}
    for key in ARRAYS:
        value = getattr(person, key)
        if value is not None and key not in OF_VERTICES:
            out[key] = np.round(value.astype(float), DIGITS).tolist()
    for key in (*OF_SEQUENCES, *OF_REFINED, *OF_FOUND):
        if getattr(person, key) is not None:
            out[key] = getattr(person, key)
    if person.hands:
        out["hands"] = list(person.hands)
    return out


def linear_colour(colour: npt.ArrayLike) -> np.ndarray:
    """Return (..., 4) uint8 RGBA in linear light, of (..., 3) sRGB in 0 to 255.

    As glTF counts its factors (IEC 61966-2-1).
    """
    srgb = np.asarray(colour) / 255
    light = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    opaque = np.ones_like(light[..., :1])
    return np.round(255 * np.concatenate([light, opaque], -1)).astype(np.uint8)


def _write(path: str | Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
