"""Bodies fitted to keypoints: what is found, what is left out, what is written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.bodies.base import mirrored
from data.bodies.body_files import VARIABLE
from data.bodies.models import open_model
from data.format.clip import Clip, Crop, decode_meta
from data.format.joint_sets import find_joint_set
from data.format.label_files import load_arrays
from data.format.labels import Keypoints, Labels
from data.format.samples import read_samples
from data.format.shards import shard_name, write_shard
from data.loading.crop_labels import find_label_kind
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix, project
from engine.pose_metrics import pa_mpjpe
from finetune.fit import command, photos
from finetune.fit import fitter as fitter_module
from finetune.fit.config import FitKeys
from finetune.fit.fitter import Fitter
from finetune.fit.minimise import minimise
from finetune.fit.observed import Rules, freeze_people, read_shards, read_stretches
from finetune.fit.prior import Sample, sample_people, take_hands
from finetune.inference.search import Region

SIZE = 256
TIMES = (0.0, 0.1, 0.2)
OUTLIER = (1, 9)  # camera, keypoint (the left wrist)


def look_at(angle: float) -> np.ndarray:
    """(3, 4) of a camera 3 m from the axis z at 1.2 m, looking at 0.9 m, its image upright."""
    centre = np.array([3 * np.sin(angle), -3 * np.cos(angle), 1.2])
    forward = np.array([0, 0, 0.9]) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return np.concatenate([R, -(R @ centre)[:, None]], 1)


@pytest.fixture(scope="module")
def sample(bodies):
    return sample_people(bodies["anny"], 80)


@pytest.fixture(scope="module")
def truth(bodies, sample):
    """(T, K, 3) keypoints and (T, 17, 3) COCO's points of a person who moves."""
    body = bodies["anny"].lean(1)
    pose = sample.pose[20:21] + torch.linspace(0, 0.3, 3)[:, None, None] * (
        sample.pose[40:41] - sample.pose[20:21]
    )
    pose[:, 0] = torch.tensor([0.0, 0.0, 0.4])
    place = torch.tensor([[0.0, 0.0, 0.9]] * 3)
    with torch.no_grad():
        vertices, joints = body(pose, place, sample.shape[20:21])
        landmarks = body.landmarks(vertices, joints).numpy()
    rows = [body.landmark_names.index(name) for name in find_joint_set("coco17").joints]
    return body.keypoints(vertices, joints).numpy(), landmarks[:, rows]


def make_clip(key: str, points: np.ndarray, instants: tuple, track: str | None) -> Clip:
    K = np.array([[320.0, 0, SIZE / 2], [0, 320.0, SIZE / 2], [0, 0, 1]])
    crops, seen = [], []
    for camera in range(3):
        Rt = look_at(2.1 * camera)
        for instant in instants:
            crops.append(Crop(f"cam{camera}", TIMES[instant], "body", K, Rt))
            seen.append(project(points[instant], K, Rt)[0])
            if camera == OUTLIER[0]:
                seen[-1][OUTLIER[1]] += [90, -40]
    # No network looks at the images.
    labels = Labels(
        np.arange(len(crops)),
        keypoints=Keypoints(
            "coco17", np.array(seen, np.float32), np.ones((len(crops), 17), np.float32)
        ),
    )
    jpegs = [b"\xff\xd8"] * len(crops)
    return Clip(key, "test", "CC0-1.0", "anna", SIZE, crops, jpegs, labels=labels, track=track)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, truth):
    """A person in two clips of one track, which share an instant, and one that is nobody's pose."""
    folder = tmp_path_factory.mktemp("shards")
    _, points = truth
    nobody = np.random.default_rng(0).permuted(points, axis=1)
    clips = [
        make_clip("one", points, (0, 1), "walk"),
        make_clip("two", points, (1, 2), "walk"),
        make_clip("nobody", nobody, (0, 1, 2), None),
    ]
    write_shard(str(folder / shard_name(0)), clips)
    return folder


@pytest.fixture(scope="module")
def fitted(shards, sample, bodies, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "sample_body", lambda body: sample)
        patch.setattr(command, "open_model", lambda name, variant: bodies[name])
        assert command.main([str(shards), f"out={out}", "run=none"]) == 0
    return out


