"""Meshes into pixels and files: against hulls, planes and bytes worked out by other means."""

import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
import trimesh
import warp as wp
from PIL import Image
from scipy.spatial import ConvexHull

from data.bodies.models import open_model
from data.people.config import Domain, PeopleConfig
from data.people.maker import ClipMaker
from engine.errors import UserError
from finetune import export
from finetune.person import Person, vertex_normals
from finetune.viz import clay, draw, raster

K = np.array([[210.0, 7.0, 61.3], [0, 190.0, 40.7], [0, 0, 1]])
SIZE = 130, 90  # width, height
QUAD = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def rays(K, size):
    """(H, W, 3) directions with z = 1 through the pixels' centres."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    return np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T


def sphere(radius, centre, subdivisions=3):
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return (mesh.vertices + centre).astype(np.float32), mesh.faces.astype(np.int32)


def cube(side, centre):
    mesh = trimesh.creation.box((side,) * 3, trimesh.transformations.euler_matrix(0.4, 0.7, 0.2))
    return (mesh.vertices + centre).astype(np.float32), mesh.faces.astype(np.int32)


def person(mesh, kind="body", K=K, box=(0, 0, *SIZE), joints=4):
    vertices, faces = mesh
    rng = np.random.default_rng(len(vertices))
    return Person(
        kind,
        np.array(box),
        vertices,
        faces,
        rng.normal(size=(joints, 3)),
        rng.normal(size=(5, 3)),
        rng.normal(size=(5, 2)),
        np.tile(np.eye(3), (joints, 1, 1)),
        rng.random(6),
        vertices.mean(0),
        K,
    )


@pytest.mark.parametrize(
    "mesh", [sphere(0.4, (0.1, 0.05, 2.0)), cube(0.5, (0, 0.1, 1.6)), sphere(0.3, (0.6, 0.5, 2.0))]
)
def test_silhouette_is_the_hull(mesh):
    xy = mesh[0] @ K.T
    hull = ConvexHull(xy[:, :2] / xy[:, 2:])
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    outside = (np.stack([x, y], -1) @ hull.equations[:, :2].T + hull.equations[:, 2]).max(
        -1
    )  # pixels beyond the border
    found = raster.silhouette(*mesh, K, SIZE)
    assert found.shape == SIZE[::-1] and found.sum() > 500
    assert found[outside < -1e-3].all() and not found[outside > 1e-3].any()


@pytest.mark.parametrize("perspective", [True, False])
def test_plane_has_its_depth_and_normal(perspective):
    normal, offset = np.array([0.3, -0.2, -0.9]), 2.0  # normal @ p + offset = 0
    normal /= np.linalg.norm(normal)
    corners = np.array([[-3, -3], [3, -3], [3, 3], [-3, 3]])
    z = -(corners @ normal[:2] + offset) / normal[2]
    vertices = np.column_stack([corners, z]).astype(np.float32)
    camera = K if perspective else K / [[4], [4], [1]] + [[0, 0, 50], [0, 0, 30], [0, 0, 0]]
    layers = raster.Raster().layers([(vertices, QUAD[:, ::-1])], camera, SIZE, perspective)
    ray = rays(camera, SIZE)
    expected = (
        -offset / (ray @ normal)
        if perspective
        else -(ray[..., :2] @ normal[:2] + offset) / normal[2]
    )
    assert (layers.mesh == 0).all()
    assert np.abs(layers.depth - expected).max() < 1e-4
    assert np.abs(layers.normals - normal).max() < 1e-4


def test_normals_are_smooth():
    vertices, faces = sphere(0.4, (0.1, 0.05, 2.0))
    layers = raster.Raster().layers([(vertices, faces)], K, SIZE)
    seen = layers.mesh == 0
    places = rays(K, SIZE)[seen] * layers.depth[seen][:, None]
    outward = (places - [0.1, 0.05, 2.0]) / np.linalg.norm(
        places - [0.1, 0.05, 2.0], axis=1, keepdims=True
    )
    assert (layers.normals[seen] * outward).sum(1).min() > np.cos(
        np.radians(2)
    )  # a triangle's own is up to 5 degrees off
    assert np.abs(np.linalg.norm(layers.normals[seen], axis=1) - 1).max() < 1e-5


def test_nearer_of_two_crossing_meshes_is_seen():
    tilted = np.array([[-2, -2, 1], [2, -2, 3], [2, 2, 3], [-2, 2, 1]], np.float32)  # z = 2 + x / 2
    upright = np.array([[-2, -2, 2], [2, -2, 2], [2, 2, 2], [-2, 2, 2]], np.float32)
    layers = raster.Raster().layers([(upright, QUAD), (tilted, QUAD)], K, SIZE)
    slanted_depth = 2 / (1 - rays(K, SIZE)[..., 0] / 2)
    clear = np.abs(slanted_depth - 2) > 1e-4
    assert (layers.mesh == (slanted_depth < 2))[clear].all()
    assert 0.2 < (layers.mesh == 1).mean() < 0.8
    assert np.abs(layers.depth - np.minimum(slanted_depth, 2)).max() < 1e-4


def test_both_sides_are_drawn():
    vertices, faces = sphere(0.4, (0, 0, 2.0))
    outside = raster.Raster().layers([(vertices, faces)], K, SIZE)
    inside = raster.Raster().layers([(vertices, faces[:, ::-1])], K, SIZE)
    seen = outside.mesh == 0
    assert np.abs(outside.depth - inside.depth).max() < 1e-6
    assert not outside.back.any() and np.array_equal(inside.back, seen)
    # Either way the normal is that of the side that is seen.
    assert (
        np.abs(outside.normals - inside.normals).max() < 1e-5 and outside.normals[40, 61, 2] < -0.9
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 2, 3, 0), (3, 2, 1, 0)])
def test_what_passes_the_near_plane_is_cut(order):
    """A floor 1.5 m below the camera, from 5 m behind it to 60 m before it."""
    floor = np.array([[-40, 1.5, -5], [40, 1.5, -5], [40, 1.5, 60], [-40, 1.5, 60]], np.float32)[
        list(order)
    ]
    camera = np.array([[30.0, 0, 65], [0, 30, 45], [0, 0, 1]])
    layers = raster.Raster().layers([(floor, QUAD)], camera, SIZE)
    down = rays(camera, SIZE)[..., 1]
    expected = 1.5 / np.where(down > 0, down, np.inf)
    across = np.abs(rays(camera, SIZE)[..., 0]) * expected
    sure = (expected < 59.9) & (across < 39.9) & (down > 0)
    assert (layers.mesh[sure] == 0).all() and sure.mean() > 0.4
    assert (np.abs(layers.depth - expected) / np.maximum(expected, 1))[sure].max() < 1e-3
    assert (layers.mesh[down < 0] == -1).all()
    behind = floor - [0, 0, 70]
    assert not raster.silhouette(behind, QUAD, camera, SIZE).any()


def test_extreme_meshes_are_no_trouble():
    far_off = np.array(
        [[1e7, 0, 0.02], [-1e7, 1e-3, 0.02], [0, 1e8, 0.02], [0, 0, 0.02]], np.float32
    )
    assert raster.silhouette(far_off, QUAD, K, SIZE).dtype == bool
    point = np.array([[0, 0, 2]] * 4, np.float32)
    assert not raster.silhouette(point, QUAD, K, SIZE).any()
    nothing = raster.Raster().layers([(point[:0], QUAD[:0])], K, (40, 30))
    assert (nothing.mesh == -1).all() and nothing.depth.shape == (30, 40)


def test_batch_is_one_by_one(monkeypatch):
    vertices, faces = sphere(0.4, (0, 0, 2.0))
    moved = np.stack([vertices + [0.1 * i, -0.02 * i, 0.2 * i] for i in range(7)])
    cameras = np.stack([K + [[10 * i, 0, i], [0, 5 * i, 0], [0, 0, 0]] for i in range(7)])
    single = np.stack(
        [raster.silhouette(v, faces, c, SIZE) for v, c in zip(moved, cameras, strict=True)]
    )
    monkeypatch.setattr(raster, "BATCH_SAMPLES", 3 * SIZE[0] * SIZE[1])  # 3, 3 and 1
    assert np.array_equal(raster.Raster().silhouettes(moved, faces, cameras, SIZE), single)
    assert len({int(mask.sum()) for mask in single}) == 7


@pytest.mark.parametrize(
    "change, words",
    [
        ({"vertices": np.full((4, 3), np.nan)}, "not finite"),
        ({"faces": np.array([[0, 1, 4]])}, "4 vertices has triangles of"),
        ({"faces": np.array([0, 1, 2])}, "faces of shape"),
        ({"K": np.diag([0, 1.0, 1])}, "positive fx"),
        ({"K": K.T}, "intrinsics"),
    ],
)
def test_bad_meshes_are_refused(change, words):
    given = {"vertices": np.ones((4, 3)), "faces": QUAD, "K": K} | change
    with pytest.raises(UserError, match=words):
        raster.silhouette(given["vertices"], given["faces"], given["K"], SIZE)


def test_bad_people_are_refused():
    good = person(sphere(0.4, (0, 0, 2.0)))
    assert good.vertices.dtype == np.float32 and good.faces.dtype == np.int32
    with pytest.raises(UserError, match=r"pose has shape \(3, 3, 3\), not \(J, 3, 3\) with J = 4"):
        dataclasses.replace(good, pose=good.pose[:3])
    with pytest.raises(UserError, match="keypoints holds numbers that are not finite"):
        dataclasses.replace(good, keypoints=good.keypoints * np.nan)
    with pytest.raises(UserError, match="kind is 'foot'"):
        dataclasses.replace(good, kind="foot")


def test_vertex_normals():
    vertices, faces = sphere(0.7, (1.0, 2.0, 3.0))
    assert np.abs(vertex_normals(vertices, faces) - (vertices - [1, 2, 3]) / 0.7).max() < 0.02
    lonely = np.concatenate([vertices, [[9, 9, 9]]])
    assert np.array_equal(vertex_normals(lonely, faces)[-1], [0, 0, -1])


def test_overlay_changes_the_person_alone():
    near, far = person(sphere(0.3, (0.0, 0, 1.5))), person(sphere(0.3, (0.6, 0, 3.0)))
    image = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    before = image.copy()
    for people in ([near, far], [far, near]):
        out = draw.overlay(image, people)
        masks = [raster.silhouette(p.vertices, p.faces, K, SIZE) for p in (near, far)]
        # A pixel whose 3 x 3 neighbours are all in, or all out, is wholly covered or not at all.
        grown, inner = (trim(masks[0] | masks[1], how) for how in (np.any, np.all))
        assert out.dtype == np.uint8 and np.array_equal(out[~grown], before[~grown])
        assert (np.abs(out[inner].astype(int) - before[inner]).max(1) > 0).mean() > 0.95
        # Near and far differ in hue: blue-grey for the first of the list, terracotta for
        # the second.
        blueness = out[..., 2].astype(int) - out[..., 0]
        sign = 1 if people[0] is near else -1
        assert np.mean(sign * blueness[trim(masks[0], np.all)] > 0) > 0.99
        assert np.mean(sign * blueness[trim(masks[1] & ~masks[0], np.all)] < 0) > 0.99
    assert np.array_equal(image, before) and np.array_equal(draw.overlay(image, []), image)


def trim(mask, how):
    """(H, W): any, or all, of the 3 x 3 around each pixel; what lies outside the image counts as
    its border."""
    padded = np.pad(mask, 1, "edge")
    return how(
        [padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3)],
        axis=0,
    )


def test_bands_have_no_seams(monkeypatch):
    image, shown = np.zeros((SIZE[1], SIZE[0], 3), np.uint8), [person(sphere(0.3, (0, 0, 1.5)))]
    whole = draw.overlay(image, shown)
    monkeypatch.setattr(clay, "BAND_SAMPLES", 20 * SIZE[0])
    apart = np.abs(draw.overlay(image, shown).astype(int) - whole)
    # Each band has its own camera, which float32 rounds: a level, in a pixel or two.
    assert apart.max() <= 1 and (apart > 0).sum() <= 2 and whole.any()


def test_only_where_people_are_is_drawn_and_that_is_equal(monkeypatch):
    """The box of the people in tiles that their triangles reach, against all of the image."""
    people = [person(sphere(0.2, (-0.5, -0.2, 1.7))), person(sphere(0.3, (0.8, 0.3, 2.9)))]
    people.append(person(sphere(0.2, (0.95, 0.0, 2.0))))  # cut by the image's border
    image = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    boxed = draw.overlay(image, people)
    launched, launch = [], wp.launch

    def note_launch(kernel, dim, *more, **keys):
        if kernel.key == "shade_pixels":
            launched.append(dim[0])
        return launch(kernel, dim, *more, **keys)

    monkeypatch.setattr(wp, "launch", note_launch)
    assert np.array_equal(draw.overlay(image, people), boxed)
    monkeypatch.setattr(draw, "_bounds", lambda people, K, width, height: (0, 0, width, height))
    assert np.abs(draw.overlay(image, people).astype(int) - boxed).max() == 0

    def list_all(raster, points, faces, size, samples, tile):
        across, down = (-(-length // tile) for length in size)
        return np.stack(np.meshgrid(range(across), range(down)), -1).reshape(-1, 2).astype(np.int32)

    monkeypatch.setattr(clay, "_find_tiles", list_all)
    assert np.array_equal(draw.overlay(image, people), boxed) and (boxed != image).any()
    assert launched[0] < launched[2] and launched[1] < launched[2]


def test_people_of_two_cameras_are_refused():
    people = [person(sphere(0.3, (0, 0, 2))), person(sphere(0.3, (0, 0, 3)), K=K * [[2], [2], [1]])]
    with pytest.raises(UserError, match="different intrinsics"):
        draw.overlay(np.zeros((90, 130, 3), np.uint8), people)


def test_views_turn_the_right_way_on_one_scale():
    """A hand-sized arrow: 10 cm down, its upper end 4 cm towards the camera, its lower end 6 cm to
    the right."""
    path = np.array([[0, 0, -0.04], [0, 0, 0], [0, 0.1, 0], [0.06, 0.1, 0]])
    rods = [
        trimesh.creation.cylinder(0.002, segment=path[i : i + 2] + [0.3, -0.2, 0.9])
        for i in range(3)
    ]
    joined = trimesh.util.concatenate(rods)
    side, top = draw.views(person((joined.vertices, joined.faces), "right_hand"), 200)
    blue = [
        (view[..., 2].astype(int) - view[..., 0] > 12) & (view[..., 0] < 225)
        for view in (side, top)
    ]
    spans = [
        (np.ptp(np.flatnonzero(b.any(0))) + 1, np.ptp(np.flatnonzero(b.any(1))) + 1) for b in blue
    ]
    scale = 0.8 * 200 / 0.104  # the longest side, with the rods' ends, fills 0.8 of the tile
    for (width, height), metres in zip(
        spans, ((0.042 + 0.002, 0.104), (0.062 + 0.002, 0.044)), strict=True
    ):
        assert abs(width - metres[0] * scale) < 4 and abs(height - metres[1] * scale) < 4
    rows, columns = np.nonzero(blue[0])
    assert (
        rows[columns.argmin()] < 40 and blue[0][:, columns.max() - 1].sum() > 140
    )  # the upper end points left
    rows, columns = np.nonzero(blue[1])
    assert (
        rows[columns.argmax()] < 90 and rows.max() - rows[columns.argmax()] > 40
    )  # the end at the right is far, above
    dark = (side < 80).all(-1)
    assert abs(dark[190].sum() - 0.05 * scale) <= 3  # the bar of 5 cm


def test_sheet_shows_the_person_at_its_place(tmp_path):
    """White where the mesh is seen in the full image: after drawing, the tile must be black and
    clay, nowhere white."""
    size, camera = (640, 360), np.array([[500.0, 0, 320], [0, 500, 180], [0, 0, 1]])
    mesh = sphere(0.3, (0.9, 0.1, 2.0))
    mask = raster.silhouette(*mesh, camera, size)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    shown = person(mesh, K=camera, box=(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    image = np.repeat(mask[..., None] * np.uint8(255), 3, 2)
    sheet = draw.sheet(image, shown, ["one", "two"], truth=shown, title="t")
    sheet.save(tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    tile = pixels[: pixels.shape[0] // 2, 20 + 308 + 1 : 20 + 308 + 299]
    black = np.flatnonzero((tile < 8).all(-1).any(1))
    tile = tile[black[0] : black[-1] + 1]
    white = (tile > 245).all(-1)
    clay = ~(tile < 8).all(-1) & ~white
    assert white.mean() < 0.002 and 0.4 < clay.mean() < 0.75
    assert (
        abs(np.ptp(np.flatnonzero(clay.any(0))) - 300 / 1.2) < 5
    )  # the box is enlarged by a fifth


def test_sheet_keeps_its_text_on_the_page():
    shown, image = person(sphere(0.3, (0, 0, 1.5))), np.zeros((90, 130, 3), np.uint8)
    plain = draw.sheet(image, shown, ["short"])
    long = draw.sheet(image, shown, ["MPJPE 81 mm, " * 40 + "w" * 400], title="a title " * 30)
    assert long.width == plain.width and long.height > plain.height + 80
    pixels = np.asarray(long)
    margin = draw.MARGIN
    for border in (pixels[:margin], pixels[-margin:], pixels[:, :margin], pixels[:, -margin:]):
        assert (border == 255).all()
    with pytest.raises(UserError, match="2 captions"):
        draw.sheet(image, shown, ["one", "two"])


def test_mesh_falls_on_the_made_person():
    """The body of a made clip's labels, through the public model, against the images that were
    drawn of it."""
    maker = ClipMaker(
        PeopleConfig(out="none", seed=3, size=128, domain=Domain(part_share=0.0, boxes=0))
    )
    drawn, made = maker.renderer.draw, []
    maker.renderer.draw = lambda world: made.append(drawn(world)) or made[-1]
    clip = maker.clip(0)
    given = {name: torch.from_numpy(clip.labels[name]) for name in ("pose", "root", "phenotype")}
    model = open_model("anny")
    with torch.inference_mode():
        world, _ = model(given["pose"], given["root"], given["phenotype"][None])
    world = world.numpy()[clip.labels["instant"]]
    cameras = np.array([crop.Rt for crop in clip.crops])
    vertices = np.einsum("nij,nvj->nvi", cameras[..., :3], world) + cameras[:, None, :, 3]
    found = raster.Raster().silhouettes(
        vertices, model.faces.numpy(), [crop.K for crop in clip.crops], (128, 128)
    )
    # Clothes and hair lie outside the body: all of it is on the person, and a pixel aside it is
    # not.
    shares = {
        by: (np.roll(found, by, (1, 2)) & (made[0].label > 0)).sum() / found.sum()
        for by in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
    }
    assert shares.pop((0, 0)) > 0.999 and max(shares.values()) < 0.996
    depth = (
        raster.Raster()
        .layers([(vertices[0], model.faces.numpy())], clip.crops[0].K, (128, 128))
        .depth
    )
    behind_cloth = (depth - made[0].depth[0])[(depth > 0) & (made[0].depth[0] > 0)]
    assert np.percentile(behind_cloth, 2) > -0.01 and np.median(behind_cloth) < 0.06


def glb(path):
    """(JSON, binary) chunks, by the glTF 2.0 specification."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    rest = data[20 + size :]
    binary_size, kind = struct.unpack("<I4s", rest[:8])
    assert kind == b"BIN\0" and len(rest) == 8 + binary_size
    return json.loads(data[20 : 20 + size]), rest[8:]


