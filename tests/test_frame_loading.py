"""Batches of whole frames: order by aspect, resuming, and labels that follow cuts and mirrors."""

import clips
import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from scipy.spatial import cKDTree

from data.bodies.anny_body import AnnyBody
from data.config import (
    CropDataConfig,
    CropPairDataConfig,
    DataConfig,
    FrameDataConfig,
    SourceConfig,
)
from data.cropping.geometry import Square, image_to_crop
from data.format.frame import ASPECTS, Frame, FramePerson, encode_frame
from data.format.labels import OUTSIDE
from data.format.shards import write_samples
from data.loading.augment import denormalise
from data.loading.build import (
    count_excluded,
    open_crop_order,
    open_crop_pair_order,
    open_order,
    people_at,
)
from data.loading.frame_batch import prepare_frames
from data.loading.frame_build import open_frame_loader, open_frame_order, val_frames
from data.loading.frames import FrameAugmentConfig, FrameRules, list_sizes, share_in_cut
from data.sampling.left_out import LeftOut
from data.sampling.manifest import freeze
from data.tools import rewrite_plan
from engine.errors import UserError
from engine.geometry import project

SHAPES = ((96, 72), (72, 96), (96, 96), (96, 54))
SIZES = list_sizes(64, 16)
FACES = ["jawOpen", *[f"mouthSmile{side}" for side in ("Left", "Right")]] + [
    f"action{i}" for i in range(49)
]


