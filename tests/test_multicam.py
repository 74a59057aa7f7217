"""People matched across cameras, and the cameras' clocks, against scenes whose truth is known."""

import itertools

import numpy as np
import pytest

from data.find.detection import Detection, HandDetection
from data.find.finder import open_finder
from data.find.turning import turn_detection, turn_image
from data.sources.cameras import project_distorted, undistort_pixels
from data.sources.config import PairsConfig
from data.sources.multicam.appearance import compare_colours, describe_colours
from data.sources.multicam.associate import NOBODY, contract_greedily
from data.sources.multicam.hands import agreeing_hands
from data.sources.multicam.health import measure_best_errors, tell_calibration, tell_strangers
from data.sources.multicam.people import (
    Found,
    box_people,
    identify,
    mark_bystanders,
    match_people,
    shows_enough,
)
from data.sources.multicam.plan import locate_people, plan_clips
from data.sources.multicam.rays import (
    epipolar_distances,
    fundamental_matrix,
    meet_rays,
    pixel_rays,
    triangulate_many,
)
from data.sources.multicam.search import Searched, fill_between
from data.sources.multicam.sightings import collect_sightings
from data.sources.multicam.synchronise import Synchrony, estimate_synchrony, tell_synchrony
from data.sources.multicam.views import View
from data.sources.probe import Problems
from engine.errors import UserError
from engine.geometry import project, triangulate
from tests.crowds import break_up, film, rename, ring, switch, walk

COUNT, STEP_S = 90, 1 / 30


def _crossing():
    """Three people whose paths cross in the middle."""
    return {
        "ann": walk((-1.6, -1.2), (1.6, 1.2), COUNT),
        "bob": walk((1.5, -1.3), (-1.5, 1.3), COUNT),
        "cy": walk((0.2, 1.7), (0.1, -1.6), COUNT),
    }


def _sightings(cameras, tracks, shifts=None):
    shifts = shifts or [0] * len(cameras)
    return [
        collect_sightings(camera, {i: i + shift for i in range(-40, COUNT + 40)}, own)
        for camera, own, shift in zip(cameras, tracks, shifts, strict=True)
    ]


def _truth(sightings, scene):
    """For each view who each sighting is of, by the detection itself."""
    by_id = {}
    for own in scene:
        for person, track in own.items():
            by_id |= {id(found): person for found in track.values()}
    return [[by_id[id(found)] for found in seen.detections] for seen in sightings]


def _share_right(identities, truth):
    """Share of the sightings that have their person's identity, the best way round."""
    names = sorted({person for own in truth for person in own})
    numbers = sorted({int(n) for own in identities for n in own} - {NOBODY})
    pairs = list(zip(np.concatenate(identities).tolist(), itertools.chain(*truth), strict=True))
    best = 0
    for order in itertools.permutations(numbers, min(len(names), len(numbers))):
        naming = dict(zip(order, names, strict=False))
        best = max(best, sum(naming.get(number) == person for number, person in pairs))
    return best / len(pairs)


def test_rays_agree_with_the_plain_functions():
    a, b = ring([0, 80])
    points = np.random.default_rng(1).normal(0, 0.5, (20, 3)) + [0, 0, 1]
    at = [project(points, c.K, c.Rt)[0] for c in (a, b)]
    F = fundamental_matrix(a.K, a.Rt, b.K, b.Rt)
    ones = np.array(1.0)
    assert epipolar_distances(at[0], ones, at[1], ones, F).max() < 1e-8
    # Moved across its line by d in one image, the least correction of both is d over the root of 2
    # where both images have one scale.
    line = F @ np.append(at[0][0], 1)
    off = at[1][0] + 4 * line[:2] / np.linalg.norm(line[:2])
    found = epipolar_distances(at[0][:1], ones, off[None], ones, F)[0]
    assert 1.5 < found < 4
    rays = [pixel_rays(p, c.K, c.Rt) for p, c in zip(at, (a, b), strict=True)]
    gaps, far_a, far_b = meet_rays(rays[0], a.Rt, rays[1], b.Rt)
    assert gaps.max() < 1e-8 and far_a.min() > 3 and far_b.min() > 3
    pixels = np.stack(at) + np.random.default_rng(2).normal(0, 2, (2, 20, 2))
    pixels[0, 3] = np.nan
    Ks, Rts = np.stack([a.K, b.K]), np.stack([a.Rt, b.Rt])
    mine = triangulate_many(pixels, np.ones((2, 20)), Ks, Rts)
    np.testing.assert_allclose(mine, triangulate(pixels, Ks, Rts), atol=1e-6)