def accessor(document, binary, index):
    """The array of an accessor, whose bounds are checked where they are given."""
    entry = document["accessors"][index]
    view = document["bufferViews"][entry["bufferView"]]
    dtype = {5125: np.uint32, 5126: np.float32, 5123: np.uint16}[entry["componentType"]]
    columns = {"SCALAR": 1, "VEC3": 3}[entry["type"]]
    start = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
    assert start % np.dtype(dtype).itemsize == 0
    assert entry["count"] * columns * np.dtype(dtype).itemsize <= view["byteLength"]
    assert (
        view.get("byteOffset", 0) + view["byteLength"]
        <= document["buffers"][0]["byteLength"]
        <= len(binary)
    )
    array = np.frombuffer(binary, dtype, entry["count"] * columns, start).reshape(-1, columns)
    if "max" in entry:
        assert np.allclose(array.max(0), entry["max"]) and np.allclose(array.min(0), entry["min"])
    return array


def test_glb_round_trip(tmp_path):
    people = [person(sphere(0.3, (0.2, -0.4, 2.0))), person(cube(0.2, (0, 0, 1.0)), "left_hand")]
    path = tmp_path / "people.glb"
    export.save_glb(path, people)
    document, binary = glb(path)
    assert [path.name] == [p.name for p in tmp_path.iterdir()]
    names = [node["name"] for node in document["nodes"] if "mesh" in node]
    assert names == ["body-1", "left_hand-2"]
    for shown, node, albedo in zip(
        people, [n for n in document["nodes"] if "mesh" in n], draw_colours(), strict=True
    ):
        (primitive,) = document["meshes"][node["mesh"]]["primitives"]
        positions, normals, corners = (
            accessor(document, binary, i)
            for i in (
                primitive["attributes"]["POSITION"],
                primitive["attributes"]["NORMAL"],
                primitive["indices"],
            )
        )
        assert np.allclose(positions, shown.vertices * [1, -1, -1], atol=1e-6)
        assert np.array_equal(corners.reshape(-1, 3), shown.faces) and corners.max() < len(
            positions
        )
        assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
        assert ((positions - positions.mean(0)) * normals).sum(1).min() > 0  # outward
        material = document["materials"][primitive["material"]]
        assert material["doubleSided"] and material["name"] == node["name"]
        assert np.allclose(
            material["pbrMetallicRoughness"]["baseColorFactor"][:3], albedo, atol=0.003
        )
        assert "matrix" not in node or np.allclose(np.reshape(node["matrix"], (4, 4)), np.eye(4))
    loaded = trimesh.load(path)
    assert set(loaded.geometry) == set(names)
    assert loaded.geometry["body-1"].volume == pytest.approx(
        4 / 3 * np.pi * 0.3**3, rel=0.03
    )  # and wound outward


