"""Faces that are blurred cannot be read any more, and nothing else changes."""

import numpy as np
import pytest

from data.find import faces
from data.find.detection import Detection
from data.sources import cut
from data.sources.plan import ClipPlan, CropPlan


def stand(x=100.0, y=40.0, face=True, shoulders=True):
    """A person whose nose is at (x, y), 200 px high."""
    points = np.zeros((17, 3))
    if face:
        points[:5] = [
            [x, y, 0.9],
            [x + 4, y - 4, 0.9],
            [x - 4, y - 4, 0.9],
            [x + 10, y - 2, 0.9],
            [x - 10, y - 2, 0.9],
        ]
    if shoulders:
        points[5:7] = [[x + 25, y + 30, 0.9], [x - 25, y + 30, 0.9]]
    return Detection(np.array([x - 30, y - 22, x + 30, y + 180]), keypoints=points)


@pytest.mark.parametrize("face", [True, False])
@pytest.mark.parametrize("shoulders", [True, False])
def test_the_head_is_covered_whatever_was_seen_of_it(face, shoulders):
    x, y, radius = faces.find_heads([stand(face=face, shoulders=shoulders)])[0]
    # A head as anatomy has it: half as wide as the shoulders, its middle at the ears.
    for at in ([100, 26], [100, 50], [88, 38], [112, 38]):
        assert np.hypot(at[0] - x, at[1] - y) < radius
    assert radius < 45


def test_what_is_blurred_cannot_be_told_and_the_rest_is_the_same():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 200, 200, 3), np.uint8)
    images[1][:, 130:] = images[0][:, 130:]
    heads = np.array([[100.0, 100, 25]])
    blurred = [faces.blur_heads(image, heads) for image in images]
    rows, columns = np.mgrid[0:200, 0:200] + 0.5
    inside = (columns - 100) ** 2 + (rows - 100) ** 2 < 24**2
    outside = (columns - 100) ** 2 + (rows - 100) ** 2 > 26**2
    for image, out in zip(images, blurred, strict=True):
        assert (out[outside] == image[outside]).all()
        assert out[inside].std() < 0.25 * image[inside].std()
    # 4 x 4 cells are left of two heads of noise: they differ no more than noise of few pixels.
    assert np.abs(blurred[0][inside].astype(int) - blurred[1][inside]).mean() < 25


def test_heads_beyond_the_image_do_no_harm():
    image = np.full((50, 50, 3), 9, np.uint8)
    heads = np.array([[-100.0, 10, 5], [49, 49, 30], [25, 25, 0.2], [1e7, 0, 3]])
    assert (faces.blur_heads(image, heads) == 9).all()


class StillFrames:
    """One frame, as data.sources.frames gives it."""

    decoder = "av"

    def __init__(self, image):
        self.image = image

    def read_by(self, decoder):
        return self

    def get(self, frames):
        return [(frame, self.image) for frame in sorted(frames)]


def test_clips_are_cut_from_the_blurred_frame(monkeypatch):
    seen = []

    def open_blur():
        def blur(image, known):
            seen.append([found.box[0] for found in known])
            return np.zeros_like(image)

        return blur

    monkeypatch.setattr(cut, "open_blur", open_blur)
    image = np.full((64, 64, 3), 200, np.uint8)
    found = stand(20)
    crops = [
        CropPlan("v", i, "a", float(i), np.array([0.0, 0, 32, 32]), None, known)
        for i, known in enumerate((found, None))
    ]
    plan = ClipPlan("k", "s", crops)
    style = cut.Style(32, 90, "test", "CC0-1.0", "body", blur_faces=True)
    clips, failed = cut.cut_clips(([plan], {"v": StillFrames(image)}, style))
    assert not failed and len(clips) == 1
    assert seen == [[-10], []]
    from data.format.images import decode_image

    assert max(decode_image(data).max() for data in clips[0].jpegs) < 10
