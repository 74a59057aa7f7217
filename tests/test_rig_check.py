"""`data stats` on takes whose cameras are known: good ones, a turned one, a late one."""

import csv
from collections import defaultdict
from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
from clips import write_shards

from data.format.clip import MADE, Clip, Crop
from data.format.labels import Keypoints, Labels
from data.sampling.pairs import PairRules
from data.sources.cameras import read_cameras, undistort_pixels
from data.tools.epipolar import MOST_ROWS, Sights
from data.tools.rig_check import GOOD, PairError, judge_take, pair_errors
from data.tools.stats import describe, merge, tally_shard

SIZE, JOINTS, FPS, CENTRE_PX = 128, 17, 30.0, 64.0
IMAGE = simplejpeg.encode_jpeg(np.full((SIZE, SIZE, 3), 90, np.uint8), colorspace="RGB")


def camera_at(angle_rad, height_m):
    """(K, Rt) of a camera 3 m from the z axis that looks at the origin."""
    centre = np.array([3 * np.sin(angle_rad), -3 * np.cos(angle_rad), height_m])
    forward = -centre / np.linalg.norm(centre)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    K = np.array([[170.0, 0, CENTRE_PX], [0, 170, CENTRE_PX], [0, 0, 1]])
    return K, np.column_stack([R, -R @ centre])


CAMERAS = {
    name: camera_at(angle, height)
    for name, angle, height in (
        ("cam1", 0.0, 0.3),
        ("cam2", 1.1, 0.9),
        ("cam3", 2.3, -0.2),
        ("cam4", 4.0, 0.6),
    )
}


def body(time_s):
    """(J, 3) metres: joints that swing, each at its own pace."""
    still = np.random.default_rng(5).uniform(-0.5, 0.5, (JOINTS, 3))
    phase = np.random.default_rng(6).uniform(0, 6, (JOINTS, 3))
    return still + 0.3 * np.sin(2.2 * time_s + phase)


def take(
    folder,
    names=tuple(CAMERAS),
    late=None,
    turned=None,
    noise_px=1.0,
    clips=12,
    source="t",
    per_shard=5,
):
    """The tally of a shard of clips of 5 instants, labelled by projection.

    Args:
        late: {camera: seconds}.  turned: {camera: degrees} between the lens that filmed and the
            calibration in the clip.
    """
    noise, made = np.random.default_rng(1), []
    for number in range(clips):
        crops, points = [], []
        for instant in range(5):
            time_s = 0.5 * number + 0.2 * instant
            for name in names:
                K, Rt = CAMERAS[name]
                world = body(time_s - (late or {}).get(name, 0.0))
                turn = cv2.Rodrigues(np.radians([0.6, 0.8, 0]) * (turned or {}).get(name, 0.0))[0]
                rvec, t = cv2.Rodrigues(turn @ Rt[:, :3])[0], turn @ Rt[:, 3]
                seen = cv2.projectPoints(world, rvec, t, K, np.zeros(5))[0][:, 0]
                points.append(seen + noise.normal(0, noise_px, seen.shape))
                crops.append(Crop(name, round(time_s, 6), "body", K.tolist(), Rt.tolist()))
        points = np.array(points, np.float32)
        confidence = np.ones(points.shape[:2], np.float32)
        confidence[:, 3], points[:, 3] = 0.1, 7.0  # a joint that nobody is sure of
        instant = np.arange(len(crops))
        labels = Labels(instant, keypoints=Keypoints("coco17", points, confidence, None))
        jpegs = [IMAGE] * len(crops)
        key, track = f"walk-{number:06d}", "walk/ann"
        clip = Clip(key, source, "CC0-1.0", "ann", SIZE, crops, jpegs, labels=labels, track=track)
        made.append(clip)
    return merge([tally_shard(path) for path in write_shards(folder, made, per_shard)])


def told(tally):
    return describe(tally, PairRules())


def test_a_good_take_is_said_to_fit(tmp_path):
    tally = take(tmp_path)
    text = told(tally)
    assert "t, walk: calibration and synchronisation fit: " in text
    pairs = pair_errors(tally.rigs)["t", "walk"]
    assert len(pairs) == 6 and all(0 < pair.error < GOOD for pair in pairs)
    assert all(pair.delay_s == 0 for pair in pairs)


