"""A floor under people, GLB files of a scene, distances on a sheet: against made people."""

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from standing import HEIGHT_M, SIZE, K, stand, tilt
from test_animation_files import read_glb
from test_draw import cube, person

from finetune.scene.glb import save_scene
from finetune.scene.ground import find_ground
from finetune.viz import scene
from finetune.viz.labels import do_overlap, make_box, place_labels
from finetune.viz.scene import Level, draw_scene, list_nearest

PLACES = [(-0.9, 4.0), (0.6, 5.5), (1.1, 4.2), (-0.2, 6.0)]


def angle_deg(one, other):
    return np.rad2deg(np.arccos(np.clip(one @ other, -1, 1)))


@pytest.mark.parametrize(
    ("pitch", "roll", "count", "height_m", "tilt_deg"),
    [(12, 3, 4, 0.01, 1.0), (3, -2, 2, 0.12, 2.0), (35, 0, 4, 0.02, 1.0), (8, 0, 1, 0.2, 4.0)],
)
def test_the_floor_lies_under_the_feet(bodies, pitch, roll, count, height_m, tilt_deg):
    camera = tilt(pitch, roll)
    people = stand(bodies["anny"], PLACES[:count], camera, lean_deg=2.0)
    ground = find_ground(people, bodies["anny"].keypoint_names, SIZE)
    assert ground.standing == list(range(count)) and ground.is_seen
    assert angle_deg(ground.up, camera @ [0, -1, 0]) < tilt_deg
    assert ground.height_m == pytest.approx(HEIGHT_M, abs=height_m)
    lowest = [(one.vertices @ ground.up + ground.height_m).min() for one in people]
    assert np.abs(lowest).max() < 0.02
    assert ground.turn @ ground.turn.T == pytest.approx(np.eye(3), abs=1e-6)
    assert np.linalg.det(ground.turn) == pytest.approx(1)
    assert ground.turn @ ground.up == pytest.approx([0, -1, 0], abs=1e-6)


def test_somebody_on_a_ladder_does_not_lift_the_floor(bodies):
    camera = tilt(10, 0)
    people = stand(bodies["anny"], PLACES, camera)
    (high,) = stand(bodies["anny"], [(0.3, 4.6)], camera, seed=3)
    for name in ("vertices", "keypoints"):
        setattr(high, name, getattr(high, name) + camera[:, 1].astype(np.float32) * -0.5)
    ground = find_ground([*people, high], bodies["anny"].keypoint_names, SIZE)
    assert ground.standing == [0, 1, 2, 3]
    assert ground.height_m == pytest.approx(HEIGHT_M, abs=0.03)


def test_a_floor_that_nobody_is_seen_to_stand_on_is_called_a_guess(bodies):
    # So near that the image ends at the hips.
    people = stand(bodies["anny"], [(0.0, 1.2)], tilt(0, 0))
    ground = find_ground(people, bodies["anny"].keypoint_names, SIZE)
    assert not ground.is_seen and ground.describe().startswith("a guess: nobody who stands shows")
    assert (people[0].vertices @ ground.up + ground.height_m).min() == pytest.approx(0, abs=1e-6)