def draw_colours():
    """Linear light of the first two colours, worked out from sRGB's curve."""
    return [[((value / 255 + 0.055) / 1.055) ** 2.4 for value in draw.colour(i)] for i in (0, 1)]


def test_numbers_round_trip(tmp_path):
    people = [
        person(sphere(0.3, (0, 0, 2.0)), "right_hand"),
        person(cube(0.2, (0, 0, 1.0)), "left_hand"),
        person(sphere(0.2, (0, 1, 2.0)), "right_hand"),
    ]
    export.save_numbers(tmp_path / "hands", people, list("abcde"), list("wxyz"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hands.json", "hands.npz"]
    with np.load(tmp_path / "hands.npz") as arrays:
        assert arrays["right_hand/person"].tolist() == [0, 2] and arrays[
            "left_hand/person"
        ].tolist() == [1]
        for row, place in enumerate((0, 2)):
            for name in (
                "vertices",
                "joints",
                "pose",
                "shape",
                "intrinsics",
                "keypoints_2d",
                "translation",
                "box",
            ):
                assert np.array_equal(
                    arrays[f"right_hand/{name}"][row], getattr(people[place], name)
                )
        assert np.array_equal(arrays["left_hand/faces"], people[1].faces)
    known = json.loads((tmp_path / "hands.json").read_text())
    assert known["keypoint_names"] == list("abcde") and known["joint_names"] == list("wxyz")
    assert [entry["kind"] for entry in known["people"]] == ["right_hand", "left_hand", "right_hand"]
    for entry, shown in zip(known["people"], people, strict=True):
        assert "vertices" not in entry and "faces" not in entry
        assert np.allclose(entry["keypoints"], shown.keypoints, atol=1e-6)
        assert np.allclose(entry["intrinsics"], K)


def test_files_that_cannot_be_written(tmp_path):
    people = [person(sphere(0.3, (0, 0, 2.0), 1))]
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(UserError, match=f"{folder.name}/x.glb cannot be written: no"):
            export.save_glb(folder / "x.glb", people)
        with pytest.raises(UserError, match=f"{folder.name}/x.npz cannot be written: no"):
            export.save_numbers(folder / "x", people)
    with pytest.raises(UserError, match="3 names for the 5 keypoints of body-1"):
        export.save_numbers(tmp_path / "x", people, keypoint_names=list("abc"))
    with pytest.raises(UserError, match="nobody was found"):
        export.save_glb(tmp_path / "x.glb", [])
    (tmp_path / "taken.glb").mkdir()
    with pytest.raises(UserError, match="taken.glb cannot be written"):
        export.save_glb(tmp_path / "taken.glb", people)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "file",
        "taken.glb",
    ]  # nothing half-written is left