def draw_frame(number):
    """A frame of two people whose only visible parts are coloured squares around their wrists."""
    rng = np.random.default_rng(number)
    width, height = SHAPES[number % len(SHAPES)]
    K = np.array([[90.0, 0, width / 2], [0, 90, height / 2], [0, 0, 1]])
    R, _ = cv2.Rodrigues(rng.normal(0, 0.3, 3))
    Rt = np.concatenate([R, rng.normal(0, 0.2, (3, 1)) + [[0], [0], [4]]], 1)
    pose = rng.normal(0, 0.2, (2, 104, 3)).astype(np.float32)
    joints = rng.normal(0, 0.4, (2, 104, 3)).astype(np.float32) + [[[-0.6, 0, 0]], [[0.6, 0, 0]]]
    ids, image = np.zeros((height, width), np.uint8), np.full((height, width, 3), 90, np.uint8)
    xy, _ = project(joints, K, Rt)
    visible = np.where(((xy >= 0) & (xy < [width, height])).all(-1), 2, 0).astype(np.uint8)
    for i in range(2):
        x, y = np.clip(xy[i].mean(0), 12, [width - 13, height - 13]).astype(int)
        ids[y - 9 : y + 9, x - 9 : x + 9] = i + 1
        image[y - 9 : y + 9, x - 9 : x + 9] = [(250, 20, 20), (20, 20, 250)][i]
    labels = {
        "body_model": np.array("anny"),
        "pose": pose,
        "root": joints[:, 0].astype(np.float32),
        "phenotype": np.full((2, 6), 0.5, np.float32),
        "face": rng.random((2, 52)).astype(np.float32),
        "joints": joints.astype(np.float32),
        "joint_visible": visible,
        "keypoint_set": np.array("coco17"),
        "keypoints": xy[:, :17].astype(np.float32),
        "keypoint_visible": visible[:, :17],
    }
    people = [
        FramePerson(f"s{number}-{i}", str(i), [*xy[i].min(0), *xy[i].max(0)], 0.8) for i in range(2)
    ]
    jpeg = simplejpeg.encode_jpeg(image, 98, "RGB", "444")
    key = f"frame-{number:03d}"
    scene = f"scene-{number // 2}"
    return Frame(
        key, "drawn", "CC0-1.0", width, height, scene, people, "0", 0.0, K, Rt, jpeg, ids, labels
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    for shard in range(3):
        frames = map(draw_frame, range(14 * shard, 14 * shard + 14))
        samples = ((frame.key, encode_frame(frame)) for frame in frames)
        write_samples(str(folder / f"shard-{shard:06d}.tar"), samples)
    return folder


def config_of(shards, **more):
    more.setdefault("rules", FrameRules(people_max=4, shown_min=0.05))
    return FrameDataConfig(shards=str(shards), val_clips=4, **more)


def batches(shards, start, stop, workers=0, rank=0, world=1, batch=4, **more):
    config = config_of(shards, **more)
    order = open_frame_order(config, batch, 7)
    loader = open_frame_loader(order, config, SIZES, rank, world, workers)
    try:
        return [
            (order.aspect(step), {name: values.copy() for name, values in arrays.items()})
            for step, arrays in loader.batches(start, stop)
        ]
    finally:
        loader.close()


def test_a_batch_is_of_one_aspect_and_every_frame_comes_equally_often(shards):
    config = config_of(shards)
    order = open_frame_order(config, 4, 7)
    # Validation frames are the last four, and with them goes what shares a scene with them.
    assert order.totals == [38]
    counts = {}
    for n in range(4 * 256):
        draw = order.draw(n)
        assert draw.kind == order.aspect(n // 4)
        number = 14 * draw.shard + draw.index
        width, height = SHAPES[number % 4]
        assert abs(np.log(list(ASPECTS.values())[draw.kind] * height / width)) < 0.01
        counts[number] = counts.get(number, 0) + 1
    assert sorted(counts) == list(range(38))
    # 1024 draws of 38 frames: 27 each, but for what rounding to 256 batches leaves.
    assert min(counts.values()) >= 23 and max(counts.values()) <= 31
    assert order.epochs(4 * 256)["all"] == pytest.approx(1024 / 38, rel=0.05)


def test_resuming_workers_and_ranks_give_the_same_rows(shards):
    whole = batches(shards, 0, 6)
    again = batches(shards, 4, 6, workers=2)
    for (aspect, one), (other_aspect, other) in zip(whole[4:], again, strict=True):
        assert aspect == other_aspect
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    half = batches(shards, 0, 2, rank=1, world=2)
    for (_, one), (_, part) in zip(whole[:2], half, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name][2:], part[name], err_msg=name)


def prepared(shards, **augment):
    config = FrameAugmentConfig(**{"colour": 0.0, **augment})
    for aspect, arrays in batches(shards, 0, 8, augment=config):
        batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
        yield arrays, SIZES[aspect], prepare_frames(batch, SIZES[aspect], FACES)


def test_labels_follow_cuts_rotations_and_mirrors(shards):
    flips = seen = 0
    for arrays, size, out in prepared(shards, rotation_deg=40, whole_share=0.0, scale_min=0.6):
        there = out.present & out.body_known
        assert out.images.shape[2:] == size and there.any(1).all()
        xy = torch.einsum("bij,bmnj->bmni", out.K, out.joints / out.joints[..., 2:])
        torch.testing.assert_close(
            xy[..., :2][there], out.joint_points[there], atol=2e-3, rtol=1e-5
        )
        flip = arrays["numbers"][:, 4] > 0
        flips += flip.sum()
        for b, m in torch.nonzero(there).tolist():
            # Keypoints 0 to 16 are joints 0 to 16 of these frames; in a mirror their names change,
            # joints by anny's sides and keypoints by COCO's, so the sets of points are compared.
            if not flip[b]:
                torch.testing.assert_close(
                    out.joint_points[b, m, :17], out.keypoints[b, m, :, :2], atol=0.02, rtol=1e-4
                )
            image = denormalise(out.images[b : b + 1])[0]
            colour = (image[0] - image[2]) * (1 if _who(arrays, b, m) == 0 else -1)
            centre = out.joint_points[b, m].mean(0)
            x, y = centre.round().int().tolist()
            if 5 < x < size[1] - 5 and 5 < y < size[0] - 5:
                y0, x0 = _place_of_square(arrays, b, m, size, flip[b])
                if 2 < x0 < size[1] - 2 and 2 < y0 < size[0] - 2:
                    assert colour[int(y0), int(x0)] > 0.3
                    seen += 1
        outside = ((out.joint_points < 0) | (out.joint_points >= torch.tensor(size[::-1]))).any(-1)
        assert (out.joint_visible[outside] == OUTSIDE).all()
    assert flips > 5 and seen > 20


def test_spoilt_images_are_of_the_slot_alone_and_keep_their_labels(shards):
    keys = FrameAugmentConfig(degrade_share=0.8, tone=0.3, hue_deg=40, grey_share=0.3)
    aspect, arrays = batches(shards, 2, 4)[1]
    again_aspect, again = batches(shards, 3, 4)[0]
    found = []
    for one in (arrays, again):
        batch = {name: torch.from_numpy(values.copy()) for name, values in one.items()}
        found.append(prepare_frames(batch, SIZES[aspect], FACES, keys))
    plain = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
    plain = prepare_frames(plain, SIZES[aspect], FACES)
    assert aspect == again_aspect and torch.equal(found[0].images, found[1].images)
    assert (found[0].images - plain.images).abs().mean() > 0.05
    assert torch.equal(found[0].joint_points, plain.joint_points)


def _who(arrays, b, m):
    """Which of the two people of a frame is at place m: by where the box is."""
    source = draw_frame(14 * int(arrays["tags"][b, 5]) + int(arrays["tags"][b, 6]))
    boxes = np.array([person.box for person in source.people])
    return int(np.abs(boxes - arrays["box"][b, m]).max(1).argmin())


def _place_of_square(arrays, b, m, size, flip):
    source = draw_frame(14 * int(arrays["tags"][b, 5]) + int(arrays["tags"][b, 6]))
    y, x = (v.mean() + 0.5 for v in np.nonzero(source.ids == _who(arrays, b, m) + 1))
    to_cut = image_to_crop(Square(*arrays["numbers"][b, :4].astype(float)), size)
    u, v, _ = to_cut @ [x, y, 1]
    return v, size[1] - u if flip else u


def test_bodies_in_the_cameras_axes_are_the_bodies(shards):
    """anny posed by the arrays stands where the frame's camera sees the labelled body."""
    body = AnnyBody()
    frame = draw_frame(3)
    given = [torch.from_numpy(frame.labels[name]) for name in ("pose", "root", "phenotype", "face")]
    with torch.inference_mode():
        world, _ = body(*given)
    at_camera = world.numpy() @ frame.Rt[:, :3].T + frame.Rt[:, 3]
    done = 0
    for arrays, _, out in prepared(shards, whole_share=1.0, flip=False):
        for b in range(len(arrays["tags"])):
            if (arrays["tags"][b, 5], arrays["tags"][b, 6]) != (0, 3) or done:
                continue
            with torch.inference_mode():
                found, _ = body(out.pose[b, :2], out.root[b, :2], out.shape[b, :2], out.face[b, :2])
            assert np.abs(found.numpy() - at_camera).max() < 1e-4
            done += 1
    assert done


def test_a_mirrored_body_is_the_mirror_image(shards):
    body = AnnyBody()
    names = body.face_names
    config = FrameAugmentConfig(whole_share=1.0, colour=0.0)
    _, arrays = batches(shards, 0, 1, augment=config)[0]
    both = []
    for flip in (0, 1):
        arrays["numbers"][:, 4] = flip
        batch = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
        out = prepare_frames(batch, SIZES[int(arrays["tags"][0, 0])], names)
        with torch.inference_mode():
            both.append(
                body(out.pose[0, :1], out.root[0, :1], out.shape[0, :1], out.face[0, :1])[0]
            )
    one = both[0].numpy()[0] * [-1, 1, 1]
    other = both[1].numpy()[0]
    # The mesh is symmetric: each vertex of the mirror image lies on one of the mirrored body.
    assert np.median(cKDTree(other).query(one)[0]) < 1e-3
    assert np.percentile(cKDTree(other).query(one)[0], 99) < 5e-3


def test_shown_counts_pixels_in_the_cut(shards):
    frame = draw_frame(0)
    size = SIZES[list(ASPECTS).index("4:3")]
    y, x = np.nonzero(frame.ids == 1)
    square = Square(float(x.mean()) + 0.5, 36.0, 60.0, 0.3)
    to_cut = image_to_crop(square, size)
    found = share_in_cut(frame.ids, 2, to_cut, size)
    for i in range(2):
        y, x = np.nonzero(frame.ids == i + 1)
        inside = 0
        for u, v in zip(x, y, strict=True):
            a, b, _ = to_cut @ [u + 0.5, v + 0.5, 1]
            inside += 0 <= a < size[1] and 0 <= b < size[0]
        assert found[i] == pytest.approx(inside / len(x), abs=1e-9)
    assert found[0] > 0.5


def test_validation_frames_are_whole_and_apart(shards):
    config = config_of(shards)
    order = open_frame_order(config, 4, 7)
    found = val_frames(order, config, SIZES, 10)
    places = sorted(tuple(tags[5:7]) for part in found for tags in part["tags"].tolist())
    assert places == [(2, 10), (2, 11), (2, 12), (2, 13)]
    for part in found:
        assert len(set(part["tags"][:, 0].tolist())) == 1
        assert (part["numbers"][:, 3:] == [0, 0, 1, 1, 1]).all()


def test_clips_are_told_apart_in_a_sentence(tmp_path):
    clips.write_shards(tmp_path, [clips.make_clip(i) for i in range(4)], 2)
    config = FrameDataConfig(sources={"a": SourceConfig(shards=str(tmp_path))})
    with pytest.raises(UserError, match="source 'a': none of its shards holds whole frames"):
        open_frame_order(config, 2, 0)


@pytest.mark.parametrize("open_it", [open_order, open_crop_order, open_crop_pair_order])
def test_frames_are_told_apart_where_clips_are_wanted(shards, open_it):
    config = {open_order: DataConfig, open_crop_order: CropDataConfig}.get(
        open_it, CropPairDataConfig
    )
    with pytest.raises(UserError, match=r"it holds whole frames \(data make scene\)"):
        open_it(config(shards=str(shards)), 4, 0)


def test_who_withdraws_takes_the_frame_along(shards, tmp_path):
    (tmp_path / "withdrawn.txt").write_text("s3-1\n")
    first = sorted(shards.glob("*.tar"))[0]
    fate = rewrite_plan.survey_shard(str(first), frozenset({"s3-1"})).fate
    assert np.flatnonzero(fate == rewrite_plan.EXCLUDED).tolist() == [3]
    read = batches(shards, 0, 12, exclude=str(tmp_path / "withdrawn.txt"))
    config = config_of(shards, exclude=str(tmp_path / "withdrawn.txt"))
    order = open_frame_order(config, 4, 7)
    assert count_excluded(order, config) == {"s3-1": 1}
    (tmp_path / "withdrawn.txt").write_text("s3-7\n")
    with pytest.raises(UserError, match="'s3-7', who is in none of the frames in 3 shards"):
        count_excluded(order, config)
    assert people_at(order, config, [(0, 0, 5)]) == [("drawn", "scene-2")]
    order.leave_out([LeftOut()])
    freeze(order, tmp_path / "manifest.json")
    freeze(open_frame_order(config, 4, 7), tmp_path / "manifest.json")
    assert sum(order.lane_length) >= 38 and order.slices == [1]
    places = {tuple(tags[5:7]) for _, arrays in read for tags in arrays["tags"].tolist()}
    assert (0, 3) not in places and len(places) > 20
    assert sum(arrays["tags"][:, 4].sum() for _, arrays in read) > 0  # it was drawn and replaced
