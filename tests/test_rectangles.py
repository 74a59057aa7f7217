"""Rectangular images: the middle of the square everywhere, and squares as they always were."""

import dataclasses
import json
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from networks import make_run
from safetensors import safe_open
from timm.layers import resample_abs_pos_embed

from data.bodies.models import open_model
from data.cropping import batch as on_device
from data.cropping.geometry import (
    Square,
    crop_camera_of,
    find_sides,
    image_to_crop,
    scaled_rotation,
    square_around,
)
from data.cropping.host import cut_square
from data.loading.appearance import Appearance, crop_person, find_inside
from data.loading.appearance_keys import DRAWS, AppearanceKeys
from data.loading.augment import augment, crop_masks
from engine.config.parser import help_text, parse, parse_keys, save
from engine.errors import UserError
from finetune.config import FinetuneConfig
from finetune.crop_camera import (
    describe_camera,
    lengths_of,
    to_image_translation,
    to_shares,
    to_translation,
)
from finetune.evaluation import evaluate
from finetune.heads.base import ImagePrediction
from finetune.heads.image_head import Asked
from finetune.heads.keypoint_maps import KeypointMaps, compare_maps
from finetune.heads.keypoints import KeypointHead, KeypointsConfig
from finetune.inference.predictor import Predictor, check_boxes
from finetune.init_head import begin_from
from finetune.losses import project_points
from finetune.maps.points import TruePoints, read_maps
from finetune.maps.points import find_inside as find_inside_image
from finetune.maps.save import place_points
from finetune.means import plain_view
from finetune.verb_config import EvaluateConfig
from finetune.views import view
from pretrain import encoders, panels, weights
from pretrain.config import DecoderConfig, EncoderConfig, ModelConfig, VisionConfig
from pretrain.flops import flops
from pretrain.masking import person_share
from pretrain.model import CrossCompletion, Encoder, table
from pretrain.position import resample

TALL, WIDE, STRIP = (64, 48), (48, 64), slice(8, 56)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=3, side=100, seed=0):
    return torch.rand(count, 3, side, side, generator=seeded(seed))


SQUARES = torch.tensor([[50.0, 47.0, 90.0], [30.0, 60.0, 64.0], [48.5, 50.0, 180.0]])
ANGLES = torch.tensor([0.0, 0.4, -0.2])


@pytest.mark.parametrize("angle", [None, ANGLES])
def test_a_rectangle_is_the_middle_of_the_square_on_the_device(angle):
    whole = on_device.crop_squares(images(), SQUARES, 64, angle)
    tall = on_device.crop_squares(images(), SQUARES, TALL, angle)
    wide = on_device.crop_squares(images(), SQUARES, WIDE, angle)
    torch.testing.assert_close(tall, whole[..., STRIP], atol=1e-4, rtol=0)
    torch.testing.assert_close(wide, whole[..., STRIP, :], atol=1e-4, rtol=0)


def test_squares_are_cut_to_the_bit_as_before_there_were_rectangles():
    """Against the formulas of that time."""
    pixels = images()
    for angle in (None, ANGLES):
        side, size = pixels.shape[-1], 64
        scale, shift = SQUARES[:, 2] / side, 2 * SQUARES[:, :2] / side - 1
        cos, sin = torch.ones_like(scale), torch.zeros_like(scale)
        if angle is not None:
            cos, sin = angle.cos(), angle.sin()
        (a, b), (c, d) = scaled_rotation(scale, cos, sin)
        rows = [torch.stack([a, b, shift[:, 0]], 1), torch.stack([c, d, shift[:, 1]], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), [3, 3, size, size], align_corners=False)
        old = F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False)
        assert torch.equal(on_device.crop_squares(pixels, SQUARES, size, angle), old)
    square = Square(33.3, 20.1, 77.7, 0.3)
    (a, b), (c, d) = scaled_rotation(1.0, np.cos(0.3), np.sin(0.3))
    half = square.side / 2
    origin = np.array([square.x - (a * half + b * half), square.y - (c * half + d * half)])
    out = np.eye(3)
    out[:2, :2] = scaled_rotation(64 / square.side, np.cos(0.3), -np.sin(0.3))
    out[:2, 2] = -(out[:2, :2] @ origin)
    assert np.array_equal(image_to_crop(square, 64), out)
    line = ((torch.arange(64) + 0.5) / 64 - 0.5) * SQUARES[:, 2:]
    half, (x, y) = torch.full((3, 1, 1), 50.0), (line[:, None, :], line[:, :, None])
    u, v = x + SQUARES[:, 0, None, None], y + SQUARES[:, 1, None, None]
    old = torch.maximum((u - half).abs(), (v - half).abs()) <= half
    sizes = torch.full((3,), 100.0)
    assert torch.equal(find_inside(SQUARES, sizes, 64, torch.zeros(3))[:, 0], old)


