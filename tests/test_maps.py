"""Maps of images: what is drawn of a mesh, what is seen of it, how answers are judged, and the two
heads that give them."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from PIL import Image
from runs import ROOT, finetune_words

from data.bodies.anny_layout import ANNY
from data.bodies.parts import name_parts
from data.format.clip import Crop
from data.format.joint_sets import find_joint_set
from data.format.labels import HIDDEN, SEEN, Joints, Keypoints, Labels
from data.loading.build import open_crop_order
from data.loading.crops import FLIP, SIDE
from data.loading.points import STATE_HIDDEN, STATE_SEEN, STATE_UNKNOWN, place_joints
from data.loading.validation import val_crops
from engine.config.parser import parse
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune.config import FinetuneConfig
from finetune.evaluation.evaluate import main as evaluate
from finetune.heads.base import Truth, pose_body
from finetune.maps import compare
from finetune.maps.average import average_maps
from finetune.maps.decoder import MapDecoder, choose_layers, make_resizing
from finetune.maps.points import (
    TruePoints,
    find_places,
    measure_pck,
    move_points,
    read_maps,
    read_points,
)
from finetune.maps.raster import draw_samples
from finetune.maps.surface import (
    Surface,
    describe_surface,
    join_vertices,
    list_owners,
    read_skinning,
)
from finetune.maps.targets import MapDrawer, make_maps
from finetune.predict import main as predict
from finetune.train import train
from finetune.views import Targets, view


def make_surface(mesh, parts):
    starts, owners = list_owners(np.asarray(mesh.faces), len(mesh.vertices))
    return Surface(
        torch.tensor(mesh.faces, dtype=torch.int32),
        torch.tensor(parts, dtype=torch.int32),
        ("left", "right"),
        torch.tensor(mesh.vertices, dtype=torch.float32),
        torch.from_numpy(starts),
        torch.from_numpy(owners),
    )


def test_samples_of_a_ball_are_those_of_its_equation():
    ball = trimesh.creation.icosphere(4)
    right = (ball.vertices[:, 0] > 0) + 1
    radius, middle = 0.5, torch.tensor([0.1, -0.05, 3.0])
    K = torch.tensor([[[60.0, 0, 15.0], [0, 62.0, 17.0], [0, 0, 1]]])
    vertices = torch.tensor(ball.vertices, dtype=torch.float32)[None] * radius + middle
    samples = draw_samples(vertices, make_surface(ball, right), K, 32)
    y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    rays = torch.stack([(x - 15) / 60, (y - 17) / 62, torch.ones_like(x)], -1)
    along, square = (rays * middle).sum(-1), rays.square().sum(-1)
    under = along.square() - square * (middle.square().sum() - radius**2)
    hit = under > 0
    assert (samples.drawn[0] != hit).float().mean() < 0.02
    both = hit & samples.drawn[0] & (under > 0.01)
    true = rays * ((along - under.clamp_min(0).sqrt()) / square)[..., None]
    assert both.sum() > 100
    assert (samples.points[0] - true)[both].norm(dim=-1).max() < 0.006
    normals = (true - middle) / radius
    assert (samples.normals[0] * normals).sum(-1)[both].min() > 0.99
    assert (samples.surface[0] - normals)[both].norm(dim=-1).max() < 0.05
    sides = torch.where(normals[..., 0] > 0, 2, 1)
    clear = both & (normals[..., 0].abs() > 0.1)
    assert torch.equal(samples.parts[0].long()[clear], sides[clear])


def test_the_inside_of_an_open_mesh_is_not_drawn():
    bowl = trimesh.creation.icosphere(3)
    bowl.update_faces(bowl.triangles_center[:, 2] > 0)  # open towards the camera
    surface = make_surface(bowl, np.ones(len(bowl.vertices), int))
    K = torch.tensor([[[30.0, 0, 8], [0, 30, 8], [0, 0, 1]]])
    vertices = torch.tensor(bowl.vertices, dtype=torch.float32)[None] + torch.tensor([0, 0, 4.0])
    assert not draw_samples(vertices, surface, K, 16).drawn.any()


def test_few_vertices_are_joined_as_the_mesh_joins_them():
    ball = trimesh.creation.icosphere(4)
    chosen = np.random.default_rng(0).choice(len(ball.vertices), 200, replace=False)
    faces = join_vertices(ball.vertices, ball.faces, chosen)
    small = trimesh.Trimesh(ball.vertices[chosen], faces, process=False)
    assert set(faces.ravel()) == set(range(200))
    outward = (small.face_normals * small.triangles_center).sum(1)
    assert (outward > 0).mean() > 0.99
    assert small.volume == pytest.approx(ball.volume, rel=0.06)


@pytest.mark.parametrize("name", ["anny", "anny_hand"])
def test_skinning_weights_are_read_off_a_model(bodies, name):
    """Against anny's own tables."""
    coarse = bodies[name].coarse(200)
    found = read_skinning(coarse)
    rigged = coarse.rigged
    true = torch.zeros_like(found)
    true.scatter_add_(1, rigged.vertex_bone_indices.long(), rigged.vertex_bone_weights)
    sure = true.amax(1) > 0.7
    assert sure.sum() > 100
    assert (found - true)[sure].abs().mean() < 0.01
    assert (found.argmax(1) == true.argmax(1))[sure].float().mean() > 0.98