def read_all(folder):
    """{key: (Clip, labels' arrays)} of a folder's first shard."""
    found = {}
    for key, members in read_samples(str(folder / shard_name(0))):
        found[key] = decode_meta(members["json"], key), load_arrays(members["labels.npz"])
    return found


def test_truth_is_recovered_in_spite_of_an_outlier(fitted, bodies, truth):
    body = bodies["anny"].lean(1)
    far = []
    for key, instants in (("one", (0, 1)), ("two", (1, 2))):
        arrays = read_all(fitted)[key][1]
        pose, root = (torch.from_numpy(arrays[name]) for name in ("pose", "root"))
        shape = torch.from_numpy(arrays["phenotype"])[None]
        with torch.no_grad():
            keypoints = body.keypoints(*body(pose, root, shape)).numpy()
        names = body.keypoint_names
        seen = [names.index(name) for name in names if name.partition("_")[2] in SEEN]
        far.append(np.linalg.norm(keypoints - truth[0][list(instants)], axis=-1)[:, seen])
    far = np.concatenate(far)
    assert far.mean() < 0.015, far.mean(0)
    wrist = [name for name in names if name.partition("_")[2] in SEEN].index("left_wrist")
    # Pulled by 90 px it would be half a metre away.
    assert far[:, wrist].max() < 0.03


SEEN = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def test_a_track_has_one_shape_and_one_pose_an_instant(fitted):
    found = read_all(fitted)
    one, two = found["one"][1], found["two"][1]
    assert np.array_equal(one["phenotype"], two["phenotype"])
    assert np.array_equal(one["pose"][1], two["pose"][0])
    people = json.loads((fitted / f"{shard_name(0)}.fit.json").read_text())["people"]
    assert [len(person["time_s"]) for person in people] == [3, 3]


def test_what_does_not_fit_is_left_out_and_counted(fitted):
    assert sorted(read_all(fitted)) == ["one", "two"]
    report = json.loads((fitted / f"{shard_name(0)}.fit.json").read_text())
    assert report["total"]["instants"] == 6 and report["total"]["kept"] == 3
    assert [any(person["kept"]) for person in report["people"]] == [True, False]
    assert report["total"]["crops"] == 12 and report["total"]["crops_read"] == 21


def test_training_reads_what_is_written(fitted, bodies):
    for key, members in read_samples(str(fitted / shard_name(0))):
        clip = decode_meta(members["json"], key)
        labels = find_label_kind("anny").read(members["labels.npz"], len(clip.crops), "")
        pose = axis_angle_to_matrix(torch.from_numpy(labels["pose"]))
        root = torch.from_numpy(labels["root"])
        _, joints = bodies["anny"](pose, root, torch.from_numpy(labels["shape"])[None])
        assert np.abs(joints.numpy() - labels["joints"]).max() < 1e-4
        for number, crop in enumerate(clip.crops):
            pixels, _ = project(labels["joints"][labels["instant"][number]], crop.K, crop.Rt)
            inside = ((pixels >= 0) & (pixels < SIZE)).all(1)
            assert np.array_equal(labels["joint_visible"][number] == 2, inside)
        assert 0.3 < labels["visible"].min() <= labels["visible"].max() <= 0.5


def test_it_resumes_and_refuses_another_fit(fitted, shards, monkeypatch):
    def fail(*_):
        raise AssertionError("a shard that is there is fitted again")

    monkeypatch.setattr(command, "_fit_shards", fail)
    before = (fitted / shard_name(0)).read_bytes()
    assert command.main([str(shards), f"out={fitted}", "run=none"]) == 0
    assert (fitted / shard_name(0)).read_bytes() == before
    with pytest.raises(UserError, match=r"fit\.sigma=0\.015, now it is 0\.02; take another folder"):
        command.main([str(shards), f"out={fitted}", "run=none", "fit.sigma=0.02"])
    monkeypatch.undo()
    # One that was killed before its report was written is fitted again.
    (fitted / f"{shard_name(0)}.fit.json").unlink()
    monkeypatch.setattr(command, "_fit_shards", lambda *_: command.Tally())
    assert command.main([str(shards), f"out={fitted}", "run=none"]) == 1