@pytest.mark.parametrize("side, angle", [(90.0, 0.0), (50.0, 0.3), (400.0, 0.0)])
def test_a_rectangle_is_the_middle_of_the_square_on_the_host(side, angle):
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    square = Square(80.3, 60.7, side, angle)
    whole = cut_square(image, square, 64).astype(int)
    assert np.abs(cut_square(image, square, TALL) - whole[:, STRIP]).max() <= 1
    assert np.abs(cut_square(image, square, WIDE) - whole[STRIP]).max() <= 1


def test_cameras_see_what_rectangles_show():
    K = torch.tensor([[120.0, 0, 52], [0, 110, 49], [0, 0, 1]]).repeat(3, 1, 1)
    whole, turn = on_device.crop_cameras(K, SQUARES, ANGLES, 64)
    tall, same = on_device.crop_cameras(K, SQUARES, ANGLES, TALL)
    assert torch.equal(turn, same)
    whole[:, 0, 2] -= 8
    torch.testing.assert_close(tall, whole)
    square = Square(50.0, 47.0, 90.0)
    at = image_to_crop(square, TALL) @ K[0].numpy().astype(float)
    assert crop_camera_of(square, K[0].numpy(), TALL) == pytest.approx(at)
    torch.testing.assert_close(
        torch.from_numpy(at).float(), on_device.crop_cameras(K, SQUARES, 0 * ANGLES, TALL)[0][0]
    )
    flip = torch.tensor([True, False, True])
    mirrored = on_device.mirror_cameras(tall, flip, TALL)
    torch.testing.assert_close(
        mirrored[:, 0, 2], torch.where(flip, 48 - tall[:, 0, 2], tall[:, 0, 2])
    )


@pytest.mark.parametrize(
    "box, size, side",
    [
        ([0, 0, 30, 80], TALL, 80),
        ([0, 0, 80, 80], TALL, 80 * 64 / 48),
        ([0, 0, 80, 30], TALL, 80 * 64 / 48),
        ([0, 0, 80, 30], WIDE, 80),
        ([0, 0, 80, 30], 64, 80),
    ],
)
def test_a_rectangle_around_a_box_shows_it_and_no_more(box, size, side):
    square = square_around(box, 1.25, size)
    assert square.side == pytest.approx(1.25 * side)
    shown = square.find_box(size)
    assert (shown[:2] <= np.array(box[:2])).all() and (shown[2:] >= np.array(box[2:])).all()
    wide, high = shown[2:] - shown[:2]
    assert min(wide / (box[2] - box[0]), high / (box[3] - box[1])) == pytest.approx(1.25)
    rows, columns = find_sides(size)
    assert wide / high == pytest.approx(columns / rows)
    squares, _ = check_boxes([box], 100, 100, 1.25, size)
    assert squares == [square]


@pytest.mark.parametrize("box", [[12, 4, 40, 60], [2, 20, 62, 44], [10, 10, 50, 52]])
@pytest.mark.parametrize("size", [TALL, WIDE, 64])
def test_squares_of_shards_grow_as_boxes_ask_for(box, size):
    """A shard's square is 1.25 times the box's longer side; see data.cropping.geometry."""
    x0, y0, x1, y1 = box
    person = torch.zeros(1, 64, 64)
    person[:, y0:y1, x0:x1] = 1
    before = square_around(box, 1.25)
    squares = torch.tensor([[before.x, before.y, before.side]], dtype=torch.float32)
    grown = on_device.fit_rectangles(squares, person, size)
    wanted = square_around(box, 1.25, size)
    assert grown[0].tolist() == pytest.approx([wanted.x, wanted.y, wanted.side])
    for unknown in (torch.ones(1, 64, 64), torch.zeros(1, 64, 64)):
        whole = on_device.fit_rectangles(squares, unknown, size)
        assert float(whole[0, 2]) == pytest.approx(before.side * (64 / min(find_sides(size))))


