"""Several people on one scale, and clips of calibrated cameras as pinholes take them."""

from dataclasses import replace

import numpy as np
import pytest
from test_draw import cube, person

from data.find.detection import PersonMask
from data.sources.cameras import Camera, project_distorted
from finetune.referee.lens import correct_clip
from finetune.referee.takes import SampleClip
from finetune.referee.truth import Seen
from finetune.viz.scene import draw_scene, measure_distances

K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])


def find_colours(page):
    """[(n, 2) x, y] of the pixels in the first person's blue and in the second's orange."""
    r, b = page[..., 0].astype(int), page[..., 2].astype(int)
    return [np.argwhere(chosen)[:, ::-1] for chosen in (b - r > 15, r - b > 25)]


def test_a_metre_is_as_long_from_the_side_as_from_above():
    # Beside each other by 1 m, behind each other by 2 m, and the second is .5 m lower.
    near, far = cube(0.3, (-0.5, 0, 2.0)), cube(0.3, (0.5, 0.5, 4.0))
    people = [person(mesh, K=K) for mesh in (near, far)]
    assert measure_distances(people)[0, 1] == pytest.approx(np.sqrt(1 + 4 + 0.25), abs=1e-5)
    image = np.full((240, 320, 3), 128, np.uint8)
    page = np.asarray(draw_scene(image, people, "focal length 300 px"))
    views = page[len(page) * 2 // 5 :]  # below the overlay
    blue, orange = find_colours(views)
    # From the side they lie in the upper half, from above in the lower.
    split = (blue[:, 1].min() + blue[:, 1].max()) / 2
    split = (min(orange[:, 1].max(), blue[:, 1].max()) + split) / 2
    side, above = [], []
    for points in (blue, orange):
        gap = np.flatnonzero(np.diff(np.unique(points[:, 1])) > 60)
        assert len(gap) == 1
        edge = np.unique(points[:, 1])[gap[0]] + 1
        for out, part in (
            (side, points[points[:, 1] < edge]),
            (above, points[points[:, 1] >= edge]),
        ):
            out.append((part.min(0) + part.max(0)) / 2)
    metre = (side[1] - side[0])[0] / 2
    assert metre > 100
    assert (side[1] - side[0]) / metre == pytest.approx([2, 0.5], abs=0.03)
    assert (above[1] - above[0]) / metre == pytest.approx([2, 1], abs=0.03)


def test_what_is_judged_is_what_a_pinhole_sees():
    camera = Camera(
        "a", K, np.array([-0.3, 0.1, 0.001, 0, 0, 0, 0, 0]), np.eye(3, 4), width=320, height=240
    )
    world = np.random.default_rng(0).uniform([-0.7, -0.5, 2], [0.7, 0.5, 3], (17, 3))
    bent, _ = project_distorted(camera, world)
    ideal = world @ K.T
    ideal = ideal[:, :2] / ideal[:, 2:]
    assert np.abs(bent - ideal).max() > 2
    points = np.concatenate([bent, np.ones((17, 1))], 1)
    box = np.concatenate([bent.min(0), bent.max(0)])
    mask = PersonMask(np.array([40.0, 20, 240, 220]), np.ones((64, 64), bool))
    seen = Seen(3, box, 0.9, points, mask.square, mask.inside)
    clip = SampleClip("a", "a.mp4", camera=camera)
    (found,), correct = correct_clip(clip, [seen])
    assert found.keypoints[:, :2] == pytest.approx(ideal, abs=0.02)
    assert (found.box[:2] < ideal.min(0) + 0.1).all() and (found.box[2:] > ideal.max(0) - 0.1).all()
    assert found.frame == 3 and found.mask.shape == (64, 64) and found.mask.any()
    assert clip.camera == replace(camera, distortion=clip.camera.distortion)
    assert not clip.camera.distortion.any()
    image = np.zeros((240, 320, 3), np.uint8)
    image[:, :40] = 255
    assert (correct(image) != image).any()
    # A second time, and without a camera, nothing changes.
    assert correct_clip(clip, [found])[0] == [found]
    assert correct_clip(SampleClip("b", "b.mp4"), [seen])[0] == [seen]