def test_clips_that_cannot_be_fitted_are_refused_in_words(tmp_path, truth, sample, bodies):
    clip = make_clip("plain", truth[1], (0,), None)
    clip.labels = None
    write_shard(str(tmp_path / shard_name(0)), [clip])
    rules = Rules("body", 0.3, 6)
    with pytest.raises(UserError, match="of 3 crops none of a body has 6 keypoints"):
        read_stretches(read_shards([str(tmp_path / shard_name(0))]), rules)
    clip = make_clip("uncalibrated", truth[1], (0,), None)
    clip.crops[0].K = None
    write_shard(str(tmp_path / shard_name(1)), [clip])
    with pytest.raises(UserError, match="crop 0 has no camera .* intrinsics=fx,fy,cx,cy"):
        read_stretches(read_shards([str(tmp_path / shard_name(1))]), rules)
    with pytest.raises(UserError, match="gorilla"):
        command.main([str(tmp_path), f"out={tmp_path}/out", "body=gorilla"])
    with pytest.raises(UserError, match="out= is not set"):
        command.main([str(tmp_path)])


def test_cameras_whose_poses_nobody_knows_are_fitted_each_on_its_own(tmp_path, truth):
    clip = make_clip("apart", truth[1], (0, 1), "walk")
    for crop in clip.crops:
        if crop.camera != "cam0":
            crop.Rt = None
    write_shard(str(tmp_path / shard_name(0)), [clip])
    shards = read_shards([str(tmp_path / shard_name(0))])
    stretches, _ = read_stretches(shards, Rules("body", 0.3, 6))
    seen = [{view.camera for view in one.views} for one in stretches]
    assert seen == [{"cam0"}, {"cam1"}, {"cam2"}]
    assert [one.times_s for one in stretches] == [[0.0, 0.1]] * 3


def test_one_persons_fit_does_not_depend_on_who_is_beside(bodies, sample, shards):
    fitter = Fitter(bodies["anny"], sample, FitKeys(steps=12))
    stretches, _ = read_stretches(read_shards([str(shards / shard_name(0))]), Rules("body", 0.3, 6))
    both = fitter.fit(stretches, {})
    alone = fitter.fit(stretches[:1], {})[0]
    assert torch.allclose(alone.parameters.pose, both[0].parameters.pose, atol=1e-3)
    assert np.allclose(alone.errors, both[0].errors, atol=1e-4)


def test_a_long_stretch_is_fitted_in_pieces_of_one_shape(bodies, sample, shards, monkeypatch):
    monkeypatch.setattr(fitter_module, "LONGEST", 2)
    monkeypatch.setattr(fitter_module, "BESIDE", 0)
    fitter = Fitter(bodies["anny"], sample, FitKeys(steps=20))
    stretches, _ = read_stretches(read_shards([str(shards / shard_name(0))]), Rules("body", 0.3, 6))
    found = fitter.fit(stretches[:1], {})[0]
    assert found.parameters.pose.shape == (3, 104, 3, 3) and len(found.errors) == 9
    assert (found.parameters.shape == found.parameters.shape[0]).all()
    # A third of the views have an outlier.
    assert np.median(found.errors) < 0.01


def test_videos_that_cannot_be_fitted_are_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="a.mp4: no such file"):
        command.main(["a.mp4", "b.mp4", f"out={tmp_path}"])
    with pytest.raises(UserError, match="no-such.mp4: no such file"):
        command.main([str(tmp_path / "no-such.mp4"), f"out={tmp_path}"])


def test_minimise_finds_each_minimum_on_its_own():
    scale = torch.tensor([[1.0, 10.0, 100.0], [5.0, 1.0, 0.1]])
    aim = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.5, 9.0]])

    def energy(x):
        return (scale * (x - aim).square()).sum(1) + (x - aim).pow(4).sum(1)

    found = minimise(energy, torch.zeros(2, 3), 60)
    assert torch.allclose(found, aim, atol=2e-2)
    one, of = scale[:1], aim[:1]
    alone = minimise(
        lambda x: (one * (x - of).square()).sum(1) + (x - of).pow(4).sum(1), torch.zeros(1, 3), 60
    )
    assert torch.equal(alone[0], found[0])


