"""Documents of glTF 2.0, the format of GLB files, by its specification."""

import json
import struct
from collections.abc import Mapping

import numpy as np

from finetune.export import linear_colour
from finetune.person import vertex_normals

MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
COMPONENTS = {
    np.dtype("<f4"): FLOAT,
    np.dtype("<u2"): UNSIGNED_SHORT,
    np.dtype("<u4"): UNSIGNED_INT,
}
ARRAY_BUFFER, ELEMENT_BUFFER = 34962, 34963
WIDTHS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
FLOOR = (150, 150, 148)  # sRGB
CENTRED_PX = 1.0  # glTF's camera looks through the middle of its image


class Document:
    """A glTF document that grows: its JSON and its one buffer."""

    def __init__(self) -> None:
        self.tree: dict = {
            "asset": {"version": "2.0", "generator": "counterpose"},
            "scene": 0,
            "scenes": [{"nodes": []}],
            "nodes": [],
            "buffers": [],
        }
        self.data = bytearray()

    def add(self, kind: str, value: dict) -> int:
        """Put something into one of the document's lists; return its place there."""
        self.tree.setdefault(kind, []).append(value)
        return len(self.tree[kind]) - 1

    def add_array(self, values: np.ndarray, target: int | None = None, bounds: bool = False) -> int:
        """Put an array of (n,) or (n, width) into the buffer; return its accessor's place.

        Args:
            target: what a vertex or index array is for.
            bounds: say its least and largest numbers, as positions and times have to.
        """
        array = np.ascontiguousarray(values)
        array = array.astype(array.dtype.newbyteorder("<"))
        self.data += bytes(-len(self.data) % 4)
        view: dict = {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes}
        if target is not None:
            view["target"] = target
        self.data += array.tobytes()
        flat = array.reshape(len(array), -1)
        accessor: dict = {
            "bufferView": self.add("bufferViews", view),
            "componentType": COMPONENTS[array.dtype],
            "count": len(array),
            "type": WIDTHS[flat.shape[1]],
        }
        if bounds:
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        return self.add("accessors", accessor)

    def add_root(self, node: dict) -> int:
        """Put a node into the scene; return its place."""
        place = self.add("nodes", node)
        self.tree["scenes"][0]["nodes"].append(place)
        return place

    def to_bytes(self) -> bytes:
        """Return the document as a GLB file."""
        self.data += bytes(-len(self.data) % 4)
        self.tree["buffers"] = [{"byteLength": len(self.data)}]
        text = json.dumps(self.tree, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + 8 + len(self.data)
        return b"".join(
            (
                struct.pack("<3I", MAGIC, 2, length),
                struct.pack("<2I", len(text), JSON_CHUNK),
                text,
                struct.pack("<2I", len(self.data), BINARY_CHUNK),
                bytes(self.data),
            )
        )


def add_lens(document: Document, K: np.ndarray, width: int, height: int) -> int | None:
    """Add a camera and return its place.

    Args:
        K: (3, 3) of an image of some width and height in pixels.
    Returns:
        None where its principal point is not the middle, as that of glTF's cameras is.
    """
    fx, fy = K[0, 0], K[1, 1]
    if np.abs(K[:2, 2] - np.array([width, height]) / 2).max() > CENTRED_PX:
        return None
    lens = {
        "yfov": 2 * float(np.arctan(height / (2 * fy))),
        "aspectRatio": float(width / height * fy / fx),
        "znear": 0.01,
    }
    return document.add("cameras", {"type": "perspective", "perspective": lens})


def add_material(
    document: Document, name: str, colour: tuple[int, int, int], roughness: float = 0.8
) -> int:
    """Add a dull material and return its place.

    Args:
        colour: sRGB in 0 to 255.
    """
    rgba = linear_colour(colour) / 255
    return document.add(
        "materials",
        {
            "name": name,
            "doubleSided": True,
            "pbrMetallicRoughness": {
                "baseColorFactor": rgba.tolist(),
                "metallicFactor": 0.0,
                "roughnessFactor": roughness,
            },
        },
    )


def add_mesh(
    document: Document,
    name: str,
    vertices: np.ndarray,
    faces: np.ndarray,
    material: int,
    attributes: Mapping[str, int] | None = None,
) -> int:
    """Add a mesh with smooth normals and return its place.

    Args:
        vertices: (V, 3).  faces: (F, 3).
        attributes: {name: accessor} that its vertices have beside.
    """
    points = vertices.astype(np.float32)
    of_vertices = {
        "POSITION": document.add_array(points, ARRAY_BUFFER, bounds=True),
        "NORMAL": document.add_array(vertex_normals(points, faces), ARRAY_BUFFER),
        **(attributes or {}),
    }
    indices = document.add_array(faces.ravel().astype(np.uint32), ELEMENT_BUFFER)
    primitive = {"attributes": of_vertices, "indices": indices, "material": material}
    return document.add("meshes", {"name": name, "primitives": [primitive]})


def add_floor(document: Document, corners: np.ndarray) -> None:
    """Add a node "ground", a rectangle that is seen from both sides.

    Args:
        corners: (4, 3) left and near, left and far, right and near, right and far.
    """
    faces = np.array([[0, 2, 1], [1, 2, 3]])  # outward is up
    mesh = add_mesh(document, "ground", corners, faces, add_material(document, "ground", FLOOR))
    document.add_root({"name": "ground", "mesh": mesh})
