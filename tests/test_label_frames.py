"""``python -m data labels NAME frames=true``: whole frames, against the data sets' own files."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from body_scenes import SIZE, find_dots, to_pixels
from PIL import Image, ImageDraw
from test_label_core import encode, person
from test_labelled import write_coco
from test_labelled_bodies import write_3dpw, write_agora, write_bedlam

from data.config import FrameDataConfig
from data.cropping.geometry import Square, image_to_crop
from data.format.frame import Frame, decode_frame, encode_frame
from data.format.label_stack import stack_people
from data.format.labels import (
    HIDDEN,
    OUTSIDE,
    SEEN,
    BodyParameters,
    CropLabels,
    Keypoints,
    pack_labels,
    read_arrays,
)
from data.format.verify import check_shard
from data.loading.frame_batch import prepare_frames
from data.loading.frame_build import open_frame_loader, open_frame_order
from data.loading.frame_files import FrameFiles
from data.loading.frames import FrameAugmentConfig, FrameRules, list_sizes
from data.sources.cameras import Camera, project_distorted
from data.sources.label_shards import main
from data.sources.labelled import LABELLED, LabelledSource
from data.storage.shard_store import Store
from data.tools import mixing
from engine.errors import UserError

SAMPLES = os.environ.get("COUNTERPOSE_SAMPLES", "")
FACES = ["jawOpen"] * 52


def write_frames(root, out, name="coco", *words, code=0):
    """{key: (Frame, pixels, ids, ignored, Labels)} of a whole command."""
    keys = [f"root={root}", f"out={out}", "frames=true", *words]
    assert main([name, *keys]) == code
    files, found = FrameFiles(Store(None)), {}
    for path in sorted(map(str, Path(out).glob("*.tar"))):
        assert check_shard(path).problems == []
        for index in range(len(files.store.index(path))):
            frame, members = files.frame(path, index)
            found[frame.key] = (
                frame,
                files.pixels(path, frame, members),
                files.ids(path, frame, members),
                files.ignored(path, frame, members),
                files.labels(path, frame, members),
            )
    return found


def runs_of(mask):
    """COCO's run lengths of a mask (H, W), down the columns, the first of outside."""
    values = mask.T.ravel().tolist()
    counts, now = [0], False
    for value in values:
        if bool(value) != now:
            counts.append(0)
            now = bool(value)
        counts[-1] += 1
    return {"counts": counts, "size": list(mask.shape)}


def crowded(crowd):
    """Changes of write_coco: everybody has an outline, the crowd's is a mask of run lengths."""

    def changes(tree):
        boxes = {one["id"]: one["bbox"] for one in tree["annotations"]}
        for one in tree["annotations"]:
            x, y, w, h = boxes[one["id"]]
            one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        tree["annotations"][1]["segmentation"] = [[130, 10, 170, 10, 170, 70]]
        tree["annotations"][2]["segmentation"] = runs_of(crowd)
        # The people of an image need not lie together.
        tree["annotations"] = tree["annotations"][::2] + tree["annotations"][1::2]

    return changes


