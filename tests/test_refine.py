"""Bodies moved onto found keypoints: what is gained, what stays, what a kill costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from moving import make_take

from data.bodies.base import mirrored, mirrored_rotation
from engine.geometry import axis_angle_to_matrix, project
from finetune.animation.track import Track
from finetune.fit import refine
from finetune.fit.config import FitKeys
from finetune.fit.jumps import find_jumps
from finetune.fit.minimise import minimise
from finetune.fit.prior import sample_people, take_hands
from finetune.fit.refine import Bodies, Judge
from finetune.fit.refine_people import PeopleRefiner
from finetune.inference.fingers import SIDES, JoiningRules, chain_turns, map_hand
from finetune.video import refine as video_refine
from finetune.video.hands import hold_hands
from finetune.video.refine import TakeRefiner, measure_take, see_track

COUNT, FPS = 14, 25.0
K = np.array([[1400.0, 0, 640], [0, 1400.0, 360], [0, 0, 1]])
GARBAGE = (5, 6)  # frames whose keypoints are nobody's
BLIND = 9  # a frame without keypoints
KEYS = FitKeys(steps=60)


@pytest.fixture(scope="module")
def sample(bodies):
    return sample_people(bodies["anny"], 80)


def make_person(body, pose, place, shape, name="body-1", kind="body"):
    """A track of a person of 1280 x 720 px at 25 frames a second."""
    count = len(pose)
    return Track(
        name=name,
        kind=kind,
        body=body,
        frames=np.arange(count),
        times=np.arange(count) / FPS,
        pose=pose.astype(np.float32),
        shape=shape.astype(np.float32),
        translation=place.astype(np.float32),
        intrinsics=K,
        confidence=np.ones(count, np.float32),
        box=np.tile(np.array([400.0, 60, 880, 660], np.float32), (count, 1)),
    )


def find_points(track, random, noise_px):
    """(T, P, 3) keypoints of a track as a finder sees them."""
    judge = Judge(track.body, KEYS)
    with torch.no_grad():
        pose, place = refine.unmirror_left(track.kind, see_bodies(track))
        shape = torch.from_numpy(track.shape)[None]
        placed = judge.points(*judge.lean(pose, place, shape))
        placed = mirrored(placed) if track.kind == "left_hand" else placed
    given = judge.points.given.numpy()
    flat, _ = project(placed[:, given].double().numpy().reshape(-1, 3), K, np.eye(3, 4))
    out = np.zeros((len(track), len(given), 3), np.float32)
    out[:, given, :2] = flat.reshape(len(track), -1, 2)
    out[..., :2] += random.normal(0, noise_px, out[..., :2].shape)
    out[..., 2] = 0.8
    return out


def see_bodies(track):
    return Bodies(track.pose, track.shape, track.translation)


@pytest.fixture(scope="module")
def scene(bodies, sample):
    """(the true track, what a network sees of it, with found keypoints)."""
    body, random = bodies["anny"], np.random.default_rng(3)
    way = torch.linspace(0, 0.5, COUNT)[:, None, None]
    vectors = sample.pose[20:21] + way * (sample.pose[40:41] - sample.pose[20:21])
    vectors[:, 0] = torch.tensor([np.pi / 2, 0.0, 0.3])
    pose = axis_angle_to_matrix(vectors).numpy()
    place = np.column_stack(
        [np.linspace(-0.2, 0.2, COUNT), np.zeros(COUNT), np.linspace(4, 4.3, COUNT)]
    )
    true = make_person(body, pose, place, sample.shape[20].numpy())
    points = find_points(true, random, 4.0)
    for frame in GARBAGE:
        points[frame, :, :2] = random.uniform([300, 0], [900, 720], (17, 2))
    points[BLIND, :, 2] = 0.1
    wrong = random.normal(0, 0.09, (1, *vectors.shape[1:])) + random.normal(0, 0.03, vectors.shape)
    seen_pose = pose @ axis_angle_to_matrix(torch.from_numpy(wrong)).numpy()
    usual = np.full(len(body.shape_space.names), body.shape_space.mean)
    seen = make_person(body, seen_pose, place * 1.03 + [0.04, 0.03, 0], usual)
    seen.found = points
    seen.hands[:, 0] = True
    return true, seen


@pytest.fixture
def quick(monkeypatch, sample):
    """Priors of few people, and parts of few frames."""
    hands = take_hands(sample)
    monkeypatch.setattr(
        refine, "sample_body", lambda body: hands if body.kind == "hand" else sample
    )
    monkeypatch.setattr(refine, "TOGETHER", 12)


def name_kinds(bodies):
    return {"body": bodies["anny"], "hand": bodies["anny_hand"]}


def refine_take(bodies, folder, *tracks, keys=KEYS):
    folder.mkdir(exist_ok=True)
    refiner = TakeRefiner(name_kinds(bodies), keys, JoiningRules(), folder)
    return measure_take(refiner.refine(make_take(*tracks, frames=COUNT)), refiner.judges)


def list_wrists(bodies):
    return [map_hand(bodies["anny"], bodies["anny_hand"], side).wrist for side in SIDES]


def measure_mm(track, true):
    """(T,) mean error of the keypoints about the root, millimetres."""
    mine, theirs = (one.skeleton[1] - one.skeleton[1][:, :1] for one in (track, true))
    return 1000 * np.linalg.norm(mine - theirs, axis=-1).mean(1)


def test_truth_is_nearer_through_frames_of_bad_keypoints_too(bodies, scene, quick, tmp_path):
    true, seen = scene
    (found,) = refine_take(bodies, tmp_path, seen).tracks
    judge = Judge(seen.body, KEYS)
    before = judge.measure(see_track(seen), see_bodies(seen))
    nobody = [*GARBAGE, BLIND]
    good = np.setdiff1d(np.arange(COUNT), nobody)
    assert found.refined.all()  # what is nobody's is over soon
    assert np.isnan(found.error_px[BLIND]) and np.isnan(before[BLIND])
    assert found.error_px[good].mean() < 10 < 20 < before[good].mean()
    mine, theirs = measure_mm(found, true), measure_mm(seen, true)
    assert mine[good].mean() < 80 < 140 < theirs[good].mean(), (mine, theirs)
    assert (mine[nobody] < 0.7 * theirs[nobody]).all()
    assert np.array_equal(found.frames, seen.frames) and np.array_equal(found.box, seen.box)
    # A hand that was joined to the body faces as it did; the other one has gone with the arm.
    turned = [
        [
            chain_turns(torch.from_numpy(track.pose[2]), wrist, seen.body.parents)
            for wrist in list_wrists(bodies)
        ]
        for track in (seen, found)
    ]
    assert torch.allclose(turned[0][0], turned[1][0], atol=1e-4)
    assert not torch.allclose(turned[0][1], turned[1][1], atol=0.02)


def test_a_finders_slip_moves_nobody(bodies, scene, quick, tmp_path):
    true, seen = scene
    slip = COUNT // 2 + 1
    points = find_points(true, np.random.default_rng(5), 4.0)
    # Somebody beside them, whom the network then sees too.
    points[slip, :, :2] += [130, -40]
    place = seen.translation.copy()
    place[slip, 0] += 0.8
    slipped = replace(seen, found=points, translation=place)
    sizes = np.full(COUNT, 600.0)
    jumps = find_jumps(points, slipped.times, sizes, 0.3)
    assert np.flatnonzero(jumps).tolist() == [slip]
    (found,) = refine_take(bodies, tmp_path, slipped).tracks
    assert found.refined[slip] and np.isnan(found.error_px[slip])
    off = np.linalg.norm(found.translation - true.translation, axis=1)
    assert off[slip] < 1.3 * max(off[slip - 1], off[slip + 1])
    assert measure_mm(found, true)[slip] < measure_mm(seen, true)[slip]


def test_fast_limbs_and_slow_videos_are_no_slips():
    times = np.arange(30) / 30
    points = np.full((30, 17, 3), 0.9)
    points[..., :2] = np.arange(17)[:, None] * 20.0
    sizes = np.full(30, 300.0)
    kick = points.copy()
    kick[14:16, 13:17, 0] += 250  # a leg
    assert not find_jumps(kick, times, sizes, 0.3).any()
    walk = points.copy()
    walk[..., 0] += (times * 900)[:, None]  # three times their size a second
    assert not find_jumps(walk, times, sizes, 0.3).any()
    away = points.copy()
    away[14, :, 0] += 60
    assert np.flatnonzero(find_jumps(away, times, sizes, 0.3)).tolist() == [14]
    assert not find_jumps(away, times * 6, sizes, 0.3).any()  # five frames a second
    away[14, :, 2] = 0.1
    assert not find_jumps(away, times, sizes, 0.3).any()


def test_what_was_nearer_to_the_keypoints_stays(scene):
    """A fit that is worse in some frames is not taken there, and fades beside them."""
    true, seen = scene
    good = make_person(seen.body, true.pose, true.translation, true.shape)
    good.found = find_points(true, np.random.default_rng(0), 1.0)
    asked = see_track(good)
    places = true.translation.copy()
    places[4:6, 0] += 0.5
    places[9, 0] += 0.02
    refiner = refine.Refiner(seen.body, KEYS)
    taken = refiner.choose(asked, Bodies(true.pose, true.shape, places))
    # 2 cm are within what keypoints tell.
    assert np.flatnonzero(~taken).tolist() == [4, 5]
    share = video_refine.fade_in(taken, true.times)
    assert (share[4:6] == 0).all() and 0.3 < share[3] < 0.5 < share[7] < 1 and share[10] == 1


def test_somebody_of_whom_no_keypoints_are_right_stays(bodies, scene, quick, tmp_path):
    _, seen = scene
    random = np.random.default_rng(0)
    lost = make_person(seen.body, seen.pose, seen.translation, seen.shape)
    lost.found = seen.found.copy()
    lost.found[..., :2] = random.uniform([300, 0], [900, 720], (17, 2))
    none = make_person(seen.body, seen.pose, seen.translation, seen.shape, "body-2")
    first, second = refine_take(bodies, tmp_path, lost, none, keys=FitKeys(steps=12)).tracks
    for track in (first, second):
        assert not track.refined.any()
        for name in ("pose", "shape", "translation"):
            assert np.array_equal(getattr(track, name), getattr(lost, name))
    assert np.isfinite(first.error_px).sum() == COUNT - 1 and second.error_px is None


def test_a_stopped_refinement_resumes_to_the_same_bytes(
    bodies, scene, quick, tmp_path, monkeypatch
):
    _, seen = scene
    short = FitKeys(steps=12)
    (whole,) = refine_take(bodies, tmp_path / "whole", seen, keys=short).tracks
    real, calls = video_refine._fit_part, []

    def stop(*words):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(video_refine, "_fit_part", stop)
    with pytest.raises(KeyboardInterrupt):
        refine_take(bodies, tmp_path, seen, keys=short)
    (found,) = refine_take(bodies, tmp_path, seen, keys=short).tracks
    assert len(calls) == 4 + 1  # one of the parts twice
    (again,) = refine_take(bodies, tmp_path, seen, keys=short).tracks
    assert len(calls) == 4 + 1  # all is there
    assert again.pose.tobytes() == whole.pose.tobytes()
    for name in ("pose", "shape", "translation", "refined", "error_px"):
        assert getattr(found, name).tobytes() == getattr(whole, name).tobytes()
    kept = sorted(path.name for path in tmp_path.glob("refined.*"))
    refine_take(bodies, tmp_path, seen, keys=FitKeys(steps=3))
    assert not set(kept) & {path.name for path in tmp_path.glob("refined.*")}


def test_a_left_hand_is_refined_as_its_mirror_image(bodies, sample, quick, tmp_path):
    body, random = bodies["anny_hand"], np.random.default_rng(5)
    vectors = take_hands(sample).pose[30:31].repeat(6, 1, 1)
    vectors[:, 0] = torch.tensor([0.3, 0.2, 0.1])
    pose = axis_angle_to_matrix(vectors).numpy()
    place = np.tile([0.02, 0.01, 0.5], (6, 1))
    shape = np.full(len(body.shape_space.names), body.shape_space.mean)
    true = make_person(body, pose, place, shape, "right_hand-1", "right_hand")
    found = find_points(true, random, 1.0)
    wrong = random.normal(0, 0.15, (1, *vectors.shape[1:])).repeat(6, 0)
    spoilt = pose @ axis_angle_to_matrix(torch.from_numpy(wrong)).numpy()
    right = make_person(body, spoilt, place, shape, "right_hand-1", "right_hand")
    right.found = found
    turns = mirrored_rotation(torch.from_numpy(right.pose)).numpy()
    left = make_person(body, turns, place * [-1, 1, 1], shape, "left_hand-2", "left_hand")
    left.found = found * np.array([-1, 1, 1], np.float32) + np.array([2 * K[0, 2], 0, 0])
    left.found = left.found.astype(np.float32)
    one, other = refine_take(bodies, tmp_path, right, left).tracks
    assert one.refined.all() and other.refined.all()
    back = mirrored_rotation(torch.from_numpy(other.pose)).numpy()
    assert np.abs(back - one.pose).max() < 0.02
    assert measure_mm(one, true).mean() < 0.6 * measure_mm(right, true).mean()


def test_people_of_a_photograph_are_refined_side_by_side(bodies, scene, quick):
    _, seen = scene
    people = [seen.make_person(row) for row in (0, 12, GARBAGE[0], 1)]
    points = [seen.found[0], seen.found[12], seen.found[GARBAGE[0]], None]
    refiner = PeopleRefiner(name_kinds(bodies), FitKeys(steps=40))
    found = refiner.refine(people, points, "body")
    assert [one.refined for one in found] == [True, True, False, None]
    before = Judge(seen.body, KEYS).measure(
        replace(see_track(seen), slipped=None), see_bodies(seen)
    )
    assert found[0].error_px < 0.5 * before[0] and found[1].error_px < 0.5 * before[12]
    assert np.isclose(found[2].error_px, before[GARBAGE[0]])
    assert np.array_equal(found[2].pose, people[2].pose) and found[3] is people[3]
    # Its mesh is that of its parameters.
    body, numbers = bodies["anny"], [found[0].pose, found[0].translation, found[0].shape]
    with torch.no_grad():
        vertices, _ = body(*(torch.from_numpy(one)[None] for one in numbers))
    assert np.allclose(vertices[0].numpy(), found[0].vertices, atol=1e-5)


def test_hands_stay_through_short_losses(bodies, scene):
    _, seen = scene
    random = np.random.default_rng(1)
    times = 40
    pose = seen.pose[:1].repeat(times, 0)
    finger = seen.body.joint_names.index("finger2-1.L")
    turns = axis_angle_to_matrix(torch.from_numpy(random.normal(0, 0.4, (times, 3)))).numpy()
    pose[:, finger] = turns
    track = make_person(seen.body, pose, seen.translation[:1].repeat(times, 0), seen.shape)
    track.hands[:, 0] = True
    track.hands[5:9, 0] = False  # for 0.16 s
    track.hands[15:35, 0] = False  # for 0.8 s
    (held,) = hold_hands(make_take(track, frames=times), bodies["anny_hand"]).tracks
    assert held.held[5:9, 0].all() and not held.held[:, 1].any()
    assert not (held.held & held.hands).any()
    # Between two frames with a hand its fingers are between theirs.
    step = np.linalg.norm(held.pose[4:9, finger] - held.pose[5:10, finger], axis=(1, 2))
    assert np.allclose(step, step.mean(), rtol=0.05)
    # In a longer loss they become the body's own, and then are those.
    assert np.array_equal(held.pose[22:28], track.pose[22:28]) and held.held[16, 0]
    assert not held.held[22:28].any()
    first = np.linalg.norm(held.pose[15, finger] - track.pose[14, finger])
    assert first < np.linalg.norm(track.pose[15, finger] - track.pose[14, finger])
    assert np.array_equal(held.pose[track.hands[:, 0]], track.pose[track.hands[:, 0]])


def test_a_guess_of_the_hessian_spares_steps():
    random = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, 4, 30)[torch.randperm(30, generator=random)]
    goal = torch.randn(2, 30, generator=random)

    def energy(x):
        return 0.5 * ((x - goal).square() * scale).sum(1)

    start = torch.zeros(2, 30)
    plain = energy(minimise(energy, start, 8))
    known = energy(minimise(energy, start, 8, lambda x: x / scale))
    assert (known < 1e-6 * energy(start)).all() and (plain > 1e-4 * energy(start)).all()
