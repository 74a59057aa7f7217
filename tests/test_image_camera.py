"""Where the focal length of a photograph or video comes from, and lenses that predict undoes."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from networks import make_run
from PIL import Image

from data.find.detection import PersonMask
from data.sources.cameras import Camera, write_cameras
from data.sources.exif import read_exif_focal
from data.sources.images import read_image
from engine.errors import UserError
from finetune.__main__ import main
from finetune.inference.image_camera import CameraFinder, LensCorrection
from finetune.inference.search import Region

WIDTH, HEIGHT = 160, 120
FILM, FOCAL, ZOOM, WIDE, HIGH = 0xA405, 0x920A, 0xA404, 0xA002, 0xA003
DENSITY_X, DENSITY_Y, UNIT = 0xA20E, 0xA20F, 0xA210
SIZE = {WIDE: WIDTH, HIGH: HEIGHT}


def write_photo(path, tags, orientation=1, size=(WIDTH, HEIGHT)):
    """A photograph with EXIF, as Pillow writes it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769).update(tags)
    Image.effect_noise(size, 90).convert("RGB").save(path, exif=exif.tobytes())
    return str(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_the_diagonal_of_film_is_that_of_the_image(tmp_path, ending):
    told = read_exif_focal(write_photo(tmp_path / f"a.{ending}", {FILM: 28, FOCAL: 4.2, **SIZE}))
    # 28 mm sees 75.4 degrees along the diagonal (any table of lenses).
    across = 2 * math.degrees(math.atan(math.hypot(WIDTH, HEIGHT) / 2 / told.focal_px[0]))
    assert across == pytest.approx(75.4, abs=0.05) and told.focal_px[0] == told.focal_px[1]
    assert told.words == "EXIF: 28 mm on 35 mm film"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_sensor_of_known_pixels(tmp_path, orientation):
    # A sensor of 20 mm x 12 mm behind 50 mm: 8 and 10 pixels a mm.
    inch = {FOCAL: 50.0, DENSITY_X: 8 * 25.4, DENSITY_Y: 10 * 25.4, UNIT: 2, **SIZE}
    path = write_photo(tmp_path / "a.jpg", inch, orientation)
    height, width = read_image(path).shape[:2]
    wanted = (400.0, 500.0) if width > height else (500.0, 400.0)
    assert (width > height) == (orientation < 5)
    assert read_exif_focal(path).focal_px == pytest.approx(wanted)
    centimetres = inch | {DENSITY_X: 80.0, DENSITY_Y: 100.0, UNIT: 3}
    assert read_exif_focal(
        write_photo(tmp_path / "b.jpg", centimetres, orientation)
    ).focal_px == pytest.approx(wanted)


def test_pixels_that_were_turned_upright_have_the_same_lens(tmp_path):
    tags = {FOCAL: 50.0, DENSITY_X: 80.0, DENSITY_Y: 100.0, UNIT: 3, **SIZE}
    turned = write_photo(tmp_path / "a.jpg", tags, size=(HEIGHT, WIDTH))
    assert read_exif_focal(turned).focal_px == pytest.approx((500, 400))


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({FILM: 28, WIDE: 4000, HIGH: 3000}, "of an image of 4000 x 3000, this one has 160 x 120"),
        ({FILM: 28}, "not of which size"),
        ({FILM: 28, ZOOM: 2.0, **SIZE}, "digital zoom of 2"),
        ({FILM: 1, **SIZE}, "no lens"),
        ({FILM: 0, FOCAL: 4.2, **SIZE}, "4.2 mm, but not how large the sensor is"),
        ({FOCAL: 4.2, DENSITY_X: 80.0, DENSITY_Y: 80.0, UNIT: 1, **SIZE}, "how large the sensor"),
        (SIZE, ""),
    ],
)
def test_what_exif_says_and_nobody_can_believe(tmp_path, tags, words):
    told = read_exif_focal(write_photo(tmp_path / "a.jpg", tags))
    assert told.focal_px is None and words in told.words and bool(words) == bool(told.words)


def test_files_without_tags_or_of_broken_ones(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    path = Path(write_photo(tmp_path / "b.jpg", {FILM: 28, **SIZE}))
    data = path.read_bytes()
    at = data.index(b"Exif\0\0") + 10
    path.write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
    for name in ("a.png", "b.jpg", "none.jpg"):
        assert read_exif_focal(tmp_path / name).focal_px is None


def make_camera(name="one", **more):
    K = np.array([[150.0, 0, 82], [0, 145, 57], [0, 0, 1]])
    distortion = np.array([-0.3, 0.1, 0.001, -0.002, 0, 0, 0, 0])
    known = {"width": WIDTH, "height": HEIGHT, **more}
    return Camera(name, K, distortion, np.eye(3, 4), **known)


def test_a_bent_image_and_what_is_in_it_become_a_pinholes():
    camera = make_camera()
    lens = LensCorrection(camera)
    world = np.array([[0.25, 0.2, 1.0], [-0.3, -0.15, 1.0], [0.01, 0.0, 1.0]])
    half = np.array([0.5, 0.5])  # OpenCV counts from the first pixel's centre
    K = camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    zero = np.zeros(3)
    bent = cv2.projectPoints(world, zero, zero, K, camera.distortion)[0][:, 0] + half
    wanted = cv2.projectPoints(world, zero, zero, K, None)[0][:, 0] + half
    assert np.abs(bent - wanted).max() > 1
    assert lens.correct_points(bent) == pytest.approx(wanted, abs=1e-4)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for at, ideal in zip(bent, wanted, strict=True):
        blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18)
        image = np.round(250 * blob)[..., None].repeat(3, 2).astype(np.uint8)
        shown = lens.correct_image(image)[..., 0].astype(float)
        middle = (shown * x).sum() / shown.sum(), (shown * y).sum() / shown.sum()
        assert middle == pytest.approx(ideal, abs=0.1)
    keypoints = np.concatenate([bent, [[0.5], [0.6], [0.7]]], 1)
    mask = PersonMask(np.array([0.0, 0, 64, 64]), np.zeros((64, 64), bool))
    mask.inside[20:41, 20:41] = True  # about (30.5, 30.5), one cell a pixel
    region = Region(np.array([20.0, 20, 60, 70]), "left", keypoints, mask)
    moved = lens.correct_region(region)
    assert moved.side == "left" and moved.keypoints[:, :2] == pytest.approx(wanted, abs=1e-4)
    rows, columns = np.nonzero(moved.mask.inside)
    cell = (moved.mask.square[2] - moved.mask.square[0]) / 64
    middle = moved.mask.square[:2] + cell * (np.array([columns.mean(), rows.mean()]) + 0.5)
    assert middle == pytest.approx(lens.correct_points(np.array([[30.5, 30.5]]))[0], abs=0.6)
    inside = lens.correct_points(np.array([[20.0, 20], [60, 70], [20, 45], [40, 20]]))
    assert (moved.box[:2] <= inside.min(0)).all() and (moved.box[2:] >= inside.max(0)).all()
    # Outside of the image the lens says nothing, and the way from its edge is kept.
    outside, edge = lens.correct_points(np.array([[-30.0, 60.0], [0, 60]]))
    assert outside - edge == pytest.approx([-30, 0])