def test_an_image_becomes_one_frame_with_everybody(tmp_path):
    crowd = np.zeros((120, 200), bool)
    crowd[70:120, 60:100] = True
    write_coco(tmp_path / "coco", crowded(crowd))
    found = write_frames(tmp_path / "coco", tmp_path / "out", "coco", "frame_px=150", "split=val")
    assert list(found) == ["a", "b"]  # by their last person
    frame, pixels, ids, ignored, labels = found["a"]
    assert (frame.width, frame.height, pixels.shape) == (150, 90, (90, 150, 3))
    assert (frame.source, frame.licence, frame.split) == ("coco", "CC0-1.0", "val")
    assert (frame.image, frame.scene, frame.K) == ("a.png", "coco/a.png", None)
    assert [one.subject for one in frame.people] == ["coco/a/10", "coco/a/11"]
    assert frame.people[0].shown is None and [one.track for one in frame.people] == ["0", "1"]
    # 200 x 120 pixels became 150 x 90.
    assert frame.people[0].box == [30.0, 15.0, 60.0, 75.0]
    points = labels.keypoints
    np.testing.assert_allclose(points.points[0, 0], [60.5 * 0.75, 40.5 * 0.75], atol=1e-4)
    assert points.visible[0, [0, 5, 6]].tolist() == [SEEN, HIDDEN, OUTSIDE]
    np.testing.assert_allclose(points.points[1, 0], [150.5 * 0.75, 20.5 * 0.75], atol=1e-4)
    assert labels.annotation.number.tolist() == [10, 11]
    red = pixels[..., 0].astype(float) - pixels[..., 1]
    y, x = np.nonzero(red > 100)
    np.testing.assert_allclose([x.mean() + 0.5, y.mean() + 0.5], points.points[0, 0], atol=0.5)
    # Outlines as PIL draws them, the crowd where no labelled person is.
    for number, polygon in enumerate(
        ([40, 20, 80, 20, 80, 100, 40, 100], [130, 10, 170, 10, 170, 70]), 1
    ):
        drawn = Image.new("1", (150, 90))
        ImageDraw.Draw(drawn).polygon([0.75 * v - 0.5 for v in polygon], 1)
        assert ((ids == number) != np.array(drawn)).mean() < 0.02
    small = cv2.resize(crowd.astype(np.uint8), (150, 90), interpolation=cv2.INTER_NEAREST) > 0
    assert (ignored != (small & (ids != 1))).mean() < 0.02 and ignored[80, 70]
    assert not (ignored & (ids > 0)).any()
    # 13 has no keypoint, 14 is smaller than box_min_px: both are told of.
    frame, _, ids, ignored, _ = found["b"]
    assert [one.subject for one in frame.people] == ["coco/b/15"]
    assert ids[45, 45] == 1 and ignored[15, 108] and not ignored[15, 60]


