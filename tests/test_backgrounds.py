"""Photographs behind synthetic humans: where they are seen, that people stay who they are, and what
is refused."""

import dataclasses
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.people import make
from data.people.backgrounds import Backgrounds, list_photos, mark_photos
from data.people.config import Domain, PeopleConfig, hash_recipe
from data.people.maker import ClipMaker
from data.people.warp_types import PHOTO_SIDE
from engine.errors import UserError

RECIPE = str(Path(__file__).resolve().parent.parent / "configs/data/people_body.yaml")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with one photograph, red on one side and blue on the other, and a broken one."""
    folder = tmp_path_factory.mktemp("photos")
    image = np.zeros((300, 400, 3), np.uint8)
    image[:, :200, 2], image[:, 200:, 0] = 200, 200
    (folder / "deep").mkdir()
    cv2.imwrite(str(folder / "deep/two.png"), image)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    (folder / "notes.txt").write_text("no image")
    return folder


def config_of(photos, **more):
    domain = Domain(backgrounds=str(photos), **more)
    return PeopleConfig(out="none", seed=3, size=96, cameras=2, instants=1, domain=domain)


@pytest.fixture(scope="module")
def drawn(photos):
    """(world, images, clip) of a clip with photographs, and the clip without."""
    maker = ClipMaker(config_of(photos))
    draw, seen = maker.renderer.draw, []

    def remember(world):
        seen.append((world, draw(world)))
        return seen[-1][1]

    maker.renderer.draw = remember
    clip = maker.clip(1)
    maker.backgrounds = None
    plain = maker.clip(1)
    return *seen[0], clip, seen[1][1], plain


def test_the_photograph_is_where_each_camera_looks(drawn):
    """Against rays that are met with the dome here, in float64."""
    world, images, *_ = drawn
    scene, size = world.scene, images.rgb.shape[1]
    centre, radius = np.array([*scene.photo_centre]), scene.photo_radius
    compared = 0
    for shot, rgb, label in zip(world.shots, images.rgb, images.label, strict=True):
        R = np.array([[shot.rotation[i, j] for j in range(3)] for i in range(3)])
        eye = np.array([*shot.eye])
        y, x = np.mgrid[0:size, 0:size]
        rays = np.stack(
            [(x + 0.5 - shot.cx), (y + 0.5 - shot.cy), np.full(x.shape, shot.focal)], -1
        )
        d = rays / np.linalg.norm(rays, axis=-1, keepdims=True) @ R
        q = eye - centre
        b = d @ q
        t = -b + np.sqrt(b * b - q @ q + radius * radius)
        p = q + t[..., None] * d
        u = (np.arctan2(p[..., 1], p[..., 0]) / (2 * np.pi) + scene.rotation) * 4 % 2
        across = np.where(u > 1, 2 - u, u)
        texels = world.photo[: PHOTO_SIDE**2].reshape(PHOTO_SIDE, PHOTO_SIDE, 3)
        row = texels[PHOTO_SIDE // 2, np.clip(across * PHOTO_SIDE, 0, PHOTO_SIDE - 1).astype(int)]
        is_red, is_blue = row[..., 0] > 100, row[..., 2] > 100
        on_dome = (label == 0) & (p[..., 2] + centre[2] > 0.2)
        near_edge = cv2.dilate((is_red ^ np.roll(is_red, 1, 1)).astype(np.uint8), np.ones((9, 9)))
        near_person = cv2.dilate((label > 0).astype(np.uint8), np.ones((5, 5)))
        sure = on_dome & (near_edge == 0) & (near_person == 0)
        redder = rgb[..., 0].astype(int) - rgb[..., 2]
        assert (redder[sure & is_red] > 20).mean() > 0.98 if (sure & is_red).any() else True
        assert (redder[sure & is_blue] < -20).mean() > 0.98 if (sure & is_blue).any() else True
        compared += int(sure.sum())
    assert compared > 1000 and not world.boxes


def test_people_and_cameras_are_those_of_the_same_clip_without(drawn, photos):
    _, images, clip, before, plain = drawn
    assert clip.subject == plain.subject and clip.key == plain.key
    for name in ("joints", "pose", "root", "phenotype"):
        np.testing.assert_array_equal(clip.labels[name], plain.labels[name])
    assert [c.Rt for c in clip.crops] == [c.Rt for c in plain.crops]
    # Boxes of clutter hid parts of people there.
    assert ((images.label > 0) | (before.label == 0)).all()
    assert not np.array_equal(images.rgb, before.rgb)
    plain_config = dataclasses.replace(config_of(photos), domain=Domain())
    assert hash_recipe(config_of(photos)) == hash_recipe(plain_config)


def test_photographs_are_drawn_by_the_seed_and_broken_ones_passed_over(photos, caplog):
    with caplog.at_level("WARNING"):
        one, two = Backgrounds(str(photos)), Backgrounds(str(photos))
        drawn = [b.draw(np.random.default_rng(seed)) for b in (one, two) for seed in range(6)]
    for a, b in zip(drawn[:6], drawn[6:], strict=True):
        assert (a.turn, a.radius_m, a.light) == (b.turn, b.radius_m, b.light)
        np.testing.assert_array_equal(a.texels, b.texels)
    assert len({photo.turn for photo in drawn}) == 6
    said = [line for line in caplog.messages if "broken.jpg is passed over" in line]
    assert len(said) == 2  # once a process
    assert list_photos(str(photos)) == ["broken.jpg", "deep/two.png"]


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(UserError, match="none: no such folder"):
        list_photos(str(tmp_path / "none"))
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="a holds no image"):
        mark_photos(str(tmp_path / "a"))
    (tmp_path / "a/x.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "a/icon.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="a: none of its images can be read"):
        Backgrounds(str(tmp_path / "a")).draw(np.random.default_rng(0))


def test_a_folder_that_changed_is_not_gone_on_with(tmp_path):
    (tmp_path / "p").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "p/a.png"), image)

    def claim(domain):
        config = PeopleConfig(out=str(tmp_path / "out"), domain=domain)
        make.mark_folders(config)
        make.claim_folder(config)
        return config.domain.backgrounds_mark

    first = claim(Domain(backgrounds=str(tmp_path / "p")))
    (tmp_path / "out/shard-000009.tar").write_bytes(b"")
    (tmp_path / "p").rename(tmp_path / "moved")
    assert claim(Domain(backgrounds=str(tmp_path / "moved"))) == first
    cv2.imwrite(str(tmp_path / "moved/a.png"), image[::-1])
    with pytest.raises(UserError, match=f"holds other files .* were made .{first}"):
        claim(Domain(backgrounds=str(tmp_path / "moved")))
    with pytest.raises(UserError, match="domain.backgrounds_mark= here, but the clips"):
        claim(Domain())


@pytest.mark.long
def test_bytes_are_equal_from_one_and_two_processes(tmp_path, photos):
    digests = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        keys = [
            RECIPE,
            f"out={out}",
            "clips=4",
            "clips_per_shard=2",
            "size=64",
            "cameras=2",
            "seed=9",
        ]
        keys += [f"workers={workers}", "device=cpu", f"domain.backgrounds={photos}"]
        assert make.main(keys) == 0
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("*.tar")])
    assert sorted(digests[0]) == sorted(digests[1]) and len(digests[0]) == 2