def test_people_who_cross_keep_their_identity():
    """One camera's tracks come in another order, another's are broken into pieces."""
    cameras = ring([0, 70, 150])
    scene = film(cameras, _crossing())
    tracks = [
        scene[0],
        rename(scene[1], {"ann": "2", "bob": "0", "cy": "1"}),
        break_up(scene[2], (31, 64)),
    ]
    sightings = _sightings(cameras, tracks)
    identities = identify(sightings, cameras, STEP_S)
    assert len({int(n) for own in identities for n in own}) == 3
    assert _share_right(identities, _truth(sightings, scene)) > 0.995


@pytest.mark.parametrize("start", [30, 44])
def test_a_track_that_changes_person_is_split_there(start):
    cameras = ring([0, 70, 150])
    scene = film(cameras, _crossing())
    tracks = [scene[0], switch(scene[1], "ann", "bob", start), scene[2]]
    sightings = _sightings(cameras, tracks)
    identities = identify(sightings, cameras, STEP_S)
    assert _share_right(identities, _truth(sightings, scene)) > 0.99


def test_two_cameras_are_enough():
    cameras = ring([0, 90])
    scene = film(cameras, _crossing())
    sightings = _sightings(cameras, [scene[0], break_up(scene[1], (40,))])
    identities = identify(sightings, cameras, STEP_S)
    assert _share_right(identities, _truth(sightings, scene)) > 0.98


def test_a_person_whom_one_camera_does_not_show_is_not_given_to_it():
    cameras = ring([0, 70, 150])
    people = _crossing()
    scene = film(cameras, people)
    del scene[2]["cy"]
    sightings = _sightings(cameras, scene)
    identities = identify(sightings, cameras, STEP_S)
    truth = _truth(sightings, scene)
    assert _share_right(identities, truth) > 0.995


def _by_truth(sightings, truth, looks):
    """What describes colours, told by who a sighting is of."""
    names = sorted(looks)
    described = {name: np.full((2, 16), 1e-3) for name in names}
    for name in names:
        described[name][:, looks[name]] = 1
        described[name] /= described[name].sum(1, keepdims=True)
    asked = []

    def read(wanted):
        asked.extend(wanted)
        return {(view, row): described[truth[view][row]] for view, row in wanted}

    return read, asked


def test_clothes_tell_apart_whom_facing_cameras_cannot():
    """Both stand on the line between the cameras, so each fits each."""
    cameras = ring([0, 180])
    people = {"ann": walk((-1.5, 0), (-1.5, 0), COUNT), "bob": walk((1.5, 0), (1.5, 0), COUNT)}
    scene = film(cameras, people)
    sightings = _sightings(cameras, scene)
    truth = _truth(sightings, scene)
    read, asked = _by_truth(sightings, truth, {"ann": 0, "bob": 5})
    identities = identify(sightings, cameras, STEP_S, read)
    assert _share_right(identities, truth) > 0.99 and asked
    crossed, _ = _by_truth(sightings, [truth[0], _others(truth[1])], {"ann": 0, "bob": 5})
    assert _share_right(identify(sightings, cameras, STEP_S, crossed), truth) < 0.6


def _others(names):
    return [{"ann": "bob", "bob": "ann"}[name] for name in names]


def test_geometry_that_tells_asks_for_no_colours():
    cameras = ring([0, 70])
    people = {"ann": walk((-1.5, 1), (1, 1.5), COUNT), "bob": walk((-1, -1), (1.5, -1), COUNT)}
    scene = film(cameras, people)
    sightings = _sightings(cameras, scene)
    truth = _truth(sightings, scene)
    read, asked = _by_truth(sightings, truth, {"ann": 0, "bob": 4})
    assert _share_right(identify(sightings, cameras, STEP_S, read), truth) == 1
    assert asked == []