def test_parts_have_names_and_both_sides(bodies):
    _, names = name_parts(bodies["anny"])
    assert len(names) == 14 and {"torso", "head", "left_hand", "right_lower_leg"} < set(names)
    _, names = name_parts(bodies["anny_hand"])
    assert len(names) == 16 and names[0] == "palm" and "little_3" in names
    surface = describe_surface(bodies["anny"], bodies["anny"].coarse(300))
    left = surface.canonical[:, 0] > 0.2  # anny's x is to its own left
    names = [surface.part_names[part - 1] for part in surface.parts[left].tolist()]
    assert not any(name.startswith("right") for name in names)


def read_truth(people, kind, rows, bodies, size=48, **changed):
    file, *rest = finetune_words("run", kind, people[kind], "data.workers=0")
    config = parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")
    arrays = val_crops(open_crop_order(config.data, 1, 0), config.data, 2)
    batch = {name: torch.from_numpy(values[:rows].copy()) for name, values in arrays.items()}
    for name, values in changed.items():
        batch[name] = values(batch[name])
    body = bodies["anny" if kind == "body" else "anny_hand"]
    seen = view(batch, size)
    labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
    coarse = body.coarse(64)
    mesh = pose_body(coarse, Targets(body)(labels, seen))
    return Truth(mesh, seen.K, size, seen, batch, body=coarse), body


def test_true_maps_lie_on_the_person(people, bodies):
    truth, body = read_truth(people, "body", 4, bodies)
    whole, coarse = (MapDrawer(body, count)(truth, 32) for count in (0, 1500))
    both = whole.seen & coarse.seen
    assert (whole.seen ^ coarse.seen).sum() < 0.15 * whole.seen.sum()
    assert (whole.depth - coarse.depth)[both].abs().mean() < 0.02
    assert whole.seen.sum() > 0.6 * (whole.silhouette > 0.5).sum()
    # What is known of the surface is where the person is; clothes and hair are of no part.
    assert (whole.silhouette[whole.seen] > 0.5).all()
    assert (whole.parts[whole.silhouette <= 0.5] == 0).all()
    assert ((whole.parts == -1) == ((whole.silhouette > 0.5) & ~whole.seen)).all()
    assert (whole.normals[:, 2][whole.seen] < 0.1).float().mean() > 0.95  # towards the camera
    length = whole.normals.norm(dim=1)[whole.seen]
    assert torch.allclose(length, torch.ones_like(length), atol=1e-3)


def test_what_an_occluder_hides_is_not_known(people, bodies):
    def hide(bits):
        bits = bits.clone()
        bits.unflatten(1, (64, 8))[:, :32] = 0  # the upper half
        return bits

    truth, body = read_truth(people, "body", 2, bodies, mask=hide)
    maps = MapDrawer(body, 800)(truth, 32)
    assert not maps.seen[:, :15].any() and maps.seen[:, 17:].any()
    assert (maps.parts[:, :15] == 0).all() and (maps.silhouette[:, :15] < 0.5).all()