def bits_of(masks):
    return torch.from_numpy(np.packbits(masks.numpy().astype(bool).reshape(len(masks), -1), axis=1))


def make_masks(wide=20):
    masks = torch.zeros(3, 64, 64)
    masks[:, 6:60, 32 - wide // 2 : 32 + wide // 2] = 1
    return masks


def test_augmentation_of_rectangles_is_that_of_their_squares():
    pixels = (images().permute(0, 2, 3, 1) * 255).byte()
    numbers = torch.cat([SQUARES, torch.full((3, 3), 1.1)], 1)
    numbers[:, 3:5] = 1.0  # contrast is relative to the mean of what is shown
    whole, tall = augment(pixels, numbers, 64), augment(pixels, numbers, TALL)
    torch.testing.assert_close(tall, whole[..., STRIP], atol=1e-3, rtol=0)
    bits, sizes = bits_of(make_masks()), torch.full((3,), 100.0)
    whole = crop_masks(bits, numbers, sizes, 16)
    tall = crop_masks(bits, numbers, sizes, (16, 12))
    torch.testing.assert_close(tall, whole[..., 2:14], atol=1e-5, rtol=0)
    assert person_share(tall, (4, 3)).shape == (3, 12)
    for find in (
        lambda size: crop_person(bits, SQUARES, sizes, size, ANGLES),
        lambda size: find_inside(SQUARES, sizes, size, ANGLES).float(),
    ):
        torch.testing.assert_close(find(TALL), find(64)[..., STRIP], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [TALL, WIDE])
def test_appearance_of_rectangles(size):
    keys = AppearanceKeys(
        background_share=0.7, occluder_share=0.7, truncate_share=0.7, degrade_share=0.7, tone=0.3
    )
    change = Appearance(keys, torch.device("cpu"))
    look = torch.rand(8, DRAWS, generator=seeded(3))
    squares = SQUARES[:1].repeat(8, 1)
    bits = bits_of(make_masks()[:1].repeat(8, 1, 1))
    before = on_device.crop_squares(images(8), squares, size)
    after = change(before.clone(), look, bits, squares, torch.full((8,), 100.0), torch.zeros(8))
    assert after.shape == (8, 3, *size) and torch.isfinite(after).all()
    assert after.min() >= 0 and after.max() <= 1 and (after - before).abs().mean() > 0.02


def model_config(size, position="cosine", **more):
    return ModelConfig(
        size, 16, position, encoder=EncoderConfig(32, 2, 2), decoder=DecoderConfig(32, 1, 2), **more
    )


@pytest.mark.parametrize("position", ["cosine", "rope", "learnt"])
def test_a_network_of_rectangles(position, tmp_path):
    config = model_config([64, 48], position)
    config.check()
    assert config.grid() == (4, 3) and config.size == TALL
    model = CrossCompletion(config).eval()
    a, b = torch.randn(2, 3, *TALL), torch.randn(2, 3, *TALL)
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[:, :9] = True
    loss = model(a, b, mask).square().mean()
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    ratio = flops(config, 3) / flops(model_config(64, position), 3)
    assert 0.5 < ratio < 1
    weights.save_model(model, tmp_path / "m.safetensors")
    with torch.no_grad():
        wanted = model.encode(a)
        assert torch.equal(weights.load(tmp_path / "m.safetensors").encode(a), wanted)
    weights.export(tmp_path / "m.safetensors", tmp_path / "e.safetensors")
    about = json.loads((tmp_path / "e.json").read_text())
    assert about["input_size"] == [3, 64, 48]
    assert "64 x 48 px" in (tmp_path / "e.md").read_text()
    other = timm.create_model(
        about["architecture"],
        **about["model_args"],
        checkpoint_path=str(tmp_path / "e.safetensors"),
    ).eval()
    with torch.no_grad():
        found = other.fc_norm(other.forward_features(a))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    if position == "rope":
        weights.export(tmp_path / "m.safetensors", tmp_path / "c.pth", layout="croco")
        with torch.no_grad():
            assert torch.equal(weights.load(tmp_path / "c.pth").encode(a), wanted)


@pytest.mark.parametrize("span", [0.0, 4.0])
@pytest.mark.parametrize("position", ["cosine", "rope", "learnt"])
def test_weights_of_squares_start_a_network_of_rectangles(position, span, tmp_path, capsys):
    if position == "learnt" and span:
        return
    model = CrossCompletion(model_config(64, position)).eval()
    weights.save_model(model, tmp_path / "m.safetensors")
    config = model_config([96, 48], position, position_span=span)
    encoder = Encoder(config).eval()
    weights.init_encoder(encoder, config, tmp_path / "m.safetensors")
    said = capsys.readouterr().err
    assert ("trained on 4 x 4 patches, here are 6 x 3" in said) == (position != "learnt")
    if position == "learnt":
        wanted = resample_abs_pos_embed(model.encoder.pos_embed, [6, 3], num_prefix_tokens=0)
        torch.testing.assert_close(encoder.pos_embed, wanted)
    places = table(config, config.encoder, config.grid())
    if span and position == "cosine":
        # What lies between the vectors of the old patches is nearly their interpolation.
        old = table(model.config, config.encoder, (4, 4))
        moved = resample(old[None], (4, 4), (6, 3))[0]
        assert (moved - places).abs().mean() < 0.06
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, 96, 48), places).shape == (1, 18, 32)