def test_who_comes_back_is_known_by_the_clothes():
    cameras = ring([0, 70])
    gone = walk((-1.0, 0.4), (1.0, 0.2), COUNT)
    gone[20:85] = np.nan
    gone[85:] += [0.3, -1.5, 0]  # elsewhere when seen again
    people = {"ann": gone, "bob": walk((0, 1.5), (0.3, 1.5), COUNT)}
    scene = film(cameras, people)
    tracks = [break_up(own, (50,)) for own in scene]
    cut = [{n: t for n, t in own.items() if t} for own in tracks]
    sightings = [
        collect_sightings(c, {i * 3: i for i in range(COUNT)}, own)
        for c, own in zip(cameras, cut, strict=True)
    ]
    truth = _truth(sightings, scene)
    read, _ = _by_truth(sightings, truth, {"ann": 0, "bob": 5})
    assert _share_right(identify(sightings, cameras, STEP_S, read), truth) > 0.99
    without = identify(sightings, cameras, STEP_S)
    assert len({int(n) for own in without for n in own} - {NOBODY}) == 3


@pytest.mark.parametrize("late", [6, -4])
def test_a_late_camera_is_found_by_motion(late):
    cameras = ring([0, 70, 150])
    people = {
        "ann": walk((-1.6, -1.2), (1.6, 1.2), COUNT),
        "bob": walk((1.5, -0.3), (-1.5, 1.3), COUNT, steps_hz=1.1),
    }
    scene = film(cameras, people)
    # The video of the second camera began so many frames earlier: what it shows is late.
    scene[1] = {p: {f + late: d for f, d in track.items()} for p, track in scene[1].items()}
    sightings = _sightings(cameras, scene)
    found = estimate_synchrony(sightings, cameras, 30)
    assert found.offsets == pytest.approx([0, late, 0], abs=0.5)
    assert found.whole.tolist() == [0, late, 0]
    assert found.errors_then[1] < 0.7 * found.errors_now[1]
    (sentence,) = tell_synchrony(found, "abc")
    assert f"camera b seems {abs(late)}" in sentence.replace(".0 ", " ").replace("5.9", "6")
    assert ("late" if late > 0 else "early") in sentence


def test_still_people_tell_nothing_of_the_clock():
    cameras = ring([0, 70, 150])
    people = {"ann": walk((0.3, 0), (0.3, 0), COUNT)}
    found = estimate_synchrony(_sightings(cameras, film(cameras, people)), cameras, 30)
    assert np.isnan(found.offsets).all() and not found.whole.any()
    assert "nobody moves enough" in tell_synchrony(found, "abc")[0]


def test_synchronous_cameras_are_left_alone():
    cameras = ring([0, 70, 150])
    found = estimate_synchrony(_sightings(cameras, film(cameras, _crossing())), cameras, 30)
    assert not found.whole.any()
    assert "synchronous to a frame" in tell_synchrony(found, "abc")[0]


def test_a_camera_that_was_moved_is_named():
    cameras = ring([0, 70, 150, 250])
    scene = film(cameras, _crossing())
    assert tell_calibration(measure_best_errors(_sightings(cameras, scene), cameras), "abcd") == []
    turn = np.array([[1, 0, 0], [0, np.cos(0.1), -np.sin(0.1)], [0, np.sin(0.1), np.cos(0.1)]])
    cameras[2].Rt = turn @ cameras[2].Rt
    (sentence,) = tell_calibration(measure_best_errors(_sightings(cameras, scene), cameras), "abcd")
    assert sentence.startswith("camera c misses the others by")


def test_swapped_videos_are_told_by_pairs_that_share_nobody():
    best = dict.fromkeys(itertools.combinations(range(4), 2), 0.03)
    assert tell_strangers(best, best, "abcd") == []
    assert tell_strangers(best, {pair: 0.03 for pair in best if pair != (0, 2)}, "abcd") == []
    (sentence,) = tell_strangers(best, {(0, 1): 0.03, (2, 3): 0.01}, "abcd")
    assert sentence.startswith("4 of 6 pairs") and "(a/c, a/d, b/c, b/d)" in sentence


def test_cameras_that_do_not_fit_are_not_called_synchronous():
    errors = np.full(4, 0.073)
    (sentence,) = tell_synchrony(Synchrony(np.zeros(4), errors, errors), "abcd")
    assert sentence.startswith("no shift makes the cameras fit") and "7.3 %" in sentence


def test_groups_are_joined_best_first_and_never_against_a_ban():
    scores = np.array([[0, 3, 2, 0], [3, 0, -1, 0], [2, -1, 0, 5], [0, 0, 5, 0.0]])
    assert contract_greedily(scores) == [[0, 1, 2, 3]]
    scores[0, 3] = scores[3, 0] = -np.inf
    assert contract_greedily(scores) == [[0, 1], [2, 3]]