def test_without_a_mask_the_mesh_says_where_the_person_is(people, bodies):
    truth, body = read_truth(people, "body", 2, bodies, mask=lambda bits: bits.fill_(255))
    maps = MapDrawer(body, 800)(truth, 32)
    assert ((maps.silhouette > 0.5) == maps.seen).all() and maps.seen.any()


@pytest.mark.parametrize("flip", [0, 1])
def test_maps_of_rectangles_are_the_middle_of_those_of_squares(flip, people, bodies):
    def mirror(numbers):
        numbers[:, FLIP] = flip
        return numbers

    tall, body = read_truth(people, "body", 3, bodies, (64, 48), numbers=mirror)

    def grow(numbers):
        numbers[:, FLIP] = flip
        numbers[:, SIDE] = tall.seen.squares[:, 2]
        return numbers

    whole, _ = read_truth(people, "body", 3, bodies, 64, numbers=grow)
    drawer = MapDrawer(body, 800)
    found, wanted = drawer(tall, (32, 24)), drawer(whole, 32)
    assert found.parts.shape == (3, 32, 24) and found.seen.any()
    same = found.parts == wanted.parts[..., 4:28]
    assert same.float().mean() > 0.998  # but for samples that an edge cuts
    for name in ("silhouette", "depth", "normals", "surface"):
        apart = (getattr(found, name) - getattr(wanted, name)[..., 4:28]).abs()
        assert apart.movedim(1, -1).mean() < 1e-3 if apart.ndim == 4 else apart[same].max() < 1e-3


def test_a_mirrored_body_has_mirrored_maps(people, bodies):
    def mirror(numbers):
        numbers[:, 4] = 1
        return numbers

    truth, body = read_truth(people, "body", 2, bodies)
    other, _ = read_truth(people, "body", 2, bodies, numbers=mirror)
    drawer = MapDrawer(body, 1500)
    here, there = drawer(truth, 32), drawer(other, 32)
    both = here.seen & there.seen.flip(-1)
    assert both.sum() > 0.9 * here.seen.sum()
    names = ("nothing", *drawer.surface.part_names)
    swapped = [
        names.index(
            name.replace("left", "?").replace("right", "left").replace("?", "right")
            if name.startswith(("left", "right"))
            else name
        )
        for name in names
    ]
    turned = torch.tensor(swapped)[there.parts.flip(-1).clamp_min(0)]
    assert (turned == here.parts)[both].float().mean() > 0.9
    assert (here.depth - there.depth.flip(-1))[both].abs().mean() < 0.01
    assert (here.surface[:, 0] + there.surface.flip(-1)[:, 0])[both].abs().mean() < 0.03


def test_maps_are_about_the_ray_through_the_middle(people, bodies):
    truth, body = read_truth(people, "body", 2, bodies)
    drawer = MapDrawer(body, 800)
    K = torch.tensor([[100.0, 0, 64], [0, 100, 34], [0, 0, 1]]).repeat(2, 1, 1)
    middle = F.normalize(torch.tensor([24 - 64, 24 - 34, 100.0]), dim=0)
    root = 3.0 * middle.expand(2, 3)
    posed = dataclasses.replace(truth.mesh.parameters, translation=root)
    samples = drawer.draw(posed, K, 48)
    maps = make_maps(samples, torch.ones(2, 48, 48), root, K, 48)
    assert maps.seen.sum() > 100
    along = ((samples.points - root[:, None, None]) * middle).sum(-1)
    assert (along - maps.depth)[maps.seen].abs().max() < 1e-4
    # Its cosine with that ray is a normal's last number.
    cosines = (samples.normals * middle).sum(-1)
    assert (cosines - maps.normals[:, 2])[maps.seen].abs().max() < 1e-4