def test_an_interpolated_rope_is_the_old_one_at_the_middles():
    """Places of 8 patches with a span of 4 lie between those of 4: angles differ by halves."""
    config = model_config(128, "rope", position_span=4.0)
    fine = table(config, config.encoder, (8, 8)).unflatten(0, (8, 8))
    old = table(model_config(64, "rope"), config.encoder, (4, 4)).unflatten(0, (4, 4))

    def apart(tables, i, j):
        one, two = (torch.view_as_complex(tables[i, i].contiguous()) for i in (i, j))
        return two / one

    torch.testing.assert_close(apart(fine, 1, 5), apart(old, 0, 2), atol=1e-5, rtol=0)


def test_a_probe_of_a_network_of_rectangles_sees_whole_squares():
    model = CrossCompletion(model_config([64, 48])).eval()
    frozen = encoders.of_network(model)
    assert frozen.size == 64 and frozen(torch.randn(2, 3, 64, 64)).shape == (2, 32, 4, 4)


def test_panels_of_rectangles():
    shown = np.zeros((2, 4, *TALL, 3), np.uint8)
    sheet = panels.sheet(shown, ["a", "b"], "step 1")
    looks, places = np.full((2, 3, 12), 1 / 12), np.array([[0, 5, 11]] * 2)
    looks[:, :, 11] = 0.5
    drawn = panels.attention_sheet(shown, places, [looks], ["block 1"], ["a", "b"], "s", (4, 3))
    assert sheet.width < sheet.height * 2 and drawn.width > sheet.width


def test_the_camera_of_a_rectangular_crop():
    K = torch.tensor([[150.0, 0, 20], [0, 140, 37], [0, 0, 1]]).repeat(2, 1, 1)
    points = torch.tensor([[0.1, -0.2, 3.0], [-0.3, 0.1, 5.0]])
    for size in (TALL, WIDE, 64):
        there = to_image_translation(points, K, size)
        torch.testing.assert_close(to_translation(there, K, size), points)
    # The middle moves with the strip; lengths are shares of the longer side.
    moved = K.clone()
    moved[:, 0, 2] += 8
    torch.testing.assert_close(
        to_image_translation(points, K, TALL), to_image_translation(points, moved, 64)
    )
    torch.testing.assert_close(describe_camera(K, TALL), describe_camera(moved, 64))
    pixels = project_points(points[:, None], K)
    assert to_shares(pixels, TALL)[0, 0].tolist() == pytest.approx(
        [(25 - 24) / 64, (37 - 140 / 15 - 32) / 64], abs=1e-6
    )


