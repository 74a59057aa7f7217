"""Lenses and calibration files, against OpenCV and against real calibrated takes."""

import csv
import json

import cv2
import numpy as np
import pytest

from data.cropping.geometry import square_of_box
from data.cropping.host import cut_square
from data.cropping.lens import distort, fold_radius
from data.sources.cameras import (
    Camera,
    fit_to_video,
    project_distorted,
    read_cameras,
    undistort_pixels,
)
from data.sources.crop_parts import turn_camera, turned_square
from engine.errors import UserError
from engine.geometry import crop_intrinsics, project, triangulate

HALF = np.array([0.5, 0.5])


def _camera(distortion, fisheye=False, skew=0.0):
    K = np.array([[900.0, skew, 640.5], [0, 905.0, 360.5], [0, 0, 1]])
    Rt = np.concatenate([cv2.Rodrigues(np.array([0.1, -0.2, 0.3]))[0], [[0.1], [0.0], [2.0]]], 1)
    lens = np.zeros(8)
    lens[: len(distortion)] = distortion
    return Camera("a", K, lens, Rt, 1280, 720, fisheye)


LENSES = (
    [0.0] * 8,
    [-0.33, 0.05, -0.004, 0.004],
    [-0.33, 0.05, -0.004, 0.004, 0.07, 0, 0, 0],
    [0.18, -0.25, 0.003, 0.002, 0.12, 0.01, 0.02, 0.003],
)
FISHEYE = [0.05, -0.01, 0.003, -0.0005]
CAMERAS = {
    **{f"{len(lens)}-{lens[0]}": _camera(lens) for lens in LENSES},
    "fisheye": _camera(FISHEYE, True),
    "fisheye-plain": _camera([0.0] * 4, True),
    "skewed": _camera(LENSES[2], skew=9.0),
    "skewed-fisheye": _camera(FISHEYE, True, 9.0),
}


def _by_opencv(camera, points):
    """Where OpenCV puts world points: to unit depth, as it knows no skew, then by K."""
    rvec, t = cv2.Rodrigues(camera.Rt[:, :3])[0], camera.Rt[:, 3]
    if camera.fisheye:
        flat = np.asarray(points, np.float64).reshape(-1, 1, 3)
        bent = cv2.fisheye.projectPoints(flat, rvec, t, np.eye(3), camera.distortion[:4])[0]
    else:
        bent = cv2.projectPoints(points, rvec, t, np.eye(3), camera.distortion)[0]
    return bent.reshape(-1, 2) @ camera.K[:2, :2].T + camera.K[:2, 2]


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_lens_agrees_with_opencv(camera):
    points = np.random.default_rng(0).normal(0, 0.4, (50, 3))
    truth = _by_opencv(camera, points)
    pixels, depth = project_distorted(camera, points)
    np.testing.assert_allclose(pixels, truth, atol=1e-8)
    ideal, _ = project(points, camera.K, camera.Rt)
    near = np.linalg.norm(ideal - camera.K[:2, 2], axis=1) < 500
    np.testing.assert_allclose(undistort_pixels(camera, pixels)[near], ideal[near], atol=1e-3)
    assert (depth > 0).all()


def test_beyond_the_fold_nothing_is_seen():
    lens = np.array([-0.3, 0, 0, 0, 0, 0, 0, 0])
    assert fold_radius(lens) == pytest.approx((1 / 0.9) ** 0.5, abs=0.003)
    assert np.isfinite(distort(np.array([1.0, 0.0]), lens)).all()
    assert np.isnan(distort(np.array([1.1, 0.0]), lens)).all()
    white = np.full((720, 1280, 3), 255, np.uint8)
    wide = cut_square(white, square_of_box([-2000, -2320, 3280, 2960]), 128, _camera(lens))
    assert wide[64, 64].min() > 250
    assert wide[64, 0].max() == 0 and wide[0, 0].max() == 0


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize("side", [150, 700])
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_point_lands_where_the_crops_intrinsics_say(camera, side, turns):
    """A soft dot drawn where OpenCV projects a point; its centre of mass in the crop, turned or
    not, against the crop's K and Rt."""
    point = np.array([0.25, 0.15, 0.1])
    at = _by_opencv(camera, point[None])[0]
    y, x = np.mgrid[:720, :1280] + 0.5
    dot = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 6.0**2))
    image = np.repeat((250 * dot).astype(np.uint8)[..., None], 3, 2)
    middle = np.round(undistort_pixels(camera, at)) + [11, -7]
    box = [middle[0] - side / 2, middle[1] - side / 2, middle[0] + side / 2, middle[1] + side / 2]
    square = turned_square(square_of_box(box), turns)
    crop = cut_square(image, square, 128, camera)[..., 0].astype(float)
    v, u = np.mgrid[:128, :128] + 0.5
    found = np.array([(crop * u).sum(), (crop * v).sum()]) / crop.sum()
    expected, _ = project(point, *turn_camera(camera.K, camera.Rt, square, turns, 128))
    np.testing.assert_allclose(found, expected, atol=0.08)