def test_answers_are_judged(people, bodies):
    truth, body = read_truth(people, "body", 4, bodies)
    true = MapDrawer(body, 800)(truth, 32)
    labels = F.one_hot(true.parts.clamp_min(0), 15).permute(0, 3, 1, 2).float()
    right = {
        "silhouette": (true.silhouette - 0.5)[:, None],
        "parts": 9 * labels,
        "depth": true.depth[:, None] + 0.01,
        "normals": 3 * true.normals,
        "surface": true.surface + torch.tensor([0.0, 0.003, 0.004])[:, None, None],
    }
    found = {name: compare.MEASURES[name](right, true) for name in compare.MAPS}
    assert torch.allclose(found["silhouette"], torch.ones(4))
    assert torch.allclose(found["parts"], torch.ones(4))
    assert torch.allclose(found["depth"], torch.full((4,), 10.0), atol=1e-3)
    assert found["normals"].max() < 0.1
    assert torch.allclose(found["surface"], torch.full((4,), 5.0), atol=1e-3)
    mean = {name: values.expand(4, -1, -1, -1) for name, values in average_maps([true], 14).items()}
    for name in compare.MAPS:
        worse = compare.MEASURES[name](mean, true).mean()
        assert (worse < found[name].mean()) == (name in ("silhouette", "parts")), name
        losses = [compare.LOSSES[name](maps, true).mean() for maps in (right, mean)]
        assert losses[0] < losses[1] or name == "silhouette"
    nobody = dataclasses.replace(
        true, seen=torch.zeros_like(true.seen), parts=torch.zeros_like(true.parts)
    )
    for name in ("parts", "depth", "normals", "surface"):
        assert compare.MEASURES[name](right, nobody).isnan().all()
        assert compare.LOSSES[name](right, nobody).isfinite().all()


def test_layers_are_merged_at_the_size_of_the_maps():
    line = torch.randn(1, 1, 5, 7)
    rows, columns = make_resizing(5, 15), make_resizing(7, 14)
    true = F.interpolate(line, (15, 14), mode="bilinear", align_corners=False)
    assert torch.allclose(rows @ line @ columns.T, true, atol=1e-6)
    assert choose_layers(8, 4) == (1, 3, 5, 7) and choose_layers(2, 4) == (0, 1)
    decoder = MapDecoder(8, 12, (3, 4), 8, 4)
    layers = [torch.randn(2, 12, 12, requires_grad=True) for _ in range(4)]
    maps = decoder(layers)
    assert maps.shape == (2, 8, 24, 32)
    maps.square().sum().backward()
    assert all(layer.grad.abs().sum() > 0 for layer in layers)


def test_joints_are_read_off_maps_and_judged():
    logits = torch.full((1, 3, 12, 16), -9.0)
    logits[0, 0, 4, 5] = 9.0
    logits[0, 1, 4, 5] = logits[0, 1, 4, 6] = 5.0
    logits[0, 2, 2, 2], logits[0, 2, 9, 13] = 5.1, 5.0  # another place, nearly as likely
    places = read_maps(logits)[0]
    wanted = torch.tensor([[5.5 / 16, 4.5 / 12], [6.0 / 16, 4.5 / 12], [2.5 / 16, 2.5 / 12]])
    assert torch.allclose(places, wanted, atol=1e-3)
    true = TruePoints(
        torch.tensor([[[0.2, 0.2], [0.6, 0.2], [0.2, 0.7], [0.9, 1.2]]]),
        torch.tensor([[True, True, True, False]]),
        torch.tensor([[True, True, True, False]]),
        torch.tensor([[True, True, True, False]]),
    )
    # The box is .5 high: .05 away is within a tenth of it, .06 is not.
    found = true.points + torch.tensor([[0.049, 0.0], [0.0, 0.06], [0.0, 0.2], [0, 0]])
    assert measure_pck(found, true, 0.1).tolist() == pytest.approx([1 / 3])
    assert measure_pck(found, true, 0.2).tolist() == pytest.approx([2 / 3])
    nobody = dataclasses.replace(true, known=torch.zeros(1, 4, dtype=torch.bool))
    assert measure_pck(found, nobody, 0.2).isnan().all()