def test_maps_of_rectangles_tell_places_in_both_directions():
    maps = KeypointMaps(8, (4, 3), 2, 1)
    logits = torch.full((1, 1, 8, 6), -20.0)
    logits[0, 0, 1, 4] = 20.0
    x, y, sure = maps.read(logits)[0, 0].tolist()
    assert (x, y, sure) == pytest.approx(((4.5 - 3) / 8, (1.5 - 4) / 8, 1.0), abs=1e-4)
    at = torch.tensor([[[4.5 / 6, 1.5 / 8]]])
    right, wrong = compare_maps(logits, at), compare_maps(logits, at.flip(-1))
    assert float(right) < float(wrong)


@pytest.mark.parametrize("size", [TALL, WIDE, 64])
@pytest.mark.parametrize("mirrored", [False, True])
def test_joints_of_a_head_without_a_mesh_come_back_into_the_image(size, mirrored):
    box, at = np.array([30.0, 20, 110, 80]), np.array([[60.5, 33.25], [31.0, 79.0]])
    square = square_around(box, 1.25, size)
    camera = crop_camera_of(square, np.eye(3), size)
    asked = Asked("left_hand", box, square.find_box(size), camera, size, mirrored)
    crop = at @ image_to_crop(square, size)[:2, :2].T + image_to_crop(square, size)[:2, 2]
    if mirrored:
        crop[:, 0] = find_sides(size)[1] - crop[:, 0]
    points, _ = place_points(asked, ImagePrediction(keypoints_2d=torch.from_numpy(crop)[None]), 0)
    assert points == pytest.approx(at)


