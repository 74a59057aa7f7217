"""``python -m data labels``: a tiny COCO file, a toy source in one file, and what is refused."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import make_clip, write_shards

from data.config import CropDataConfig, DataConfig
from data.cropping.geometry import square_of_box
from data.format.clip import decode_masks
from data.format.index import read_index
from data.format.label_stack import stack_labels
from data.format.labels import HIDDEN, OUTSIDE, SEEN, BodyParameters, CropLabels, Joints, Keypoints
from data.format.labels import read_labels as read
from data.format.verify import check_shard
from data.loading.build import open_crop_order, open_order
from data.loading.reader import ClipReader
from data.sources import labelled
from data.sources.crop_parts import move_keypoints
from data.sources.label_shards import main
from data.storage.shard_store import Store
from engine.errors import UserError

COCO_NAMES = [
    "nose",
    *(f"{side}_{part}" for part in ("eye", "ear") for side in ("left", "right")),
    *(
        f"{side}_{part}"
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
]


def write_coco(folder, changes=lambda tree: None):
    """A data set of two photographs of 200 x 120: two people and a crowd, and one person.

    In the first there is a red square of 4 x 4 pixels at (60, 40), where person 10's nose is.
    """
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    pixels = np.full((120, 200, 3), 40, np.uint8)
    pixels[38:43, 58:63] = (255, 0, 0)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / "val2017" / name), pixels[..., ::-1])
    keypoints = np.zeros((17, 3))
    keypoints[0] = 60, 40, 2  # the nose, seen
    keypoints[5] = 50, 60, 1  # hidden
    other = np.zeros((17, 3))
    other[0] = 150, 20, 2

    def person(number, image, box, points, **more):
        return {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": box,
            "keypoints": points.ravel().tolist(),
            "num_keypoints": int((points[:, 2] > 0).sum()),
            **more,
        }

    tree = {
        "licenses": [{"id": 3, "name": "CC0-1.0"}],
        "categories": [{"id": 1, "name": "person", "keypoints": COCO_NAMES}],
        "images": [
            {"id": 7, "file_name": "a.png", "width": 200, "height": 120, "license": 3},
            {"id": 8, "file_name": "b.png", "width": 200, "height": 120},
        ],
        "annotations": [
            person(
                10,
                7,
                [40, 20, 40, 80],
                keypoints,
                segmentation=[[40, 20, 80, 20, 80, 100, 40, 100]],
            ),
            person(11, 7, [130, 10, 40, 60], other),
            person(12, 7, [0, 0, 200, 120], other, iscrowd=1, segmentation={"counts": [1]}),
            person(13, 8, [40, 20, 40, 80], np.zeros((17, 3))),
            person(14, 8, [140, 10, 10, 20], other),
            person(15, 8, [40, 20, 40, 80], keypoints),
        ],
    }
    changes(tree)
    path = folder / "annotations" / "person_keypoints_val2017.json"
    path.write_text(json.dumps(tree))
    return folder


def run(tmp_path, *words, name="coco"):
    return main([name, f"out={tmp_path / 'out'}", f"root={tmp_path / 'coco'}", *words])


def clips_of(folder):
    """[(Clip, image (N, S, S, 3), Labels, masks or None), ...] of all shards, as a reader has
    them."""
    store, out = Store(None), []
    reader = ClipReader(store)
    for path in sorted(map(str, Path(folder).glob("*.tar"))):
        for i in range(len(read_index(path))):
            clip, members = reader.clip(path, i)
            count = len(clip.crops)
            images = np.stack([reader.image(path, members, crop) for crop in range(count)])
            labels = read(store.read(path, *members["labels.npz"]), count)
            masks = None
            if "masks.bin" in members:
                masks = decode_masks(store.read(path, *members["masks.bin"]), count)
            out.append((clip, images, labels, masks))
    return out


def test_a_coco_file_becomes_clips_of_one_crop(tmp_path, capsys):
    write_coco(tmp_path / "coco", lambda tree: tree["annotations"][0].update(area=1234.5))
    assert run(tmp_path, "split=val", "licence=mine", "size=128") == 0
    assert "3 clips of coco written" in capsys.readouterr().out
    found = clips_of(tmp_path / "out")
    # 12 is a crowd, 13 has no keypoint, 14 is smaller than box_min_px.
    assert [clip.key for clip, *_ in found] == ["a-10", "a-11", "b-15"]
    assert [clip.licence for clip, *_ in found] == ["CC0-1.0", "CC0-1.0", "mine"]
    assert [clip.subject for clip, *_ in found] == ["coco/a/10", "coco/a/11", "coco/b/15"]
    clip, images, labels, masks = found[0]
    assert (clip.split, clip.crops[0].image, clip.crops[0].K) == ("val", "a.png", None)
    # The box's middle is (60, 60), its longer side 80, times 1.25: 100 pixels become 128.
    assert clip.crops[0].box == [10.0, 10.0, 110.0, 110.0]
    points = labels.keypoints
    assert points.joint_set == "coco17" and labels.joints is None and labels.body is None
    np.testing.assert_allclose(points.points[0, 0], [(60.5 - 10) * 1.28, (40.5 - 10) * 1.28], 1e-6)
    assert points.visible[0, [0, 5, 6]].tolist() == [SEEN, HIDDEN, OUTSIDE]
    assert points.confidence[0].tolist() == [1, 0, 0, 0, 0, 1] + [0] * 11
    # The red square's middle lies there in the crop as well.
    red = images[0, ..., 0].astype(float) - images[0, ..., 1]
    y, x = np.nonzero(red > 100)
    np.testing.assert_allclose([x.mean() + 0.5, y.mean() + 0.5], points.points[0, 0], atol=0.5)
    # The polygon spans 40 to 80 and 20 to 100 of the crop's 10 to 110.
    share = masks[0].mean()
    assert abs(share - 0.4 * 0.8) < 0.01 and masks[0, 32, 32] and not masks[0, 32, 2]
    assert found[1][3] is None
    # What COCO's own similarity of keypoints asks for.
    note, other = labels.at(0).annotation, found[1][2].at(0).annotation
    assert (int(note.number), float(note.area)) == (10, 1234.5) and other.area is None
    assert note.box.tolist() == [40, 20, 80, 100] and int(other.number) == 11
    assert check_shard(str(tmp_path / "out" / "shard-000000.tar")).problems == []


def test_labelled_photographs_are_passed_over_in_pre_training_and_found_by_fine_tuning(tmp_path):
    write_coco(tmp_path / "coco")
    run(tmp_path, "size=64")
    shards = str(tmp_path / "out")
    with pytest.raises(UserError, match="no clip has a pair of crops"):
        open_order(DataConfig(shards, val_clips=0), 16, 0)
    order = open_crop_order(CropDataConfig(shards, val_clips=0), 4, 0)
    assert order.totals == [3]


def test_the_same_command_resumes_with_the_shards_that_are_missing(tmp_path, capsys):
    write_coco(tmp_path / "coco")
    run(tmp_path, "clips_per_shard=1")
    tars = sorted((tmp_path / "out").glob("*.tar"))
    before = [tar.read_bytes() for tar in tars]
    assert len(tars) == 3
    tars[1].unlink()
    assert run(tmp_path, "clips_per_shard=1", "workers=2") == 0
    assert "1 clips of coco written" in capsys.readouterr().out
    assert [tar.read_bytes() for tar in tars] == before
    with pytest.raises(UserError, match="margin=2.0 here, but .* were made with margin=1.25"):
        run(tmp_path, "clips_per_shard=1", "margin=2")


def test_images_that_cannot_be_read_are_skipped_and_told(tmp_path, capsys):
    def changes(tree):
        tree["images"][1]["file_name"] = "c.png"

    write_coco(tmp_path / "coco", changes)
    assert run(tmp_path) == 1
    assert "skipped c.png (c-15): no such file or directory" in capsys.readouterr().err
    assert [clip.key for clip, *_ in clips_of(tmp_path / "out")] == ["a-10", "a-11"]
    (tmp_path / "coco" / "val2017" / "c.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "coco/val2017/a.png"), np.zeros((120, 199, 3), np.uint8))
    with pytest.raises(UserError, match="no labelled person that can be cut"):
        main(["coco", f"out={tmp_path / 'new'}", f"root={tmp_path / 'coco'}"])
    words = capsys.readouterr().err
    assert (
        "skipped c.png (c-15): it does not decode: it is of no image format that is known" in words
    )
    assert (
        "skipped 2 people, a.png (a-10), a.png (a-11): it is 199 x 120, its labels are for 200"
        in words
    )


def test_the_images_of_a_coco_file_may_lie_in_a_zip(tmp_path):
    root = write_coco(tmp_path / "coco")
    run(tmp_path)
    before = next((tmp_path / "out").glob("*.tar")).read_bytes()
    with zipfile.ZipFile(root / "val2017.zip", "w") as file:
        for path in (root / "val2017").iterdir():
            file.write(path, f"val2017/{path.name}")
    shutil.rmtree(root / "val2017")
    keys = [f"out={tmp_path / 'zip'}", f"root={root}"]
    assert main(["coco", *keys, "images=val2017.zip"]) == 0
    assert next((tmp_path / "zip").glob("*.tar")).read_bytes() == before
    with pytest.raises(UserError, match="images=.*val2017: no such folder or archive"):
        main(["coco", f"out={tmp_path / 'none'}", f"root={root}"])


def test_an_image_is_no_device_and_no_file_outside(tmp_path, capsys):
    def device(tree):
        tree["images"][1]["file_name"] = "/dev/zero"

    write_coco(tmp_path / "coco", device)
    assert run(tmp_path) == 1
    assert "skipped /dev/zero (/dev/zero-15): it is no file of up to 256 MiB" in (
        capsys.readouterr().err
    )

    def climb(tree):
        tree["images"][1]["file_name"] = "../../b.png"

    write_coco(tmp_path / "climbing", climb)
    with pytest.raises(UserError, match=r"'\.\./\.\./b\.png' climbs out of its folder"):
        main(["coco", f"out={tmp_path / 'out2'}", f"root={tmp_path / 'climbing'}"])


@pytest.mark.parametrize(
    "changes,words",
    [
        (lambda t: t.pop("images"), "is no COCO keypoints file: it lacks 'images'"),
        (lambda t: t["annotations"][0].update(image_id=77), "annotation 10 is of image 77, which"),
        (lambda t: t["annotations"][0]["keypoints"].pop(), "annotation 10 has 50 numbers"),
        (lambda t: t["categories"][0].update(name="dog"), "category=person is none of dog"),
        (
            lambda t: t["categories"][0].update(keypoints=COCO_NAMES[::-1]),
            "the 17 keypoints of 'person', right_ankle, .* are those of no joint set",
        ),
        (lambda t: t["annotations"][5].update(id=10, image_id=7), "two clips are called a-10"),
    ],
)
def test_files_that_make_no_sense_are_named(tmp_path, changes, words):
    write_coco(tmp_path / "coco", changes)
    with pytest.raises(UserError, match=words):
        run(tmp_path)


def test_a_wrong_name_lists_the_right_ones(tmp_path):
    with pytest.raises(UserError, match=r"data labels NAME=coko is none of .*did you mean 'coco'"):
        run(tmp_path, name="coko")
    with pytest.raises(UserError, match="name the source: .*coco.*usage: python -m data labels"):
        main([])
    with pytest.raises(UserError, match="out= is not set"):
        main(["coco", "root=x"])
    with pytest.raises(UserError, match="unknown key 'margn'"):
        run(tmp_path, "margn=2")


TOY = '''"""Two cameras that see a person who holds a ball: a data set in one file."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from data.format.labels import BodyParameters, CropLabels, Joints
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from engine.config.parser import key