@pytest.mark.parametrize("side", ["left_hand", "right_hand"])
@pytest.mark.parametrize("name", ["anny_hand", "mano"])
def test_hands_are_fitted_and_read_back_on_their_side(
    name, side, bodies, sample, tmp_path, monkeypatch, request
):
    if name == "mano":
        standins = request.getfixturevalue("samples") / "body_model_standins"
        monkeypatch.setenv(VARIABLE, str(standins))
        hand = open_model("mano")
        # Fingers bend about their own axes at random; no hand is looked at.
        noise = torch.Generator().manual_seed(3)
        pose = 0.2 * torch.randn(40, 16, 3, generator=noise)
        pose[:, 0] = 0
        hands = Sample(pose, 0.5 * torch.randn(40, 10, generator=noise))
    else:
        hand, hands = bodies[name], take_hands(sample)
    flip = torch.tensor([side == "left_hand"])
    pose = axis_angle_to_matrix(hands.pose[30:31])
    pose[:, 0] = axis_angle_to_matrix(torch.tensor([[0.3, -0.2, 0.5]]))
    place = torch.tensor([[0.0, 0.0, 0.9]])
    vertices, joints = hand(pose, place, hands.shape[20:21])
    keypoints = hand.keypoints(vertices, joints)
    if side == "left_hand":
        keypoints = mirrored(keypoints)
    K = np.array([[2400.0, 0, SIZE / 2], [0, 2400.0, SIZE / 2], [0, 0, 1]])
    crops = [Crop(f"cam{n}", 0.0, side, K, look_at(2.1 * n)) for n in range(3)]
    rows = [hand.keypoint_names.index(point) for point in find_joint_set("hand21").joints]
    points = [project(keypoints[0, rows].numpy(), crop.K, crop.Rt)[0] for crop in crops]
    seen = Keypoints("hand21", np.array(points, np.float32), np.ones((3, 21), np.float32))
    labels = Labels(np.arange(3), keypoints=seen)
    clip = Clip("hand", "test", "CC0-1.0", "anna", SIZE, crops, [b"\xff\xd8"] * 3, labels=labels)
    write_shard(str(tmp_path / shard_name(0)), [clip])
    monkeypatch.setattr(command, "sample_body", lambda body: hands)
    monkeypatch.setattr(command, "open_model", lambda name, variant: hand)
    keys = [f"out={tmp_path}/out", "run=none", f"body={name}", "fit.max_error=0.2"]
    assert command.main([str(tmp_path / shard_name(0)), *keys]) == 0
    [(_, members)] = read_samples(str(tmp_path / "out" / shard_name(0)))
    # As training reads it.
    choice = hand.label_choice
    kind = find_label_kind(choice.model)
    read = kind.read(members["labels.npz"], 3, choice.variant)
    arrays = {
        one: torch.from_numpy(read[one] if one in kind.per_instant else read[one][None])
        for one in kind.shapes
    }
    arrays["pose"] = axis_angle_to_matrix(arrays["pose"])
    found = hand.mirror_parameters(hand.read_labels(arrays, flip), flip)
    back = hand.keypoints(*hand(found.pose, found.translation, found.shape))
    if side == "left_hand":
        back = mirrored(back)
    assert (back - keypoints).norm(dim=-1).mean() < 0.003