def test_the_glb_shows_people_on_the_floor_as_its_camera_saw_them(bodies, tmp_path):
    camera = tilt(12, 3)
    people = stand(bodies["anny"], PLACES[:3], camera)
    ground = find_ground(people, bodies["anny"].keypoint_names, SIZE)
    save_scene(tmp_path / "a.glb", people, ground, SIZE)
    tree, read = read_glb(tmp_path / "a.glb")
    nodes = {node["name"]: node for node in tree["nodes"]}
    assert list(nodes) == ["body-1", "body-2", "body-3", "ground", "camera"]
    assert tree["scenes"][0]["nodes"] == [0, 1, 2, 3, 4]
    assert "3 people who stand" in tree["scenes"][0]["extras"]["ground"]

    def read_mesh(name):
        primitive = tree["meshes"][nodes[name]["mesh"]]["primitives"][0]
        points = read(primitive["attributes"]["POSITION"])
        return points, read(primitive["indices"]).reshape(-1, 3)

    floor, triangles = read_mesh("ground")
    assert np.abs(floor[:, 1]).max() < 1e-6
    corners = floor[triangles]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (across[:, 1] > 0).all()  # seen from above
    node = nodes["camera"]
    lens = tree["cameras"][node["camera"]]["perspective"]
    assert node["translation"] == pytest.approx([0, HEIGHT_M, 0], abs=0.02)
    turn = Rotation.from_quat(node["rotation"]).as_matrix()
    for one, (x, z) in zip(people, PLACES, strict=False):
        points, _ = read_mesh(f"body-{people.index(one) + 1}")
        assert points[:, 1].min() == pytest.approx(0, abs=0.01)
        assert points[:, 1].max() > 1.0
        middle = (points.min(0) + points.max(0)) / 2
        assert middle[[0, 2]] == pytest.approx([x, -z], abs=0.25)
        seen = (points - node["translation"]) @ turn  # the camera looks along its -z
        half = np.tan(lens["yfov"] / 2)
        right = seen[:, 0] / -seen[:, 2] / (half * lens["aspectRatio"])
        above = seen[:, 1] / -seen[:, 2] / half
        flat = one.vertices / one.vertices[:, 2:] @ K.T
        assert (right + 1) / 2 * SIZE[0] == pytest.approx(flat[:, 0], abs=0.05)
        assert (1 - above) / 2 * SIZE[1] == pytest.approx(flat[:, 1], abs=0.05)


def test_distances_on_the_sheet_are_those_of_the_truth(monkeypatch):
    places = np.array([[-0.5, 0, 3.0], [0.5, 0, 3.2], [0.6, 0.1, 4.4], [-3, 0, 9]])
    people = [person(cube(0.3, place), K=K) for place in places]
    words = []
    text = scene.ImageDraw.ImageDraw.text

    def remember(self, at, said, *more, **options):
        words.append((said, at))
        return text(self, at, said, *more, **options)

    monkeypatch.setattr(scene.ImageDraw.ImageDraw, "text", remember)
    draw_scene(np.zeros((480, 640, 3), np.uint8), people)
    roots = np.stack([one.translation for one in people])
    ways = {(a, b): np.linalg.norm(roots[a] - roots[b]) for a, b in combinations(range(4), 2)}
    wanted = [(0, 1), (1, 2), (2, 3)]
    assert [(a, b) for a, b, _ in list_nearest(people)] == wanted
    assert [metres for *_, metres in list_nearest(people)] == pytest.approx(
        [ways[pair] for pair in wanted]
    )
    said = [text for text, _ in words]
    assert all(said.count(f"{ways[pair]:.2f} m") == 1 for pair in wanted)
    told = ", ".join(f"{a + 1} - {b + 1} {ways[a, b]:.2f} m" for a, b in wanted)
    assert f"each and who is nearest: {told}" in said


def test_a_level_sheet_is_that_of_a_level_camera(bodies):
    level, tilted = tilt(0, 0), tilt(25, 4)
    image = np.zeros((*SIZE[::-1], 3), np.uint8)
    pages = []
    for camera in (level, tilted):
        people = stand(bodies["anny"], PLACES[:2], camera)
        pages.append(np.asarray(draw_scene(image, people, level=Level(camera.T, HEIGHT_M))))
    one, other = pages
    height = min(len(one), len(other)) - 120  # below are words on depths, which differ
    views = slice(660, height)  # above is the overlay
    differ = (np.abs(one[views].astype(int) - other[views]) > 60).any(-1)
    assert differ.mean() < 0.02  # the edges of what the cameras see


def test_labels_cover_nothing():
    random = np.random.default_rng(0)
    wanted = [tuple(point) for point in random.uniform(40, 160, (12, 2)).tolist()]
    sizes = [(46.0, 16.0)] * 12
    taken = [(90.0, 90.0, 110.0, 110.0)]
    places = place_labels(wanted, sizes, taken, (300, 220))
    boxes = [make_box(place, size) for place, size in zip(places, sizes, strict=True)]
    assert not any(do_overlap(*pair) for pair in combinations([*boxes, *taken], 2))
    assert all(x0 >= 0 and y0 >= 0 and x1 <= 300 and y1 <= 220 for x0, y0, x1, y1 in boxes)
    assert place_labels([(5, 5)], [(30, 10)], [(0, 0, 40, 20)], (40, 20)) == [None]