@pytest.mark.parametrize("size", [64, (64, 48), (48, 64)])
def test_labelled_joints_move_with_the_crop(size):
    """A bright dot of the crop is where its label is, however the crop is cut and mirrored."""
    pixels = np.zeros((3, 64, 64, 3), np.uint8)
    at = np.array([[20.5, 30.5], [40.5, 25.5], [33.5, 41.5]], np.float32)
    for image, (x, y) in zip(pixels, at.astype(int), strict=True):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    numbers = torch.tensor(
        [
            [32.0, 32, 64, 0, 0, 1, 1, 1],
            [30.0, 34, 50, 0.5, 0, 1, 1, 1],
            [36.0, 30, 56, -0.4, 1, 1, 1, 1],
        ]
    )
    batch = {
        "pixels": torch.from_numpy(pixels),
        "numbers": numbers,
        "K": torch.eye(3).repeat(3, 1, 1),
        "tags": torch.full((3, 10), 64),
        "mask": torch.full((3, 512), 255, dtype=torch.uint8),
    }
    seen = view(batch, size)
    images = seen.images.mean(1)
    images = images - images.amin((1, 2), keepdim=True)
    down, across = (torch.arange(side) + 0.5 for side in images.shape[1:])
    mass = images.sum((1, 2))
    x, y = (images.sum(1) * across).sum(1) / mass, (images.sum(2) * down).sum(1) / mass
    points = torch.from_numpy(at)[:, None]
    moved = move_points(points, seen.squares, numbers, size)[:, 0] * 64
    assert (moved - torch.stack([x, y], 1)).abs().max() < 0.3


def test_labelled_joints_are_matched_by_name():
    """Keypoints of a photograph, and joints of a body before its camera, hidden ones among them."""
    names = ("left_wrist", "nose", "right_hip", "thumb_1")
    coco = find_joint_set("coco17").joints
    points = np.arange(34, dtype=np.float32).reshape(1, 17, 2)
    confidence = np.ones((1, 17), np.float32)
    confidence[0, coco.index("nose")] = 0
    visible = np.full((1, 17), SEEN, np.uint8)
    visible[0, coco.index("right_hip")] = HIDDEN
    photo = Labels(np.zeros(1, int), Keypoints("coco17", points, confidence, visible))
    clip = SimpleNamespace(crops=[Crop("0", 0.0, "body")])
    found, state = place_joints(photo, clip, names)
    assert state.tolist() == [[STATE_SEEN, STATE_UNKNOWN, STATE_HIDDEN, STATE_UNKNOWN]]
    assert found[0, 0].tolist() == points[0, coco.index("left_wrist")].tolist()

    joints = np.zeros((1, 104, 3), np.float32)
    thumb = ANNY.joint_names.index("finger1-1.L")
    joints[0, thumb] = [0.1, 0.2, 2.0]
    made = Labels(np.zeros(1, int), joints=Joints("anny", joints, np.ones((1, 104), np.float32)))
    K = np.array([[50.0, 0, 20], [0, 50, 20], [0, 0, 1]])
    clip = SimpleNamespace(crops=[Crop("0", 0.0, "left_hand", K, np.eye(3, 4))])
    found, state = place_joints(made, clip, names)
    # All but the thumb are in the camera's middle, so in no image.
    assert state.tolist() == [[STATE_UNKNOWN, STATE_UNKNOWN, STATE_UNKNOWN, STATE_SEEN]]
    assert found[0, 3].tolist() == pytest.approx([22.5, 25.0])
    with pytest.raises(UserError, match="is none of"):
        photo.keypoints.joint_set = "coco18"
        place_joints(photo, clip, names)


def test_joints_of_any_set_come_from_the_body_model_by_name(people, bodies):
    names = ("left_wrist", "nose", "mid_hip", "face_3")
    places = find_places(names, bodies["anny"])
    assert places[3] is None and places[2][0] == places[1][0] == "landmarks"
    truth, _ = read_truth(people, "body", 2, bodies)
    true = read_points(truth, places, torch.arange(4))
    assert true.known[:, :3].all() and not true.known[:, 3].any()
    body = truth.mesh.keypoints[:, bodies["anny"].keypoint_names.index("left_wrist")]
    pixel = (truth.K @ body[..., None])[..., 0]
    assert torch.allclose(true.points[:, 0] * 48, pixel[:, :2] / pixel[:, 2:], atol=1e-3)


SMALL = (
    "head.width=8",
    "batch=4",
    "steps=16",
    "optim.warmup=0",
    "optim.lr=0.15",
    "log.val_every=16",
    "log.images_every=16",
    "log.images=2",
    "log.val_clips=2",
    "checkpoint.every=16",
    "data.workers=0",
)
OWN = {
    "dense": ("head.cells=4", "head.layers=2", "head.drawn_vertices=500"),
    "keypoints": ("head.joints=coco17",),
}


