"""``python -m data labels NAME --check``: what it says of wrong units, axes and orders, that it
reads little of a large data set, and the real COCO sample."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from PIL import Image

from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints
from data.sources.label_shards import main
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.check import choose_people
from data.sources.labelled.check_sheet import JOINT, TILE
from engine.errors import UserError

K = np.array([[300.0, 0, 100], [0, 300, 100], [0, 0, 1]])
IMAGE = cv2.imencode(".png", np.full((200, 200, 3), 90, np.uint8))[1].tobytes()
# A hand of 17 cm, half a metre ahead, that is no mirror image of itself.
HAND = np.random.default_rng(3).uniform(-0.06, 0.06, (21, 3)) + (0, 0, 0.5)


def project(points):
    return (points / points[:, 2:] @ K.T)[:, :2]


def hand(number=0, points=HAND, order=slice(None), **changes):
    """A hand whose 2D keypoints are right, and whose 3D joints are as told."""
    pixels = project(HAND)
    labels = CropLabels(
        keypoints=Keypoints("hand21", pixels, np.ones(21)),
        joints=Joints("hand21", points[order], np.ones(21)),
        body=BodyParameters("mano", "right", {"pose": np.zeros((16, 3))}),
    )
    fields = {
        "image": IMAGE,
        "clip": f"c{number}",
        "subject": "s",
        "box": np.concatenate([pixels.min(0), pixels.max(0)]),
        "labels": labels,
        "K": K,
        "kind": "right_hand",
    }
    return LabelledImage(**{**fields, **changes})


@pytest.fixture
def check(tmp_path, capsys):
    """Run the check on some people; returns (exit code, what it printed, path of the image)."""

    def run(people, *words):
        @dataclass
        class Toy(LabelledSource):
            def read(self):
                yield from self.follow(people)

        LABELLED["toy"] = Toy
        out = tmp_path / "sheet.png"
        code = main(["toy", "--check", f"root={tmp_path}", f"out={out}", *words])
        return code, capsys.readouterr().out, out

    yield run
    LABELLED.pop("toy", None)


def test_right_labels_are_said_to_be_near_and_drawn(check, tmp_path):
    code, said, out = check([hand(number) for number in range(12)])
    assert code == 0
    assert "10 people of toy drawn to" in said
    assert "labelled, of 10: keypoints 10, joints 10, pose 10, mano right 10, camera 10" in said
    assert "3D joints through the camera fall 0.0 px from the 2D ones (0.0% of the box" in said
    assert "joints of right hands span 0.1" in said and "wrong" not in said
    pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
    assert pixels.shape[1] > 5 * TILE
    assert (np.abs(pixels - JOINT).sum(-1) < 30).sum() > 10 * 21
    assert not list(tmp_path.glob("*.tar"))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"points": HAND * 1000}, "the unit is wrong, it looks like millimetres"),
        ({"points": HAND * 100}, "the unit is wrong, it looks like centimetres"),
        (
            {"points": HAND * (1, -1, -1)},
            "3D joints lie behind the camera: far, unit, axes or order is wrong, see "
            "docs/labelled.md; they would be near if in the camera's axes y and z are negated",
        ),
        ({"points": HAND * (-1, 1, 1)}, "if in the camera's axes x is negated, as in a mirror"),
        ({"order": slice(None, None, -1)}, "the order of the joints is wrong"),
        ({"points": HAND + (0.2, 0, 0)}, "far, unit, axes or order is wrong"),
    ],
)
def test_what_is_wrong_is_said_in_words(check, changes, words):
    code, said, _ = check([hand(number, **changes) for number in range(3)])
    assert code == 1
    assert words in said


def test_the_error_is_in_pixels_of_the_data_sets_image(check):
    # A millimetre sideways at 0.5 m with a focal length of 300 px is 0.6 px.
    shift = HAND + (1e-3, 0, 0) * HAND[:, 2:] / 0.5
    code, said, _ = check([hand(points=shift)])
    assert code == 0 and "fall 0.6 px from the 2D ones" in said


def test_joints_of_a_known_lens_are_held_beside_undistorted_keypoints(check):
    from data.sources.cameras import Camera, project_distorted

    lens = np.array([-0.3, 0.1, 0.001, 0, 0, 0, 0, 0])
    pixels, _ = project_distorted(Camera("a", K, lens, np.eye(3, 4), 200, 200), HAND)
    labels = CropLabels(
        keypoints=Keypoints("hand21", pixels, np.ones(21)),
        joints=Joints("hand21", HAND, np.ones(21)),
    )
    code, said, _ = check([hand(labels=labels, distortion=lens)])
    assert code == 0 and "fall 0.0 px" in said


def test_joints_whose_place_nobody_knows_are_scaled_and_moved_to_the_keypoints(check):
    flat = np.concatenate([project(HAND) / 1000, np.zeros((21, 1))], 1)
    keypoints = Keypoints("hand21", project(HAND), np.ones(21))

    def labels(order):
        joints = Joints("hand21", flat[order] + 5.0, np.ones(21))
        return CropLabels(keypoints=keypoints, joints=joints, frame="root")

    code, said, _ = check([hand(labels=labels(slice(None)), K=None)])
    assert code == 0 and "at the best scale and place fall 0.0 px" in said
    code, said, _ = check([hand(labels=labels(slice(None, None, -1)), K=None)])
    assert code == 1 and "far" in said


def test_people_who_would_be_skipped_and_missing_labels_are_told(check):
    nan = CropLabels(keypoints=Keypoints("hand21", np.full((21, 2), math.nan), np.ones(21)))
    alone = CropLabels(joints=Joints("hand21", HAND, np.ones(21)))
    code, said, _ = check([hand(0, labels=nan), hand(1, labels=alone), hand(2, image=b"x")])
    assert code == 1
    assert "c0 would be skipped: its keypoints are not finite numbers" in said
    assert "c2 would be skipped: it does not decode: it is of no image format" in said
    assert "3D joints cannot be held beside 2D ones" in said


def test_little_is_read_of_a_large_data_set(tmp_path):
    read = []

    class Large(LabelledSource):
        def read(self):
            for sequence in self.follow(range(1000)):
                for frame in self.follow(range(100_000)):
                    read.append((sequence, frame))
                    yield hand(f"{sequence}-{frame}")

    people = choose_people(Large(root="x", out="x.png"))
    assert len(people) == 10 and len(read) <= 11
    assert len({sequence for sequence, _ in read}) == 10
    assert max(sequence for sequence, _ in read) > 800

    class Few(Large):
        def read(self):
            for sequence in self.follow(range(3)):
                for frame in self.follow(range(100_000)):
                    yield hand(f"{sequence}-{frame}")

    people = choose_people(Few(root="x", out="x.png"))
    places = [tuple(map(int, person.clip[1:].split("-"))) for person in people]
    assert len(places) == 10 and {sequence for sequence, _ in places} == {0, 1, 2}
    assert np.ptp([frame for _, frame in places]) > 50_000

    class Unmarked(LabelledSource):
        def read(self):
            for number in range(10**9):
                yield hand(number)

    numbers = [int(person.clip[1:]) for person in choose_people(Unmarked(root="x", out="x.png"))]
    assert len(set(numbers)) == 10 and 1000 < max(numbers) < 2000


def test_2d_keypoints_far_from_their_box_are_told(check):
    def flat(scale):
        one = hand()
        keypoints = Keypoints("hand21", project(HAND) * scale, np.ones(21))
        return replace(one, labels=CropLabels(keypoints=keypoints), K=None)

    words = "2D keypoints of 1 of 1 people lie far from their box"
    for scale, wrong in ((1.0, False), (10.0, True), (1 / 200, True)):
        code, said, _ = check([flat(scale)])
        assert (code == 1, words in said) == (wrong, wrong)


def test_what_cannot_be_checked_is_one_sentence(check, tmp_path):
    with pytest.raises(UserError, match="no labelled person is found; box_min_px=32 leaves"):
        check([])
    with pytest.raises(UserError, match="--check draws an image, FILE.png; it writes no shards"):
        main(["coco", "--check", f"root={tmp_path}", f"out={tmp_path / 'shards'}"])
    with pytest.raises(UserError, match="name the source"):
        main(["--check"])


def test_the_real_coco_person_is_drawn(samples, tmp_path, capsys):
    keys = ["annotations=person_keypoints_one.json", "images=.", f"out={tmp_path / 'a.png'}"]
    assert main(["coco", "--check", f"root={samples / 'coco_keypoints'}", *keys]) == 0
    assert "labelled, of 1: keypoints 1, outline 1" in capsys.readouterr().out
    assert Image.open(tmp_path / "a.png").height > TILE
