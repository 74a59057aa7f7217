"""What is known of a person goes into the crop by the same map as the pixels: turned, through the
lens, masks, keypoints and cameras."""

import cv2
import numpy as np
import pytest

from data.cropping.geometry import square_of_box
from data.cropping.host import cut_square
from data.find.detection import Detection, HandDetection, PersonMask
from data.format.labels import OUTSIDE, SEEN, Keypoints
from data.sources.cameras import Camera, project_distorted
from data.sources.crop_parts import cut_mask, move_keypoints, turn_camera, turned_square
from data.sources.cut import Style, cut_crop
from data.sources.plan import CropPlan

STYLE = Style(size=128, quality=95, source="test", licence="CC0-1.0", kind="body")


def make_camera(distortion=(0.0,) * 8):
    K = np.array([[300.0, 0, 161], [0, 310, 118], [0, 0, 1]])
    Rt = np.concatenate([cv2.Rodrigues(np.array([0.1, -0.2, 0.05]))[0], [[0.1], [0.2], [3.0]]], 1)
    return Camera("a", K, np.array(distortion), Rt, 320, 240)


@pytest.mark.parametrize("turns", range(4))
def test_a_turned_crop_is_the_crop_turned(turns):
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    square = square_of_box([16, 16, 80, 80])
    upright = cut_square(image, square, 64)
    turned = cut_square(image, turned_square(square, turns), 64)
    clockwise = np.rot90(upright, -turns).astype(int)
    assert np.abs(turned.astype(int) - clockwise).max() <= 1


@pytest.mark.parametrize("turns", range(4))
def test_the_camera_of_a_turned_crop_projects_to_the_turned_pixels(turns):
    camera = make_camera()
    square = turned_square(square_of_box([60, 20, 260, 220]), turns)
    K, Rt = turn_camera(camera.K, camera.Rt, square, turns, 128)
    assert abs(K[1, 0]) + abs(K[2, :2]).sum() < 1e-12 and K[0, 0] > 0 and K[1, 1] > 0
    assert np.allclose(Rt[:, :3] @ Rt[:, :3].T, np.eye(3)) and np.linalg.det(Rt[:, :3]) > 0
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (20, 3))
    pixels, _ = project_distorted(camera, points)
    moved = move_keypoints(Keypoints("coco17", pixels, np.ones(20)), square, 128, None).points
    at = points @ Rt[:, :3].T + Rt[:, 3]
    at = at @ K.T
    np.testing.assert_allclose(moved, at[:, :2] / at[:, 2:], atol=1e-3)
    # By hand: a quarter turn clockwise takes (x, y) of the upright crop to (128 - y, x).
    by_hand = (pixels - [60, 20]) * 128 / 200
    for _ in range(turns):
        by_hand = np.stack([128 - by_hand[:, 1], by_hand[:, 0]], 1)
    np.testing.assert_allclose(moved, by_hand, atol=1e-3)


def test_mask_and_keypoints_go_through_the_lens_as_the_pixels_do():
    camera = make_camera((-0.25, 0.08, 0.002, -0.001, 0, 0, 0, 0))
    image = np.zeros((240, 320, 3), np.uint8)
    cv2.circle(image, (220, 80), 30, (255, 255, 255), -1)
    inside = image[20:140, 160:280, 0] > 0
    found = Detection(
        np.array([190, 50, 250, 110]),
        keypoints=np.tile([220.5, 80.5, 0.5], (17, 1)),
        mask=PersonMask(np.array([160, 20, 280, 140]), inside),
    )
    box = np.array([150.0, 10, 290, 150])
    cut = cut_crop(image, CropPlan("v", 0, "a", 0.0, box, camera, found, 1), "body", STYLE)
    pixels = cv2.imdecode(np.frombuffer(cut.jpeg, np.uint8), cv2.IMREAD_COLOR)
    shown = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)[..., 0] >= 128
    assert cut.mask.sum() > 200
    assert (cut.mask ^ shown).sum() <= 0.04 * shown.sum()
    ys, xs = np.nonzero(pixels[..., 0] > 128)
    point = cut.labels.keypoints.points[0]
    np.testing.assert_allclose(point, [xs.mean() + 0.5, ys.mean() + 0.5], atol=0.7)
    assert cut.labels.keypoints.confidence[0] == 0.5


def test_a_mask_ends_with_its_square():
    mask = PersonMask(np.array([10, 10, 20, 20]), np.ones((40, 40), bool))
    cut = cut_mask(mask, square_of_box([0, 0, 64, 64]), 64, None)
    assert cut.sum() == 100 and cut[10:20, 10:20].all()


def test_a_hand_clip_has_the_hand_s_keypoints():
    points = np.concatenate(
        [np.random.default_rng(2).uniform(20, 60, (21, 2)), np.ones((21, 1))], 1
    )
    hand = HandDetection("left", np.array([20, 20, 60, 60]), keypoints=points)
    body = np.zeros((17, 3))
    found = Detection(np.array([0, 0, 90, 90]), keypoints=body, hands={"left": hand})
    image = np.zeros((100, 100, 3), np.uint8)
    plan = CropPlan("v", 0, "a", 0.0, np.array([10.0, 10, 74, 74]), None, found)
    labels = cut_crop(image, plan, "left_hand", STYLE).labels.keypoints
    assert labels.joint_set == "hand21"
    np.testing.assert_allclose(labels.points, (points[:, :2] - 10) * 2, atol=1e-4)
    assert cut_crop(image, plan, "right_hand", STYLE).labels.keypoints is None
    assert cut_crop(image, plan, "body", STYLE).labels.keypoints is None  # none was found


def test_keypoints_outside_the_crop_are_said_to_be():
    points = np.array([[5.0, 5], [50, 50]])
    moved = move_keypoints(
        Keypoints("x2", points, np.ones(2), np.array([SEEN, SEEN], np.uint8)),
        square_of_box([10, 10, 74, 74]),
        64,
        None,
    )
    assert moved.visible.tolist() == [OUTSIDE, SEEN]