def train_head(name, run, shards, *more):
    _, *rest = finetune_words(run, "body", shards, f"head.name={name}", *SMALL, *OWN[name], *more)
    default = ("head.width=32", "head.depth=1", "head.heads=2", "head.token_proj_dim=4")
    words = [word for word in rest if word not in default]
    config = run.parent / "plain.yaml"
    config.write_text("command: finetune train\n")
    assert train(parse(FinetuneConfig, [str(config), *words], "finetune train")) == 0
    return run


@pytest.mark.parametrize(
    "name, size", [("dense", "[32,24]"), ("keypoints", "32"), ("points", "[24,32]")]
)
def test_a_head_of_the_image_goes_all_the_way(name, size, people, tmp_path, capsys):
    task = ("task=keypoints",) if name == "points" else ()  # from labelled points, without a body
    name = "keypoints" if task else name
    run = train_head(name, tmp_path / "run", people["body"], *task, f"model.image_size={size}")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line["loss/total"] for line in lines if "loss/total" in line]
    assert min(losses[1:]) < losses[0]
    keys = {"dense": "parts_iou", "keypoints": "pck_02"}
    assert f"val/{keys[name]}" in {key for line in lines for key in line}
    assert list((run / "images").glob("*.png"))

    assert evaluate([str(run), "clips=2", "device=cpu"]) == 0
    told = json.loads((run / "evaluation" / "answers.json").read_text())
    assert [row["key"] for row in told["rows"]] == ["model", "mean"]
    assert keys[name] in told["rows"][0]["values"]
    assert told["head"] == name and told["crops"] == 8

    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(photo)
    out = tmp_path / "out"
    capsys.readouterr()
    assert predict([str(photo), f"run={run}", "whole_image=true", f"out={out}"]) == 0
    assert "1 x body" in capsys.readouterr().out
    check = {"dense": check_maps, "keypoints": check_points}
    check[name](out)


def check_maps(out):
    with np.load(out / "photo.maps.npz") as arrays:
        names = {name.partition("/")[2] for name in arrays.files}
        assert names >= set(compare.MAPS)
        assert arrays["body-1/parts"].shape == (16, 12)
        assert arrays["body-1/normals"].shape == (16, 12, 3)
        lengths = np.linalg.norm(arrays["body-1/normals"].astype(float), axis=-1)
        assert np.allclose(lengths, 1, atol=0.01)
        depth = arrays["body-1/depth"]
        assert arrays["part_names"][0] == "nothing" and len(arrays["part_names"]) == 15
        high = 70 * 32 / 24
        assert np.allclose(arrays["body-1/square"], [0, 25 - high / 2, 70, 25 + high / 2])
    steps = np.asarray(Image.open(out / "photo.body-1.depth16.png")).astype(float)
    assert np.allclose((steps - 32768) * 1e-4, depth, atol=6e-5)
    for name in compare.MAPS:
        assert (out / f"photo.body-1.{name}.png").exists()
    assert Image.open(out / "photo.maps.png").size == (6 * 192, 192 + 22)


def check_points(out):
    (found,) = json.loads((out / "photo.keypoints.json").read_text())
    assert len(found["keypoints"]) == 51 and found["keypoint_names"][0] == "nose"
    assert found["bbox"] == [0, 0, 70, 50] and 0 <= found["score"] <= 1
    points = np.array(found["keypoints"]).reshape(17, 3)
    assert (points[:, 0] > -1).all() and (points[:, 0] < 70).all()
    assert Image.open(out / "photo.skeleton.png").size == (70, 50)


def test_what_does_not_fit_is_told(people, tmp_path):
    cases = (
        ("dense", ("head.cells=6",), "head.cells=6 is none of"),
        ("dense", [f"head.{name}=0" for name in compare.MAPS], "are all 0"),
        ("keypoints", ("head.joints=coco18",), "joint set 'coco18' is none of"),
        ("dense", ("task=keypoints",), "task=keypoints learns head.name=keypoints, not dense"),
        ("keypoints", ("task=keypoints", "head.joints="), "head.joints is not set"),
        ("keypoints", ("head.maps=0", "head.points=0"), "one of them must be above"),
    )
    for name, words, said in cases:
        with pytest.raises(UserError, match=said):
            train_head(name, tmp_path / "run", people["body"], *words)