def test_who_is_believed_first(tmp_path):
    photo = write_photo(tmp_path / "left.jpg", {FILM: 28, **SIZE})
    write_cameras(str(tmp_path / "two.json"), {n: make_camera(n) for n in ("left", "right")})
    write_cameras(str(tmp_path / "one.json"), {"one": make_camera()})
    size, two = (WIDTH, HEIGHT), str(tmp_path / "two.json")
    given = CameraFinder([150, 140, 81, 58]).find_camera(photo, *size, photograph=True)
    assert given.describe() == "focal length 150 x 140 px (intrinsics=)"
    told = CameraFinder().find_camera(photo, *size, photograph=True)
    assert told.describe() == "focal length 129 px (EXIF: 28 mm on 35 mm film)"
    assert told.K[:2, 2].tolist() == [80, 60]
    assumed = CameraFinder().find_camera(photo, *size, photograph=False)
    assert assumed.describe() == "focal length 200 px (assumed: the image's diagonal)"
    small = write_photo(tmp_path / "small.jpg", {FILM: 28, WIDE: 320, HIGH: 240})
    assert "of an image of 320 x 240" in CameraFinder().find_camera(small, *size, True).source
    by_name = CameraFinder(calibration=two).find_camera(photo, *size, True)
    assert by_name.source == "calibration=two.json, camera left"
    assert np.allclose(by_name.K, make_camera().K) and by_name.lens.bends
    named = CameraFinder(calibration=two, camera="right").find_camera(photo, *size, True)
    assert named.source.endswith("camera right")
    only = CameraFinder(calibration=str(tmp_path / "one.json")).find_camera(photo, *size, True)
    assert only.source == "calibration=one.json, camera one"
    for finder, words in (
        (CameraFinder(calibration=two, camera="top"), "camera=top: .* has no camera top.*right"),
        (CameraFinder(calibration=two), "other.jpg: which camera .* left, right"),
    ):
        with pytest.raises(UserError, match=words):
            finder.find_camera("other.jpg", *size, True)
    with pytest.raises(UserError, match="320x240, its calibration is for 160x120"):
        CameraFinder(calibration=two).find_camera(photo, 320, 240, True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "hand", "hand", "margin=1.35")


def test_predict_says_whose_focal_length_it_is(run, tmp_path, capsys):
    photo = write_photo(tmp_path / "photo.jpg", {FILM: 28, **SIZE}, orientation=6)
    words = ["predict", photo, f"run={run}", f"out={tmp_path}", "whole_image=true", "device=cpu"]
    assert main(words) == 0
    assert "photo.jpg: focal length 129 px (EXIF: 28 mm on 35 mm film)" in capsys.readouterr().out
    told = json.loads((tmp_path / "photo.json").read_text())
    assert told["focal_length_from"] == "EXIF: 28 mm on 35 mm film"
    focal = 28 / 43.27 * 200
    wanted = np.array([[focal, 0, 60], [0, focal, 80], [0, 0, 1]])
    assert np.allclose(told["people"][0]["intrinsics"], wanted, atol=1e-5)


def test_predict_undoes_the_lens_of_a_calibration(run, tmp_path, capsys):
    camera = make_camera()
    write_cameras(str(tmp_path / "cameras.json"), {"one": camera})
    photo = write_photo(tmp_path / "photo.png", {})
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\nphoto.png,10,8,90,100\n")
    words = ["predict", photo, f"run={run}", f"out={tmp_path}", "device=cpu"]
    assert (
        main(
            [*words, f"calibration={tmp_path / 'cameras.json'}", f"boxes={tmp_path / 'boxes.csv'}"]
        )
        == 0
    )
    assert "(calibration=cameras.json, camera one)" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "photo.json").read_text())["people"]
    assert np.allclose(found["intrinsics"], camera.K)
    box = LensCorrection(camera).correct_region(Region(np.array([10.0, 8, 90, 100]))).box
    assert np.allclose(found["box"], box, atol=1e-3) and box[0] < 9
    with pytest.raises(UserError, match="camera=one .* set calibration= too"):
        main([*words, "camera=one"])
    with pytest.raises(UserError, match="intrinsics= and calibration="):
        main([*words, "intrinsics=1,1,1,1", f"calibration={tmp_path / 'cameras.json'}"])