def test_who_is_little_present_is_a_bystander():
    people = [Found({}, [0, 1, 2], 100.0), Found({}, [0, 1], 41.0), Found({}, [0, 1], 39.0)]
    people.append(Found({}, [2], 90.0))
    mark_bystanders(people, 0.4)
    assert [p.bystander for p in people] == [False, False, True, True]


def test_hidden_people_are_not_enough():
    points = np.zeros((17, 3))
    points[:4, 2] = 0.9
    found = Detection(np.array([0, 0, 10, 20.0]), 0.5, points)
    assert not shows_enough(found)
    points[4, 2] = 0.4
    assert shows_enough(found) and shows_enough(Detection(found.box))


def test_colours_of_clothes_survive_another_exposure():
    def draw(shirt, trousers, gain):
        image = np.full((200, 100, 3), 128, np.float64)
        image[30:100, 20:80], image[100:190, 20:80] = shirt, trousers
        return np.clip(image * gain, 0, 255).astype(np.uint8)

    box = Detection(np.array([10, 0, 90, 200.0]))
    red, green = ((180, 30, 30), (30, 30, 120)), ((30, 150, 40), (30, 30, 120))
    one = describe_colours(draw(*red, 1.0), box)
    again = describe_colours(draw(*red, 0.7), box)
    other = describe_colours(draw(*green, 1.0), box)
    assert one.sum(1) == pytest.approx([1, 1])
    assert compare_colours(one, again) > 0.95 > 0.6 > compare_colours(one, other)


def test_a_turn_and_its_inverse_leave_a_detection_as_it_was():
    """Against numpy's own turning of an image with one bright pixel."""
    image = np.zeros((30, 50), np.uint8)
    image[7, 41] = 1
    points = np.zeros((17, 3))
    points[0] = [41.5, 7.5, 0.9]
    found = Detection(np.array([40, 6, 45, 12.0]), 0.9, points)
    for turns in range(4):
        shown = turn_image(image, turns)
        turned = turn_detection(found, turns, 50, 30)
        row, column = np.argwhere(shown)[0]
        assert turned.keypoints[0].tolist() == [column + 0.5, row + 0.5, 0.9]
        assert (turned.box[2:] > turned.box[:2]).all()
        back = turn_detection(turned, -turns % 4, shown.shape[1], shown.shape[0])
        np.testing.assert_allclose(back.box, found.box)
        np.testing.assert_allclose(back.keypoints, found.keypoints)


def test_between_searched_frames_people_are_interpolated():
    track = {
        f: Detection(np.array([f, 0, f + 10.0, 20]), 0.9, np.full((17, 3), float(f)))
        for f in (0, 4, 30)
    }
    filled = fill_between({"a": track}, np.arange(40) / 30)["a"]
    assert sorted(filled) == [0, 1, 2, 3, 4, 30]
    assert filled[1].box.tolist() == [1, 0, 11, 20]
    assert filled[1].keypoints[0].tolist() == [1, 1, 0]
    seen = Searched({"a": filled}, {"a": [0, 4, 30]}, {("a", 0), ("a", 30)})
    assert seen.is_measured("a", 4) and not seen.is_measured("a", 2)
    assert seen.is_good("a", 0) and not seen.is_good("a", 4) and not seen.is_good("a", 2)


class _Grey:
    """A video whose frames are all grey."""

    def get(self, indices):
        for index in indices:
            yield index, np.full((960, 1280, 3), 128, np.uint8)


def _take(shift=0):
    """Views of three cameras whose second video began ``shift`` frames earlier, and its people."""
    cameras = ring([0, 70, 150])
    scene = film(cameras, _crossing())
    scene[1] = {p: {f + shift: d for f, d in track.items()} for p, track in scene[1].items()}
    frames = {i: i for i in range(COUNT + shift)}
    views = [View(c, c.name, _Grey(), dict(frames)) for c in cameras]
    return {i: i * STEP_S for i in range(COUNT)}, views, [Searched.whole(t) for t in scene]


