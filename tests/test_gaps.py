"""Instants of synthetic humans at gaps that are drawn."""

import numpy as np
import pytest

from data.format.index import pair_matrix
from data.people import motion
from data.people.config import Domain, PeopleConfig, population
from data.people.maker import ClipMaker
from engine.config.parser import parse
from engine.errors import UserError

GAPS = [0.1, 2.0]


@pytest.fixture(scope="module")
def maker():
    domain = Domain(planted=True, walk_share=0.5)
    return ClipMaker(
        PeopleConfig(out="none", seed=4, size=64, instants=4, cameras=2, gaps_s=GAPS, domain=domain)
    )


def test_gaps_are_even_in_their_logarithm():
    rng = np.random.default_rng(0)
    clocks = [motion.sample_times(rng, 4, GAPS) for _ in range(1000)]
    gaps = np.concatenate([np.diff(clock.times_s) for clock in clocks])
    assert gaps.min() >= 0.0995 and gaps.max() <= 2.0005
    quartiles = np.quantile(np.log(gaps), [0.25, 0.5, 0.75])
    even = np.interp([0.25, 0.5, 0.75], [0, 1], np.log(GAPS))
    np.testing.assert_allclose(quartiles, even, atol=0.1)
    assert all(clock.times_s[0] == 0 and clock.shares[-1] == 1 for clock in clocks)


def test_crops_tell_their_true_times_and_pair_by_them(maker):
    spans = []
    for index in range(3):
        clip = maker.clip(index)
        times = np.array([crop.time_s for crop in clip.crops]).reshape(2, 4)
        np.testing.assert_array_equal(times[0], times[1])  # cameras see the same instants
        assert times[0, 0] == 0 and (np.diff(times[0]) > 0).all()
        instant = clip.labels["instant"].reshape(2, 4)
        np.testing.assert_array_equal(instant, [[0, 1, 2, 3]] * 2)
        pose, view = (pair_matrix(clip, kind) for kind in ("cross_pose", "cross_view"))
        assert pose.sum() == 2 * 4 * 3 and view.sum() == 2 * 4
        spans.append(tuple(times[0]))
        again = maker.clip(index)
        assert [crop.time_s for crop in again.crops] == [crop.time_s for crop in clip.crops]
    assert len(set(spans)) == 3


def test_nobody_goes_past_the_cameras(maker):
    far, spans = [], []
    for index in range(60):
        person = maker.make_person(maker.random(index), index)
        way = person.root[:, :2]
        far.append(np.linalg.norm(way[:, None] - way, axis=-1).max())
        spans.append(person.times_s[-1])
    # A path's length was guessed from the stride, not measured.
    assert max(far) < 1.3 * motion.ROAM_M["body"]
    assert max(spans) > 3 and np.quantile(far, 0.9) > 0.8


def test_a_faster_clock_keeps_its_proportions_and_an_even_one_its_gaps():
    clock = motion.vary_times(np.array([0.5, 1.0]))
    np.testing.assert_allclose(clock.within(0.6).times_s, [0, 0.2, 0.6], atol=1e-3)
    assert clock.within(2) is clock
    even = motion.even_times(3, 0.5)
    assert even.within(0.1) is even


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["gaps_s=0.1,2", "gap_s=0.5"], "gap_s=0.5 and gaps_s"),
        (["gaps_s=2,0.1"], "two numbers are needed"),
        (["gaps_s=0.1"], "two numbers are needed"),
        (["gaps_s=0.1,2", "instants=1"], "there are instants=1"),
    ],
)
def test_gaps_that_are_none_are_told(keys, words):
    with pytest.raises(UserError, match=words):
        parse(
            PeopleConfig, ["configs/data/people_body.yaml", "out=none", *keys], command="data make"
        )


def test_without_the_key_people_are_as_before():
    plain = PeopleConfig(out="none")
    assert population(plain) == population(PeopleConfig(out="none", gaps_s=[]))
    assert population(plain) != population(PeopleConfig(out="none", gaps_s=GAPS))
    even = motion.sample_motion(np.random.default_rng(2), motion.even_times(3, 0.35))
    np.testing.assert_array_equal(even.times_s, np.arange(3) * 0.35)