def test_a_photograph_is_fitted_by_the_camera_that_its_file_tells(
    tmp_path, truth, sample, bodies, monkeypatch
):
    image = Image.new("RGB", (400, 300), (90, 110, 130))
    exif = Image.Exif()
    # mm on 35 mm film, whose diagonal is 43.27 mm, and the size.
    exif.get_ifd(0x8769).update({0xA405: 50, 0xA002: 400, 0xA003: 300})
    image.save(tmp_path / "photo.jpg", exif=exif.tobytes())
    focal = 50 / 43.2666 * 500
    K = np.array([[focal, 0, 200.0], [0, focal, 150.0], [0, 0, 1]])
    Rt = look_at(0.3)
    Rt[:, 3] *= 2.2
    seen = project(truth[1][0], K, Rt)[0]
    points = np.concatenate([seen, np.ones((17, 1))], 1).astype(np.float32)
    box = np.concatenate([seen.min(0), seen.max(0)])
    region = Region(box, keypoints=points)
    monkeypatch.setattr(photos, "search_images", lambda paths, *_: {paths[0]: {"body": [region]}})
    monkeypatch.setattr(command, "sample_body", lambda body: sample)
    monkeypatch.setattr(command, "open_model", lambda name, variant: bodies[name])
    keys = [f"out={tmp_path}/out", "run=none", "fit.steps=60"]
    assert command.main([str(tmp_path / "photo.jpg"), *keys]) == 0
    [(clip, arrays)] = read_all(tmp_path / "out").values()
    [crop] = clip.crops
    side = np.ptp(box.reshape(2, 2), 0).max() * 1.25
    assert np.allclose(np.asarray(crop.K)[0, 0], focal * SIZE / side, rtol=1e-3)
    assert arrays["fit_error"][0] < 0.02
    # Kept where they are: the keypoints of the image, in the crop's pixels.
    back = arrays["keypoints"][0] * side / SIZE + np.asarray(crop.box)[:2]
    assert np.abs(back - seen).max() < 0.01


def test_what_fails_leaves_no_folder(tmp_path, shards):
    for words, told in (
        (["calibration=no-such.toml"], "no-such.toml"),
        (["body=anny_hand"], "none of a hand"),
        (["run=no-such-run"], "no-such-run"),
    ):
        with pytest.raises(UserError, match=told):
            command.main([str(shards), f"out={tmp_path}/out", *words])
        assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="none of a hand"):
        command.main([str(shards), f"out={tmp_path}/mine", "body=anny_hand", "run=none"])
    assert (tmp_path / "mine").is_dir()
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="2 paths, .*a.jpg first: one video is fitted at a time"):
        command.main([str(tmp_path / "a.jpg"), str(shards), f"out={tmp_path}/out"])
    with pytest.raises(UserError, match="camera=one is a name in a file: set calibration= too"):
        command.main([str(shards), f"out={tmp_path}/out", "camera=one"])


@pytest.mark.parametrize("known", [True, False])
def test_frozen_people_are_many_views_of_one_pose(known, bodies, sample, truth, tmp_path):
    """A camera goes a third of a circle round somebody who holds still."""
    K = np.array([[320.0, 0, SIZE / 2], [0, 320.0, SIZE / 2], [0, 0, 1]])
    poses = [look_at(angle) for angle in np.linspace(-0.5, 1.6, 6)]
    crops = [
        Crop("hand_held", 0.1 * n, "body", K, Rt if known else None) for n, Rt in enumerate(poses)
    ]
    points = np.array([project(truth[1][0], K, Rt)[0] for Rt in poses], np.float32)
    seen = Keypoints("coco17", points, np.ones((6, 17), np.float32))
    labels = Labels(np.arange(6), keypoints=seen)
    clip = Clip("still", "test", "CC0-1.0", "anna", SIZE, crops, [b"\xff\xd8"] * 6, labels=labels)
    write_shard(str(tmp_path / shard_name(0)), [clip])
    shards = [str(tmp_path / shard_name(0))]
    [stretch], _ = read_stretches(read_shards(shards), Rules("body", 0.3, 6))
    freeze_people([stretch])
    assert len(stretch.times_s) == (1 if known else 6)
    fitter = Fitter(bodies["anny"], sample, FitKeys(frozen=True))
    [found] = fitter.fit([stretch], {})
    pose = found.parameters.pose
    assert torch.equal(pose[:, 1:], pose[:1, 1:].expand_as(pose[:, 1:]))
    body = bodies["anny"].lean(1)
    with torch.no_grad():
        vertices, joints = body(pose, found.parameters.translation, found.parameters.shape)
        keypoints = body.keypoints(vertices, joints)
    names = [name for name in body.keypoint_names if name.partition("_")[2] in SEEN]
    rows = [body.keypoint_names.index(name) for name in names]
    true = torch.from_numpy(truth[0][:1]).expand(len(pose), -1, -1)
    apart = pa_mpjpe(keypoints[:, rows], true[:, rows])
    # How large somebody is no camera tells whose poses nobody knows.
    assert apart.max() < (12 if known else 30), apart
    assert found.errors.max() < 0.02
