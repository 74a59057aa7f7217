"""Hands as seen near: painted where anny's template has wrists and fingers, and only by request."""

import numpy as np
import pytest

from data.people import kernels_hand, warp_types
from data.people.config import PeopleConfig
from data.people.hand_looks import add_hand_look
from data.people.maker import ClipMaker
from data.people.warp_types import Look

FINGERS = "2345"


@pytest.fixture(scope="module")
def maker():
    return ClipMaker(PeopleConfig(out="none", kind="hand", size=128, seed=4))


@pytest.fixture(scope="module")
def joints(maker):
    """{bone: (3,)} of the template body, feet on the floor."""
    import torch

    from data.bodies.anny_body import AnnyBody
    from data.people.template import TEMPLATE_SHAPE

    body = AnnyBody(clothing=True)
    shape = torch.tensor([[TEMPLATE_SHAPE[name] for name in body.shape_names]])
    with torch.inference_mode():
        still = torch.zeros(1, len(body.joint_names), 3), torch.zeros(1, 3)
        vertices, found = body(*still, shape)
    floor = vertices[0, maker.template.body, 2].min()
    places = found[0].numpy() - np.array([0, 0, float(floor)])
    return dict(zip(body.joint_names, places, strict=True))


def columns(matrix):
    return np.array([[matrix[i, k] for i in range(3)] for k in range(matrix._shape_[1])])


def test_the_kernels_places_are_the_templates(joints):
    left = {name[:-2]: place for name, place in joints.items() if name.endswith(".L")}
    for name, place in left.items():  # one hand's places serve both
        assert np.abs(joints[name + ".R"] * [-1, 1, 1] - place).max() < 1e-4
    assert np.allclose([*kernels_hand.WRIST], left["wrist"], atol=2e-4)
    along = left["wrist"] - left["lowerarm02"]
    assert np.allclose([*kernels_hand.ALONG], along / np.linalg.norm(along), atol=2e-3)
    for matrix, joint in ((kernels_hand.ROOTS, "1"), (kernels_hand.MIDDLES, "2")):
        wanted = [left[f"finger{finger}-{joint}"] for finger in FINGERS]
        assert np.allclose(columns(matrix), wanted, atol=2e-4)
    wanted = [1.5 * left[f"finger{f}-3"] - 0.5 * left[f"finger{f}-2"] for f in "1" + FINGERS]
    assert np.allclose(columns(kernels_hand.TIPS), wanted, atol=5e-4)


def draw(maker, **looks):
    """(rgb, label) of clip 0 with some fields of its Look set."""
    original, kept = maker.renderer.draw, []

    def remember(world):
        for name, value in looks.items():
            setattr(world.look, name, value)
        kept.append(original(world))
        return kept[-1]

    maker.renderer.draw = remember
    try:
        maker.clip(0)
    finally:
        maker.renderer.draw = original
    return kept[0].rgb.astype(int), kept[0].label


def test_detail_changes_skin_alone(maker):
    plain, label = draw(maker)
    marked, same = draw(maker, hand_detail=1.0, hand_blood=0.8, tendon=0.3, wrinkle=0.4, vein=1.0)
    assert np.array_equal(label, same)
    changed = np.abs(plain - marked).max(-1) > 4
    skin = label == warp_types.MATERIALS.index("skin")
    assert changed[skin].mean() > 0.1
    # What is not skin changes at its edges with skin at most.
    assert changed[~skin].mean() < 0.02
    redder = (marked - plain)[skin & changed]
    assert redder[:, 0].mean() > redder[:, 1].mean() and redder[:, 0].mean() > redder[:, 2].mean()


def test_a_ring_is_where_it_is_said_to_be(maker):
    bare, _ = draw(maker, hand_detail=1.0)
    green = warp_types.vec3((0.0, 1.0, 0.0))
    found = []
    for side in (1.0, -1.0):
        ringed, _ = draw(
            maker, hand_detail=1.0, ring=2, ring_side=side, ring_width=0.003, ring_colour=green
        )
        found.append((np.abs(ringed - bare).max(-1) > 30).sum((1, 2)).max())
    # A band of 6 mm on one finger of a hand that fills the crop: on the hand that is shown alone.
    assert 3 < max(found) < 0.02 * bare.shape[1] ** 2
    assert min(found) < 0.25 * max(found)


def test_recipes_without_the_key_draw_none_of_it(maker):
    before = maker.clip(1).jpegs
    maker.config.domain.hand_detail = True
    try:
        other = maker.clip(1).jpegs
    finally:
        maker.config.domain.hand_detail = False
    assert maker.clip(1).jpegs == before and other != before


def test_looks_are_drawn_within_their_ranges_and_all_kinds_come():
    looks = [Look() for _ in range(300)]
    for seed, look in enumerate(looks):
        add_hand_look(np.random.default_rng(seed), look)
    rings, bands = [look.ring for look in looks], [look.band for look in looks]
    assert set(rings) == {0, 1, 2, 3, 4} and 0.25 < np.mean(np.array(rings) > 0) < 0.45
    assert 0.25 < np.mean(np.array(bands) > 0) < 0.45
    assert all(0 <= look.hand_blood <= 1 and 0 <= look.vein <= 1 for look in looks)
    assert {look.band_side for look in looks} == {-1.0, 0.0, 1.0}