def test_frames_are_the_same_by_parts_processes_and_after_a_kill(tmp_path):
    write_coco(tmp_path / "coco", crowded(np.zeros((120, 200), bool)))

    def bytes_of(folder):
        return {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.tar")}

    words = ["clips_per_shard=1", "frame_px=128"]
    write_frames(tmp_path / "coco", tmp_path / "one", "coco", *words)
    whole = bytes_of("one")
    assert len(whole) == 2
    (tmp_path / "one" / "shard-000001.tar").unlink()
    write_frames(tmp_path / "coco", tmp_path / "one", "coco", *words)
    assert bytes_of("one") == whole
    write_frames(tmp_path / "coco", tmp_path / "two", "coco", *words, "part=2/2")
    assert list(bytes_of("two")) == ["shard-000001.tar"]
    write_frames(tmp_path / "coco", tmp_path / "two", "coco", *words, "part=1/2", "workers=2")
    assert bytes_of("two") == whole
    with pytest.raises(UserError, match="frames=False here, but the shards .* with frames=True"):
        main(["coco", f"root={tmp_path / 'coco'}", f"out={tmp_path / 'one'}", *words])


def test_a_folder_that_is_older_than_a_key_is_gone_on_with(tmp_path):
    write_coco(tmp_path / "coco")
    keys = [f"root={tmp_path / 'coco'}", f"out={tmp_path / 'out'}", "clips_per_shard=1"]
    assert main(["coco", *keys]) == 0
    recipe = tmp_path / "out" / "labels.json"
    before = json.loads(recipe.read_text())
    recipe.write_text(json.dumps({k: v for k, v in before.items() if not k.startswith("frame")}))
    (tmp_path / "out" / "shard-000001.tar").unlink()
    assert main(["coco", *keys]) == 0


def test_agoras_hidden_people_are_told_and_bodies_keep_their_places(tmp_path):
    joints, verts = write_agora(tmp_path / "agora", np.random.default_rng(4), 127)
    found = write_frames(tmp_path / "agora", tmp_path / "out", "agora", "vertices=true")
    ((frame, pixels, ids, ignored, labels),) = found.values()
    assert (frame.width, frame.height) == (1280, 720) and ids is None
    at = joints[0][:55] @ np.array(frame.Rt)[:, :3].T + np.array(frame.Rt)[:, 3]
    xy = to_pixels(at, np.array(frame.K))
    np.testing.assert_allclose(labels.keypoints.points[0], xy, atol=0.05)
    np.testing.assert_allclose(labels.joints.points[1], joints[1][:55], atol=1e-6)
    np.testing.assert_allclose(labels.vertices, verts[:2], atol=1e-6)
    np.testing.assert_allclose(find_dots(pixels[:, :640]), xy[:3], atol=0.6)
    hidden = to_pixels(joints[2], np.array(frame.K))
    low, high = np.clip([hidden.min(0), hidden.max(0)], 0, [1279, 719]).round().astype(int)
    assert ignored[low[1] : high[1], low[0] : high[0]].all() and ignored.mean() < 0.5


def test_frames_of_a_recording_share_their_scene_and_people(tmp_path):
    tree = write_3dpw(tmp_path / "threedpw", np.random.default_rng(0))
    found = write_frames(tmp_path / "threedpw", tmp_path / "out", "threedpw")
    # In frame 2 the first person did not fit, in 3 nobody was found.
    assert [len(frame.people) for frame, *_ in found.values()] == [2, 2, 1, 2, 2]
    frame, pixels, _, ignored, labels = found["street_00_image_00000"]
    assert {f.scene for f, *_ in found.values()} == {"threedpw/street_00"}
    assert [one.track for one in frame.people] == ["street_00/0", "street_00/1"]
    assert (pixels.shape[1], pixels.shape[0]) == SIZE and ignored is None
    # A man and a woman, each of another shape: a row each.
    assert labels.body.variants == ("male", "female")
    assert [labels.at(n).body.variant for n in range(2)] == ["male", "female"]
    for row in range(2):
        betas = labels.body.parameters["betas"][row]
        np.testing.assert_allclose(betas, tree["betas"][row][:10], atol=1e-6)
    camera = tree["cam_poses"][0]
    np.testing.assert_allclose(frame.Rt, camera[:3], atol=1e-6)
    for row in range(2):
        want = tree["jointPositions"][row][0].reshape(24, 3)
        np.testing.assert_allclose(labels.joints.points[row], want, atol=1e-6)


def test_a_lying_image_is_turned_and_bedlams_trap_holds(tmp_path):
    scene = "20221014_3_250_batch01hand_closeup_6fps"
    rng = np.random.default_rng(2)
    rest, rows = write_bedlam(tmp_path / "bedlam", rng, scene, 127, True, {"sub": "rp_a"})
    found = list(
        write_frames(tmp_path / "bedlam", tmp_path / "out", "bedlam", "frame_px=640").values()
    )
    assert len(found) == 2
    for row, (frame, pixels, _, _, labels) in zip(rows, found, strict=True):
        assert (frame.width, frame.height) == (360, 640)
        transl = labels.body.parameters["transl"][0]
        np.testing.assert_allclose(transl, row["trans_cam"] + row["cam_ext"][:3, 3], atol=1e-6)
        xy = to_pixels(rest + transl, np.array(frame.K))
        np.testing.assert_allclose(find_dots(pixels), xy[:3], atol=0.6)
        np.testing.assert_allclose(labels.keypoints.points[0, :3], xy[:3], atol=0.05)
    assert found[0][0].scene == found[1][0].scene


@pytest.fixture
def toy():
    def register(people):
        class Toy(LabelledSource):
            def read(self):
                yield from self.follow(people)

        LABELLED["toy"] = Toy

    yield register
    LABELLED.pop("toy", None)


def test_a_lens_is_undone_and_people_who_do_not_go_together_are_told(tmp_path, toy, capsys):
    K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    lens = np.array([-0.25, 0.05, 0.001, 0, 0, 0, 0, 0])
    space = np.array([[-0.9, -0.5, 2.5], [0.9, 0.5, 2.5], [0.2, -0.4, 2.5]])
    bent, _ = project_distorted(Camera("a", K, lens, np.eye(3, 4), 320, 240), space)
    image = np.full((240, 320, 3), 100, np.uint8)
    for channel, point in enumerate(bent):
        colour = [0, 0, 0]
        colour[channel] = 255
        at = np.round((point - 0.5) * 16).astype(int).tolist()
        cv2.circle(image, at, 5 * 16, colour, -1, cv2.LINE_AA, 4)
    points = np.zeros((17, 2))
    points[:3] = bent
    labels = CropLabels(Keypoints("coco17", points, np.float32(np.arange(17) < 3)))
    one = {"image": encode(image), "K": K, "distortion": lens, "labels": labels, "name": "a.png"}
    two = {"image": encode(image[::-1]), "name": "b.png"}
    nan = CropLabels(Keypoints("coco17", np.full((17, 2), np.nan), np.ones(17)))
    toy(
        [
            person(0, **one),
            person(1, **{**one, "box": np.array([100.0, 100, 180, 220])}),
            person(2, **two, K=K, labels=labels),
            person(3, **two, labels=labels),
            person(4, **{**one, "labels": nan, "box": np.array([200.0, 10, 260, 90])}),
            person(5, **one, kind="left_hand"),
        ]
    )
    found = write_frames(tmp_path, tmp_path / "out", "toy", code=1)
    words = capsys.readouterr().err
    assert "skipped b.png: two of its people have cameras of different K" in words
    assert "skipped a.png (c4): its keypoints are not finite numbers" in words
    ((frame, pixels, _, ignored, labels),) = found.values()
    assert len(frame.people) == 2 and ignored[20, 210] and not ignored[150, 210]
    straight = space @ np.array(frame.K).T
    straight = straight[:, :2] / straight[:, 2:]
    np.testing.assert_allclose(labels.keypoints.points[0, :3], straight, atol=0.01)
    np.testing.assert_allclose(find_dots(pixels), straight, atol=0.7)
    assert np.abs(bent - straight).max() > 4


def test_bodies_of_several_variants_go_through_the_file():
    def one(variant, betas):
        values = {"betas": np.full(10, betas, np.float32), "pose": np.ones((24, 3), np.float32)}
        return CropLabels(
            body=BodyParameters("smpl", variant, values, of_person=frozenset({"betas"}))
        )

    people = [one("male", 1), CropLabels(), one("female", 2)]
    labels = stack_people(people)
    back = read_arrays(pack_labels(labels), 3)
    assert back.body.variants == ("male", "", "female") and back.body.variant == ""
    assert back.at(2).body.variant == "female"
    assert back.body.parameters["betas"][:, 0].tolist() == [1, 0, 2]
    assert back.body.known["betas"].tolist() == [True, False, True]
    alike = stack_people([one("male", 1), one("male", 2)])
    assert (alike.body.variant, alike.body.variants) == ("male", ())
    with pytest.raises(ValueError, match="body_variant is .* not a text, or 3"):
        read_arrays({**pack_labels(labels), "body_variant": np.array(["a", "b"])}, 3)


def test_frames_that_need_no_more_stay_of_format_1():
    frame = Frame("a", "s", "l", 4, 2, "scene", [], jpeg=b"")
    plain = encode_frame(frame)
    assert json.loads(plain["json"])["frame_format"] == 1 and "ignore" not in plain["json"].decode()
    frame.ignore = np.ones((2, 4), bool)
    newer = encode_frame(frame)
    meta = json.loads(newer["json"])
    assert (meta["frame_format"], meta["ignore"]) == (2, True) and "ignore.png" in newer
    with pytest.raises(UserError, match="has frame format 3; this software reads up to format 2"):
        decode_frame(json.dumps({**meta, "frame_format": 3}).encode(), "x:a")
    frame.ignore = np.ones((4, 2), bool)
    with pytest.raises(UserError, match=r"frame a: ignore of shape \(4, 2\) for 4 x 2 pixels"):
        encode_frame(frame)


def test_what_is_ignored_follows_cuts_and_mirrors(tmp_path, toy):
    """In these images people are ignored exactly where they are red."""
    people, rng = [], np.random.default_rng(0)
    for number in range(6):
        image = np.full((192, 192, 3), 90, np.uint8)
        x, y = rng.integers(0, 120, 2).tolist()
        image[y : y + 64, x : x + 64] = (250, 10, 10)
        box = np.array([x, y, x + 64, y + 64], float)
        points = np.full((17, 2), 96.0)
        labels = CropLabels(Keypoints("coco17", points, np.ones(17)))
        fields = {"image": encode(image), "name": f"{number}.png"}
        people.append(person(number, **fields, labels=labels, box=np.array([0.0, 0, 192, 192])))
        people.append(person(10 + number, **{**fields, "box": box}, unlabelled=True))
    toy(people)
    write_frames(tmp_path, tmp_path / "out", "toy")
    config = FrameDataConfig(
        shards=str(tmp_path / "out"),
        val_clips=0,
        rules=FrameRules(people_max=2),
        augment=FrameAugmentConfig(rotation_deg=30, scale_min=0.7, whole_share=0, colour=0),
    )
    order = open_frame_order(config, 6, 0)
    sizes = list_sizes(96, 16)
    loader = open_frame_loader(order, config, sizes, 0, 1, 0)
    _, arrays = next(iter(loader.batches(0, 1)))
    size = sizes[order.aspect(0)]
    batch = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
    out = prepare_frames(batch, size, FACES)
    assert out.present.sum() == 6 and not out.body_known.any()
    for row in range(6):
        red = (out.images[row, 0] - out.images[row, 1]).numpy() > 2
        ignored = out.ignore[row].numpy()
        assert ignored.shape == size and red.any()
        inside = cv2.erode(red.astype(np.uint8), np.ones((13, 13))) > 0
        outside = cv2.dilate(red.astype(np.uint8), np.ones((13, 13))) == 0
        assert (ignored[inside] > 0.95).all() and (ignored[outside] < 0.05).all()
        # Keypoints move along, too.
        if not arrays["numbers"][row, 4]:
            to_cut = image_to_crop(Square(*arrays["numbers"][row, :4].astype(float)), size)
            np.testing.assert_allclose(
                out.keypoints[row, 0, 0, :2].numpy(), (to_cut @ [96, 96, 1])[:2], atol=0.01
            )


def test_mixing_reads_frames(tmp_path, toy, capsys):
    toy(
        [
            person(n, image=encode(np.full((100, 100, 3), n, np.uint8)), name=f"{n}.png")
            for n in range(32)
        ]
    )
    write_frames(tmp_path, tmp_path / "out", "toy", "clips_per_shard=4")
    assert mixing.main([str(tmp_path / "out"), "batch=4", "batches=20", "workers=1"]) == 0
    words = capsys.readouterr()
    assert "unreadable" not in words.err
    assert "32 frames: 8 shards, 1 source, 32 scenes" in words.out and "fine: " in words.out


@pytest.mark.skipif(not SAMPLES, reason="COUNTERPOSE_SAMPLES is not set")
def test_a_real_photograph_of_coco(tmp_path):
    root = Path(SAMPLES) / "coco_keypoints"
    words = ["annotations=person_keypoints_one.json", "images=.", "frame_px=320"]
    found = write_frames(root, tmp_path / "out", "coco", *words)
    frame, pixels, ids, ignored, labels = found["000000000785"]
    tree = json.loads((root / "person_keypoints_one.json").read_text())
    told = np.reshape(tree["annotations"][0]["keypoints"], (17, 3))
    scale = frame.width / 640
    assert frame.width == 320 and frame.height in (212, 213) and ignored is None
    np.testing.assert_allclose(
        labels.keypoints.points[0], (told[:, :2] + 0.5) * [scale, scale], atol=0.3
    )
    assert (labels.keypoints.visible[0] == np.where(told[:, 2] == 2, SEEN, HIDDEN)).all()
    # The area that COCO says is that of the outline, whose border is drawn too.
    assert (ids == 1).sum() / scale**2 == pytest.approx(tree["annotations"][0]["area"], rel=0.04)
    whole = np.array(Image.open(root / "000000000785.jpg").resize(pixels.shape[1::-1]))
    assert np.abs(whole.astype(float) - pixels).mean() < 6