def test_shrinking_averages_and_the_outside_is_black():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    crop = cut_square(image, square_of_box([8, 0, 72, 64]), 16)
    np.testing.assert_allclose(
        crop, image[:, 8:72].reshape(16, 4, 16, 4, 3).mean((1, 3)), atol=0.51
    )
    crop = cut_square(image, square_of_box([3, 5, 35, 37]), 32)
    np.testing.assert_array_equal(crop, image[5:37, 3:35])
    outside = cut_square(image, square_of_box([-32, 0, 32, 64]), 64)
    assert outside[:, :31].max() == 0
    np.testing.assert_array_equal(outside[:, 32:], image[:, :32])


def test_video_a_few_pixels_narrower_is_a_shift():
    camera = _camera([0.0] * 8)
    fitted = fit_to_video(camera, 1272, 720, (3, 0))
    assert (fitted.width, fitted.K[0, 2], camera.K[0, 2]) == (1272, 637.5, 640.5)
    with pytest.raises(UserError, match=r"camera a.*1920x1080.*1280x720"):
        fit_to_video(camera, 1920, 1080)


def _write(path, text):
    path.write_text(text)
    return str(path)


def test_opencv_json_gains_half_a_pixel(tmp_path):
    entry = {
        "name": "left",
        "size": [640, 480],
        "K": [[500, 0, 320], [0, 500, 240], [0, 0, 1]],
        "distortion": [0.1, 0.01],
        "R": np.eye(3).tolist(),
        "t": [0, 0, 1],
    }
    camera = read_cameras(_write(tmp_path / "c.json", json.dumps({"cameras": [entry]})), "opencv")[
        "left"
    ]
    assert camera.K[0, 2] == 320.5 and camera.distortion.tolist() == [0.1, 0.01, 0, 0, 0, 0, 0, 0]
    entry["R"] = [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    with pytest.raises(UserError, match="c.json.*left.*rotation"):
        read_cameras(_write(tmp_path / "c.json", json.dumps({"cameras": [entry]})), "opencv")


WRONG = (
    ("opencv", "{"),
    ("opencv", "{}"),
    ("opencv", '{"cameras": [{"name": 1}]}'),
    ("caliscope", "[camera"),
    ("caliscope", "a = 1"),
    ("qualisys", "<a>"),
    ("qualisys", "<a/>"),
)


@pytest.mark.parametrize(("kind", "text"), WRONG)
def test_wrong_calibration_is_named(tmp_path, kind, text):
    with pytest.raises(UserError, match="wrong.txt"):
        read_cameras(_write(tmp_path / "wrong.txt", text), kind)
    with pytest.raises(UserError, match="missing.txt.*no such file"):
        read_cameras(str(tmp_path / "missing.txt"), kind)


def _table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_desk_board_reprojects_through_undistorted_crops(samples):
    """3D corners through a crop's K and Rt against the annotated 2D corners through undistortion
    and crop."""
    cameras = read_cameras(str(samples / "desk_4cam/camera_array.toml"), "caliscope")
    corners = {
        (r["sync_index"], r["keypoint_id"]): [
            float(r[c]) for c in ("x_coord", "y_coord", "z_coord")
        ]
        for r in _table(samples / "desk_4cam/xyz_CHARUCO.csv")
    }
    box, size = (250, -40, 1050, 760), 256
    errors = []
    for row in _table(samples / "desk_4cam/xy_CHARUCO.csv"):
        key = row["sync_index"], row["keypoint_id"]
        if key in corners:
            camera = cameras["cam_" + row["cam_id"]]
            drawn = undistort_pixels(
                camera, np.array([float(row["img_loc_x"]), float(row["img_loc_y"])]) + HALF
            )
            mapped = (drawn - box[:2]) * size / 800
            found, _ = project(
                corners[key], crop_intrinsics(camera.K, box, (size, size)), camera.Rt
            )
            errors.append(np.linalg.norm(found - mapped) * 800 / size)
    assert len(errors) > 2000
    assert np.median(errors) < 1.3  # source pixels; 1.15 is what the calibration itself leaves


def test_treadmill_cap_is_one_point_in_all_cameras(samples):
    """The teal cap found by colour near the projected head, triangulated: it must be where the
    track says."""
    cameras = read_cameras(str(samples / "treadmill_4cam/Calib.qca.txt"), "qualisys")
    assert [(c.width, c.height) for c in cameras.values()] == [(1088, 1920)] * 4
    heads = np.array(
        [
            [float(r[c]) for c in ("x_m", "y_m", "z_m")]
            for r in _table(samples / "treadmill_4cam/head.csv")
        ]
    )
    found = []
    for name, camera in cameras.items():
        capture = cv2.VideoCapture(str(samples / f"treadmill_4cam/{name}.mp4"))
        image = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2HSV)
        capture.release()
        at, depth = project_distorted(camera, heads[0])
        assert 1 < depth < 6
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        teal = cv2.inRange(image, (82, 80, 40), (102, 255, 255)) > 0
        teal &= (np.abs(x - at[0]) < 70) & (np.abs(y - at[1]) < 70)
        assert teal.sum() > 300, name
        found.append(
            undistort_pixels(camera, np.array([[np.median(x[teal]), np.median(y[teal])]]) + HALF)
        )
    point = triangulate(found, [c.K for c in cameras.values()], [c.Rt for c in cameras.values()])[0]
    assert np.linalg.norm(point - heads[0]) < 0.08
    for camera, pixel in zip(cameras.values(), found, strict=True):
        assert np.linalg.norm(project(point, camera.K, camera.Rt)[0] - pixel[0]) < 25
