"""What Blender makes of the GLB, USD and BVH files of a clip, beside the body model's own vertices.

    python benchmarks/opened_blender.py write juggle.npz body-1 truth.npz
    python -m venv other && other/bin/pip install bpy
    other/bin/python benchmarks/opened_blender.py read truth.npz juggle.glb juggle.usda \
        juggle.body-1.bvh [picture=FRAME:FILE.png]

The first writes vertices and joints of some frames, posed by the body model. The second runs in an
environment with bpy alone, opens the files by Blender's own importers, and says how far they are;
``picture`` renders a frame of the GLB by its own camera.
"""

import os
import sys
from types import ModuleType

import numpy as np

FRAMES = 5
NODES = 1000  # a mesh of fewer vertices is none of a person: Blender adds one that shows bones


def write(numbers: str, track: str, out: str) -> None:
    """Write what the body model poses of a track's numbers."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import json

    from data.bodies.models import open_model
    from finetune.animation.track import Track

    names = ("frames", "times", "pose", "shape", "translation")
    with np.load(numbers) as arrays:
        about = json.loads(str(arrays["about"]))
        (mine,) = [one for one in about["tracks"] if one["name"] == track]
        values = {name: arrays[f"{track}/{name}"] for name in names}
        values |= {name: arrays[f"{track}/{name}"] for name in ("confidence", "box")}
        times, size, intrinsics = (arrays[name] for name in ("times", "size", "intrinsics"))
    body = open_model(mine["body"])
    posed = Track(name=track, kind=mine["kind"], body=body, intrinsics=intrinsics, **values)
    rows = np.linspace(0, len(posed) - 1, FRAMES).astype(int)
    points = [posed.pose_rows(slice(row, row + 1)) for row in rows]
    np.savez(
        out,
        frames=posed.frames[rows],
        vertices=np.concatenate([one.vertices for one in points]),
        joints=np.concatenate([one.joints for one in points]),
        names=np.array(mine["joint_names"]),
        fps=(len(times) - 1) / times[-1],
        size=size,
    )


def read(truth: str, *words: str) -> None:
    """Print how far what Blender opens is from what was written."""
    import bpy

    print(f"Blender {bpy.app.version_string}")
    with np.load(truth) as arrays:
        known = dict(arrays)
    pictures = [word.partition("=")[2] for word in words if word.startswith("picture=")]
    for path in (word for word in words if "=" not in word):
        compare(bpy, path, known)
    for words_of_one in pictures:
        number, _, image = words_of_one.partition(":")
        (glb,) = [word for word in words if word.endswith(".glb")]
        render(bpy, glb, int(number), image, known["size"])


def compare(bpy: ModuleType, path: str, known: dict) -> None:
    """Open one file and compare it in each of the frames that are known."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    kind = path.rsplit(".", 1)[1]
    scene, first = bpy.context.scene, 0
    if kind == "glb":
        bpy.ops.import_scene.gltf(filepath=path)
    elif kind == "bvh":
        bpy.ops.import_anim.bvh(filepath=path, global_scale=0.01, update_scene_fps=True)
        first = 1  # Blender puts a BVH file's first frame at 1
    else:
        bpy.ops.wm.usd_import(filepath=path)
    rate = scene.render.fps / scene.render.fps_base
    off, found = [], np.zeros((0, 3))
    for row, frame in enumerate(known["frames"].tolist()):
        at = frame / float(known["fps"]) * rate if kind == "glb" else frame + first
        scene.frame_set(int(at + 1e-6), subframe=max(0.0, min(at - int(at + 1e-6), 0.999)))
        if kind == "bvh":
            names, found = read_bones(bpy)
            own = known["names"].tolist()
            wanted = known["joints"][row][[own.index(name) for name in names]]
        else:
            found, wanted = read_mesh(bpy), known["vertices"][row]
        off.append(np.abs(found - turn_up(wanted)).max())
    print(f"{path}: {len(found)} points, {rate:g} frames a second, {1e6 * max(off):.1f} um off")


def turn_up(points: np.ndarray) -> np.ndarray:
    """(n, 3) of the camera's frame (y down, z forward) as Blender has them: z up, y forward."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], 1)


def read_mesh(bpy: ModuleType) -> np.ndarray:
    """(V, 3) metres of the largest mesh in the world, with what moves it."""
    meshes = [one for one in bpy.data.objects if one.type == "MESH"]
    (shown,) = [one for one in meshes if len(one.data.vertices) > NODES]
    moved = shown.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = moved.to_mesh()
    points = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", points)
    matrix = np.array(moved.matrix_world)
    return points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]


def read_bones(bpy: ModuleType) -> tuple[list[str], np.ndarray]:
    """Names and (J, 3) metres of the heads of the armature's bones."""
    (rig,) = [one for one in bpy.data.objects if one.type == "ARMATURE"]
    heads = [np.array(rig.matrix_world @ bone.head) for bone in rig.pose.bones]
    return [bone.name for bone in rig.pose.bones], np.array(heads)


def render(bpy: ModuleType, path: str, frame: int, image: str, size: np.ndarray) -> None:
    """Render a frame by the file's own camera, half as large as the video."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=path)
    scene = bpy.context.scene
    (scene.camera,) = [one for one in bpy.data.objects if one.type == "CAMERA"]
    light = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    light.rotation_euler, light.data.energy = (0.9, 0.2, 0.4), 3.0
    scene.collection.objects.link(light)
    scene.render.engine, scene.cycles.samples = "CYCLES", 12
    scene.render.resolution_x, scene.render.resolution_y = (int(side) // 2 for side in size)
    scene.frame_set(frame)
    scene.render.filepath = os.path.abspath(image)
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