def test_the_clock_is_corrected_only_when_asked():
    times, views, searched = _take(6)
    for asked in (False, True):
        cfg = PairsConfig(synchronise=asked)
        people, clock = match_people(cfg, times, views, searched)
        assert [len(p.views) for p in people] == [3, 3, 3]
        assert clock[1].frames[20] == (26 if asked else 20)
        boxed = box_people(people, clock, searched, 1.25)
        assert list(boxed) == ["0", "1", "2"]
        sights = boxed["0"][40]
        middles = np.stack([[s.detection.keypoints[11:13, :2].mean(0)] for s in sights])
        flat = [undistort_pixels(s.view.camera, m) for s, m in zip(sights, middles, strict=True)]
        Ks = [s.view.camera.K for s in sights]
        Rts = [s.view.camera.Rt for s in sights]
        point = triangulate(np.stack(flat), Ks, Rts)[0]
        misses = [
            np.linalg.norm(project(point, K, Rt)[0] - m[0])
            for K, Rt, m in zip(Ks, Rts, flat, strict=True)
        ]
        assert (max(misses) < 8) == asked


def test_videos_of_something_else_are_refused():
    times, views, searched = _take()
    odd = film(ring([20, 100, 200], height_m=3.0), _crossing(), seed=3)
    mixed = [searched[0], *(Searched.whole(own) for own in odd[1:])]
    for one in mixed[1:]:
        for track in one.tracks.values():
            for found in track.values():
                found.keypoints[:, 1] = 900 - found.keypoints[:, 1]
    with pytest.raises(UserError, match="nobody is seen by two cameras"):
        match_people(PairsConfig(videos="v", calibration="c"), times, views[:2], mixed[:2])


def _plan_take(samples, calibration, found):
    cfg = PairsConfig(
        videos=str(samples / "two_people_4cam"),
        calibration=str(samples / "two_people_4cam" / calibration),
        calibration_format="auto",
        reader="multicam",
        out=str(found),
        found=str(found),
    )
    return plan_clips(cfg, Problems())


@pytest.mark.long
def test_two_people_in_four_cameras(samples, tmp_path):
    """By both calibrations; who is who by the woman's white shirt."""
    pytest.importorskip("ai_edge_litert")
    try:
        open_finder(False, False)
    except UserError as error:
        pytest.skip(str(error))
    plans, videos = _plan_take(samples, "Calib.qca.txt", tmp_path)
    others, _ = _plan_take(samples, "Calib_made.toml", tmp_path)
    assert [(p.key, p.subject, len(p.crops)) for p in plans] == [
        (p.key, p.subject, len(p.crops)) for p in others
    ]
    for one, other in zip(plans, others, strict=True):
        for a, b in zip(one.crops, other.crops, strict=True):
            np.testing.assert_allclose(a.box, b.box, atol=0.01)
    assert len({p.subject for p in plans}) == 2
    whiteness = {}
    for plan in plans:
        for crop in plan.crops:
            ((_, image),) = videos[crop.path].get([crop.frame])
            x, y = crop.detection.keypoints[[5, 6, 11, 12], :2].mean(0).astype(int)
            trunk = image[y - 20 : y + 20, x - 15 : x + 15].reshape(-1, 3).astype(float)
            colour = np.ptp(np.median(trunk, 0))  # of grey and white none
            whiteness.setdefault(plan.subject, []).append((crop.name, colour))
    man, woman = sorted(whiteness.values(), key=lambda own: -np.median([c for _, c in own]))
    cameras = {"cam01", "cam02", "cam03", "cam04"}
    assert {name for name, _ in man} == {name for name, _ in woman} == cameras
    assert min(c for _, c in man) > max(c for _, c in woman)


def test_a_camera_that_takes_the_other_hand_is_left_out():
    cameras = ring([0, 60, 130])
    views = [View(c, c.name, _Grey(), {0: 0}) for c in cameras]
    rng = np.random.default_rng(0)
    right = np.array([0.1, -0.3, 1.0]) + rng.normal(0, 0.03, (21, 3))
    left = np.array([0.1, 0.3, 1.0]) + rng.normal(0, 0.03, (21, 3))
    hands = {}
    for view, (camera, shape) in enumerate(zip(cameras, (right, right, left), strict=True)):
        at, _ = project_distorted(camera, shape)
        box = np.concatenate([at.min(0), at.max(0)])
        points = np.concatenate([at, np.full((21, 1), 0.9)], 1)
        hands[view] = HandDetection("right", box, 0.9 + 0.01 * view, points)
    assert agreeing_hands(hands, views) == [0, 1]
    hands[2].keypoints = None  # nothing to compare it by
    assert agreeing_hands(hands, views) == [0, 1, 2]


def test_people_who_are_told_have_one_kind():
    times, views, _ = _take()
    cfg = PairsConfig(people="axes", kind="hand")
    with pytest.raises(UserError, match="kind=hand: people told by boxes="):
        locate_people(cfg, times, views, Problems())