@LABELLED.register("toy")
@dataclass
class Toy(LabelledSource):
    people: int = key(2, "how many", low=1)

    def read(self) -> Iterator[LabelledImage]:
        for person in range(self.people):
            for camera in range(2):
                pixels = np.full((100, 100, 3), 50 * camera, np.uint8)
                body = BodyParameters("toy", "", {"angle": np.full(3, person, np.float32)})
                joints = Joints("smplx22", np.ones((22, 3)), np.ones(22))
                yield LabelledImage(
                    image=cv2.imencode(".jpg", pixels)[1].tobytes(),
                    clip=f"toy/{person}",
                    subject=f"person {person}",
                    box=np.array([20, 20, 80, 80]),
                    labels=CropLabels(joints=joints, body=body if camera else None),
                    camera=f"cam{camera}",
                    K=np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]),
                    licence="CC0-1.0",
                )
'''


def test_a_source_of_ones_own_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(labelled, "__path__", [*labelled.__path__, str(tmp_path)])
    try:
        assert run(tmp_path, "people=3", "size=64", name="toy") == 0
        found = clips_of(tmp_path / "out")
    finally:
        sys.modules.pop("data.sources.labelled.toy", None)
        labelled.LABELLED.pop("toy", None)
    assert [clip.key for clip, *_ in found] == ["toy_0", "toy_1", "toy_2"]
    clip, images, labels, _ = found[2]
    assert images.shape == (2, 64, 64, 3) and [c.camera for c in clip.crops] == ["cam0", "cam1"]
    assert [labels.present(crop)["angle"] for crop in (0, 1)] == [False, True]
    assert labels.at(1).body.parameters["angle"].tolist() == [2, 2, 2]
    # The box of 60 pixels times 1.25 is 75, around (50, 50): 100 pixels of focal length become
    # 100 * 64 / 75.
    np.testing.assert_allclose(np.array(clip.crops[0].K)[0], [100 * 64 / 75, 0, 32], atol=1e-6)
    assert np.array_equal(clip.crops[0].Rt, np.eye(3, 4))


def test_keypoints_of_a_lens_are_undistorted_as_the_crop_is():
    from data.sources.cameras import Camera, project_distorted

    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    lens = np.array([-0.2, 0.05, 0.001, 0, 0, 0, 0, 0])
    camera = Camera("a", K, lens, np.eye(3, 4), 640, 480)
    point = np.array([[0.3, -0.2, 1.0]])
    pixels, _ = project_distorted(camera, point)
    box = np.array([400.0, 80, 560, 240])
    keypoints = Keypoints("x1", pixels, np.ones(1))
    moved = move_keypoints(keypoints, square_of_box(box), 64, camera)
    ideal = np.array([500 * 0.3 + 320, 500 * -0.2 + 240])
    np.testing.assert_allclose(moved.points[0], (ideal - box[:2]) * 0.4, atol=1e-3)


def test_crops_of_different_labels_make_no_clip():
    def labels(joint_set):
        return CropLabels(joints=Joints(joint_set, np.zeros((22, 3)), np.ones(22)))

    with pytest.raises(ValueError, match="different sets of joints: a22, b22"):
        stack_labels([labels("a22"), labels("b22")])
    bodies = [CropLabels(body=BodyParameters(m, "", {"pose": np.zeros((3, 3))})) for m in "ab"]
    with pytest.raises(ValueError, match="different body models: a, b"):
        stack_labels(bodies)


def test_labels_by_keypoints_alone_are_passed_over_where_a_body_is_wanted(tmp_path, people):
    """They are no bad bytes: a run on several sources continues without them."""
    from data.loading.build import open_crop_loader

    clip = make_clip(0, views=2, instants=1)
    clip.labels = stack_labels(
        [CropLabels(keypoints=Keypoints("coco17", np.ones((17, 2)), np.ones(17)))] * 2
    )
    write_shards(tmp_path, [clip], 1)
    config = CropDataConfig(str(tmp_path), val_clips=0, retries=3)
    order = open_crop_order(config, 1, 0)
    loader = open_crop_loader(order, config, 0, 1, 0)
    with pytest.raises(UserError, match="0 samples are bad, 4 have none by the rules"):
        next(iter(loader.batches(0, 1)))


def test_one_labelled_crop_of_a_body_is_read_as_it_is_among_others(people, tmp_path):
    """What fine-tuning gets of it is what it gets of the same crop in its own clip."""
    from data.loading.validation import val_crops

    def rows_of(folder):
        config = CropDataConfig(str(folder), val_clips=1)
        order = open_crop_order(config, 1, 0)
        order.sources[0].val = [(0, 0)]
        return val_crops(order, config, 1)

    store, path = Store(None), str(sorted(people["body"].glob("*.tar"))[0])
    reader = ClipReader(store)
    clip, members = reader.clip(path, 0)
    labels = read(store.read(path, *members["labels.npz"]), len(clip.crops))
    before = rows_of(people["body"])
    number = int(before["tags"][1, -3])
    clip.jpegs = [store.read(path, *members[f"{number:02d}.jpg"])]
    clip.masks = decode_masks(store.read(path, *members["masks.bin"]), len(clip.crops))[[number]]
    clip.crops, clip.overlap = [clip.crops[number]], None
    clip.labels = stack_labels([labels.at(number)])
    write_shards(tmp_path, [clip], 1)
    after = rows_of(tmp_path)
    assert len(after["tags"]) == 1
    for name in after:
        if name != "tags":
            np.testing.assert_array_equal(after[name][0], before[name][1], err_msg=name)


def test_a_try_without_a_shard_claims_no_folder(tmp_path):
    write_coco(tmp_path / "coco")
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read"):
        run(tmp_path, "annotations=nowhere.json")
    assert run(tmp_path) == 0
    with pytest.raises(UserError, match=r"annotations=nowhere\.json here, but the shards"):
        run(tmp_path, "annotations=nowhere.json")