@pytest.mark.parametrize("size", [TALL, WIDE])
def test_a_head_of_joints_is_right_where_its_maps_are(size):
    """A map that is high at a joint alone: no distance, next to no loss, and inside."""
    config = model_config(list(size))
    head = KeypointHead(config, KeypointsConfig(), open_model("anny_hand"))
    pixel = torch.tensor([[[10.0, 34.0], [38.0, 6.0]]])
    true = TruePoints(pixel / 64, *[torch.ones(1, 2, dtype=torch.bool)] * 3)
    assert find_inside_image(true.points, size).all()
    assert not find_inside_image(true.points.flip(-1) + 0.4, size).all()
    rows, columns = (side // 4 for side in size)
    logits = torch.full((1, 2, rows, columns), -20.0)
    for joint, (x, y) in enumerate((pixel[0] // 4).int().tolist()):
        logits[0, joint, y, x] = 20.0
    places = read_maps(logits) * lengths_of(size, pixel)
    found = ImagePrediction(maps=logits, keypoints_2d=places)
    losses = {name: float(f(found, true)) for name, _, f in head.list_comparisons()}
    assert losses["points"] < 1e-4
    wrong = ImagePrediction(maps=logits.flip(1), keypoints_2d=places)
    assert losses["maps"] < float(head._compare_maps(wrong, true))


def test_networks_that_answer_in_other_images_are_not_judged_side_by_side(monkeypatch):
    head = KeypointHead(model_config(64), KeypointsConfig(), open_model("anny_hand"))

    def stand_in(size):
        keys = SimpleNamespace(
            model=SimpleNamespace(size=size), head=SimpleNamespace(name="keypoints")
        )
        body = SimpleNamespace(name="anny_hand")
        return SimpleNamespace(config=keys, model=SimpleNamespace(head=head), body=body)

    monkeypatch.setattr(evaluate, "Predictor", lambda *_: stand_in((64, 48)))
    with pytest.raises(UserError, match="beside=b has model.image_size=64 x 48, run=a 64: answers"):
        evaluate._beside(EvaluateConfig(run="a", beside="b"), stand_in(64))


@pytest.mark.parametrize("wide, grown", [(20, 1.0), (54, 64 / 48)])
def test_a_view_of_a_labelled_crop(wide, grown):
    count = 3
    numbers = torch.tensor([[50.0, 50, 90, 0.2, 0, 1, 1, 1]] * 2 + [[50.0, 50, 90, 0, 1, 1, 1, 1]])
    tags = torch.zeros(count, 10, dtype=torch.int32)
    tags[:, -1] = 100
    batch = {
        "pixels": (images().permute(0, 2, 3, 1) * 255).byte(),
        "numbers": numbers,
        "K": torch.tensor([[150.0, 0, 50], [0, 150, 50], [0, 0, 1]]).repeat(count, 1, 1),
        "tags": tags,
        "mask": bits_of(make_masks(wide)),
    }
    tall = view(batch, TALL)
    larger = numbers.clone()
    larger[:, 2] *= grown
    whole = view({**batch, "numbers": larger}, 64)
    torch.testing.assert_close(tall.images, whole.images[..., STRIP], atol=1e-4, rtol=0)
    points = torch.tensor([[[0.1, 0.3, 2.0]]]).repeat(count, 1, 1)
    at, of_whole = (project_points(points, seen.K)[:, 0] for seen in (tall, whole))
    torch.testing.assert_close(at, of_whole - torch.tensor([8.0, 0]))
    plain = plain_view(batch, TALL)
    torch.testing.assert_close(plain.K[0, :2, 2], torch.tensor([24.0, 32.0]))


RECTANGLE = "model.image_size=[64,48]"


def test_people_are_recovered_in_rectangles(tmp_path):
    """What the network is asked is the crop that the view of such a label shows."""
    run = make_run(tmp_path / "run", "hand", RECTANGLE, "model.patch=16")
    predictor = Predictor(run, "cpu")
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    box = [30, 20, 110, 80]
    (person,) = predictor(image, [box])
    assert np.isfinite(person.vertices).all() and person.vertices[:, 2].min() > 0
    square = square_around(box, predictor.config.margin, TALL)
    crops, K = predictor.cut_crops(image, np.eye(3), [square], torch.zeros(1, dtype=torch.bool))
    assert crops.shape == (1, 3, *TALL)
    assert K[0].numpy() == pytest.approx(image_to_crop(square, TALL), abs=1e-4)
    other = predictor(image[:, :140], [box], sides=["left"])
    assert np.isfinite(other[0].vertices).all()


def test_a_whole_network_goes_on_with_rectangles(tmp_path):
    run = make_run(tmp_path / "run", "hand", "model.image_size=128", "model.patch=16")
    before = parse(FinetuneConfig, [str(run / "config.yaml")], "finetune train")
    after = dataclasses.replace(before, init=str(run), init_head=True)
    after.model = dataclasses.replace(before.model, image_size=[160, 128], position_span=8.0)
    model = after.make_network(open_model(after.body_model))
    begin_from(model, after)
    assert torch.equal(model.head.compress.weight, Predictor(run, "cpu").model.head.compress.weight)
    after.model.image_size = [64, 48]
    with pytest.raises(
        UserError, match=r"has images of 128 px and head.read.0.weight of .* 64 x 48"
    ):
        begin_from(after.make_network(open_model(after.body_model)), after)


@dataclass
class Keys(VisionConfig):
    pass


@pytest.mark.parametrize(
    "text, value",
    [("[256,192]", [256, 192]), ("256,192", [256, 192]), ("[224,224]", 224), ("224", 224)],
)
def test_the_key_takes_a_side_or_two(text, value, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("command: x\n")
    config = parse(Keys, [str(path), f"image_size={text}"], "x")
    assert config.image_size == value
    save(config, tmp_path / "b.yaml", "x")
    assert parse(Keys, [str(tmp_path / "b.yaml")], "x") == config
    assert ("image_size: 224\n" in (tmp_path / "b.yaml").read_text()) == (value == 224)
    path.write_text("command: x\nimage_size: [256, 192]\n")
    assert parse(Keys, [str(path)], "x").grid() == (16, 12)
    assert "int[,int]" in help_text(Keys, "x")


@pytest.mark.parametrize(
    "text, words",
    [
        ("[256,190]", r"image_size=\[256, 190\] is not a multiple of model.patch=16"),
        ("[256,192,3]", r"a whole number is wanted, or \[rows,columns\]"),
        ("[]", r"a whole number is wanted, or \[rows,columns\]"),
        ("[256,x]", "a whole number is wanted"),
        ("[256,4]", "below 8"),
        ("1e9x", "a whole number is wanted"),
    ],
)
def test_sides_that_are_none(text, words):
    with pytest.raises(UserError, match=words):
        parse_keys(Keys, [f"image_size={text}"], "x", 0)


def test_headers_of_squares_are_what_they_were(tmp_path):
    weights.save_model(CrossCompletion(model_config(64)), tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        said = json.loads(file.metadata()["model"])
    assert said["image_size"] == 64 and said == dataclasses.asdict(model_config(64))
    assert math.prod(weights.load(tmp_path / "m.safetensors").grid) == 16