def test_the_distance_is_what_triangulation_leaves(tmp_path):
    """Without noise nothing is left; with noise of s pixels about s from the line."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    exact = pair_errors(take(tmp_path / "a", noise_px=0.0).rigs)["t", "walk"]
    assert max(pair.error for pair in exact) < 1e-4
    noisy = pair_errors(take(tmp_path / "b", noise_px=2.0).rigs)["t", "walk"]
    # Two points of noise s each, one of them carried over by the lens: s to 1.6 s in the median.
    assert all(0.5 < pair.error * SIZE / 2.0 < 1.6 for pair in noisy)


def test_a_turned_camera_stands_out(tmp_path):
    text = told(take(tmp_path, turned={"cam3": 2.0}))
    assert "camera cam3 does not fit the others" in text
    assert "the error does not grow with the motion: check its calibration" in text


@pytest.mark.parametrize("delay", [0.2, -0.15])
def test_a_late_camera_stands_out_with_its_delay(tmp_path, delay):
    tally = take(tmp_path, late={"cam2": delay})
    text = told(tally)
    assert "camera cam2 does not fit the others" in text and "check its synchronisation" in text
    how = "late" if delay > 0 else "early"
    seconds = float(text.split("as if the camera were ")[1].split(" s")[0])
    assert f"{seconds:.2f} s {how}" in text and abs(seconds - abs(delay)) < 0.04


def test_two_cameras_tell_that_but_not_which(tmp_path):
    (tmp_path / "late").mkdir()
    (tmp_path / "off").mkdir()
    names = ("cam1", "cam2")
    text = told(take(tmp_path / "late", names, late={"cam2": 0.2}))
    assert "as if cam2 were 0." in text and "behind cam1: check the synchronisation" in text
    text = told(take(tmp_path / "off", names, turned={"cam2": 5.0}))
    assert "with two cameras nobody can tell which is wrong" in text


def test_rendered_clips_and_single_cameras_are_not_judged(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "one").mkdir()
    assert take(tmp_path / "made", source=MADE).rigs == {}
    assert take(tmp_path / "one", ("cam1",)).rigs == {}
    assert "how the cameras fit" not in told(take(tmp_path / "one", ("cam1",)))


def test_a_real_rig_fits_and_one_that_was_turned_or_is_late_does_not(samples):
    """The board's corners that caliscope found in the four videos of the desk."""
    cameras = read_cameras(str(samples / "desk_4cam/camera_array.toml"))
    with open(samples / "desk_4cam/xy_CHARUCO.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    seen = defaultdict(dict)
    for row in rows:
        at = np.array([float(row["img_loc_x"]), float(row["img_loc_y"])]) + 0.5
        place = "cam_" + row["cam_id"], int(row["sync_index"])
        seen[place][int(row["keypoint_id"])] = undistort_pixels(cameras["cam_" + row["cam_id"]], at)
    words = []
    for turned, late in ((0.0, 0), (2.0, 0), (0.0, 6)):
        rig = dict(cameras)
        turn = cv2.Rodrigues(np.radians([0.0, turned, turned]) / 2**0.5)[0]
        rig["cam_2"] = replace(rig["cam_2"], Rt=turn @ rig["cam_2"].Rt)
        sights = Sights()
        for index in sorted({index for _, index in seen}):
            shown = {c: seen.get((c, index - late * (c == "cam_2")), {}) for c in rig}
            names = [name for name, corners in shown.items() if corners]
            points = np.full((len(names), 64, 2), np.nan)
            for number, name in enumerate(names):
                for corner, at in shown[name].items():
                    points[number, corner] = at
            crops = [Crop(n, index / 20, "body", rig[n].K, rig[n].Rt) for n in names]
            clip = Clip(f"desk-{index}", "desk", "BSD", "board", 360, crops, track="desk/board")
            sights.add(clip, {"keypoints": points})
        words.append(judge_take(pair_errors(sights.measure())["desk", "desk"]))
    assert words[0].startswith("calibration and synchronisation fit: 0.")
    assert words[1].startswith("camera cam_2 does not fit") and "check its calibration" in words[1]
    assert words[2].startswith("camera cam_2 does not fit") and "check its sync" in words[2]
    seconds = float(words[2].split("as if the camera were ")[1].split(" s late")[0])
    assert 0.2 < seconds < 0.35  # 6 frames of 20 a second


def test_one_pair_that_is_off_is_no_bad_camera():
    """As of the real take of two people: cam01 and cam03 face each other."""
    errors = {"12": 0.015, "13": 0.039, "14": 0.012, "23": 0.014, "24": 0.012, "34": 0.012}
    pairs = [PairError(a, b, 200, error, 0.0, error) for (a, b), error in errors.items()]
    words = judge_take(pairs)
    assert words.startswith("calibration and synchronisation fit: 1.3 %") and "for 1 / 3," in words
    everywhere = [replace(pair, error=3 * pair.error) for pair in pairs]
    assert "fit each other badly, 3.9 %" in judge_take(everywhere)


def test_a_large_take_is_thinned(tmp_path):
    tally = take(tmp_path, ("cam1", "cam2"), clips=40, per_shard=40)
    assert [len(rows) for rows in tally.rigs.values()] == [MOST_ROWS]
