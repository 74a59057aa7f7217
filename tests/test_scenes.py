"""Scenes of several people: labels are what the frames show, nobody is in anybody, equal bytes."""

import copy
import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from scipy.spatial import cKDTree

from data.format.frame import decode_frame, decode_ids, encode_frame
from data.format.labels import HIDDEN, OUTSIDE, SEEN, read_arrays
from data.people import collide, make, scene_maker
from data.people.config import Domain, PeopleConfig
from data.people.render_frames import FrameRenderer
from data.people.scene_config import SceneKeys
from data.people.scene_maker import SceneMaker
from data.tools import inspect
from engine.config.parser import parse
from engine.errors import UserError
from engine.geometry import project

ROOT = Path(__file__).resolve().parent.parent
SCENES = 4
SMALL = PeopleConfig(
    out="none",
    kind="scene",
    seed=5,
    size=160,
    instants=1,
    domain=Domain(planted=True, seats=True, held_share=0.3, hair_share=0.5, occluded_share=0.5),
    scene=SceneKeys(people=[3, 5], lens_mm=[24, 60]),
)


class Drawn:
    """A few scenes with what they were drawn from."""

    def __init__(self, config):
        self.maker = SceneMaker(config)
        self.drawn, self.frames, draw = [], [], self.maker.renderer.draw_frames

        def remember(world, width, height):
            self.drawn.append((world, draw(world, width, height)))
            return self.drawn[-1][1]

        self.maker.renderer.draw_frames = remember
        for index in range(SCENES):
            self.frames += self.maker.frames(index)
        self.maker.renderer.draw_frames = draw


@pytest.fixture(scope="module")
def scenes():
    return Drawn(SMALL)


@pytest.fixture(scope="module")
def rebuilt(scenes):
    """(P, 13718, 3) vertices and (P, 104, 3) joints of each frame, from its labels alone, through
    the public body model."""
    from data.bodies.anny_body import AnnyBody

    body, out = AnnyBody(), []
    for frame in scenes.frames:
        names = ("pose", "root", "phenotype", "face")
        given = [torch.from_numpy(frame.labels[name]) for name in names]
        with torch.inference_mode():
            vertices, joints = body(*given)
        out.append((vertices.numpy(), joints.numpy()))
    return out


def test_labels_rebuild_people_who_stand_on_the_floor(scenes, rebuilt):
    for frame, (vertices, joints) in zip(scenes.frames, rebuilt, strict=True):
        assert len(frame.people) >= 2
        assert np.abs(joints - frame.labels["joints"]).max() < 2e-5
        assert np.abs(vertices[..., 2].min(1)).max() < 1e-4


def test_seen_vertices_fall_on_their_own_person(scenes, rebuilt):
    for frame, (vertices, _) in zip(scenes.frames, rebuilt, strict=True):
        seen = np.unpackbits(frame.labels["vertex_visible"], axis=1)[:, :13718].astype(bool)
        for i in range(len(frame.people)):
            xy, z = project(vertices[i][seen[i]], frame.K, frame.Rt)
            if not len(xy):
                continue
            x, y = xy.astype(int).T
            assert (z > 0).all() and (x < frame.width).all() and (y < frame.height).all()
            near = [
                frame.ids[np.clip(y + a, 0, frame.height - 1), np.clip(x + b, 0, frame.width - 1)]
                for a, b in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
            ]
            assert (np.array(near) == i + 1).any(0).all()
            # No pixel of the person lies outside of its box by more than clothes and hair do.
        for i, person in enumerate(frame.people):
            y, x = np.nonzero(frame.ids == i + 1)
            if len(x):
                xy, z = project(vertices[i], frame.K, frame.Rt)
                cloth = 0.45 * frame.K[0, 0] / max(0.3, z.min())
                assert x.min() > person.box[0] - cloth and x.max() < person.box[2] + cloth


def test_shares_are_those_of_pixels_drawn_alone(scenes):
    """Against an image of each person alone, twice as large, whose border is far outside."""
    errors, most = [], 0
    for (world, images), frame in zip(scenes.drawn, scenes.frames, strict=True):
        number = {}
        for i, other in enumerate(world.others):
            number[i] = int((images.ids[0] == other.label).sum())
        tracks = [int(p.track) for p in frame.people]
        for label, pixels in number.items():
            mine = np.unique(frame.ids[images.ids[0] == label + 1])
            if not len(mine) or mine[0] == 0:
                continue
            alone = dataclasses.replace(
                world, others=[dataclasses.replace(world.others[label], label=1)], boxes=[]
            )
            alone.things = None
            shot = world.shots[0]
            before = shot.cx, shot.cy
            size = scenes.maker.config.size
            # The whole body in the window: the focal length is reduced, which keeps shares.
            box = frame.people[mine[0] - 1].box
            scale = size / max(box[2] - box[0], box[3] - box[1]) * 0.8
            focal = shot.focal
            shot.focal = focal * scale
            shot.cx = size / 2 + scale * (before[0] - (box[0] + box[2]) / 2)
            shot.cy = size / 2 + scale * (before[1] - (box[1] + box[3]) / 2)
            drawn = scenes.maker.renderer.draw_frames(alone, size, size)
            shot.focal, (shot.cx, shot.cy) = focal, before
            whole = int((drawn.ids[0] == 1).sum()) / scale**2
            if whole > 150 and abs(box[0]) < 1e3:
                errors.append(abs(pixels / whole - frame.people[mine[0] - 1].shown))
                most += 1
        assert len(set(tracks)) == len(tracks)
    # Clothes and hair hang over the body, so that the two are not the same share.
    assert most >= 6 and np.median(errors) < 0.06 and max(errors) < 0.25


def test_keypoints_and_joints_are_projections_with_true_visibility(scenes, rebuilt):
    counts = np.zeros(3, int)
    for frame, (_, joints) in zip(scenes.frames, rebuilt, strict=True):
        labels = read_arrays(frame.labels, len(frame.people))
        size = np.array([frame.width, frame.height])
        for i in range(len(frame.people)):
            xy, z = project(joints[i], frame.K, frame.Rt)
            inside = (z > 0.05) & (xy >= 0).all(1) & (xy < size).all(1)
            visible = labels.joints.visible[i]
            assert ((visible == OUTSIDE) == ~inside).mean() > 0.999
            x, y = xy[visible == SEEN].astype(int).T
            assert (frame.ids[y, x] == i + 1).all()
            x, y = xy[visible == HIDDEN].astype(int).T
            assert (visible[inside] >= HIDDEN).all()
            counts += np.bincount(visible, minlength=3)
            elbow = scenes.maker.index["lowerarm01.L"]
            if labels.keypoints.confidence[i, 7] and np.abs(xy[elbow]).max() < 300:
                assert np.abs(labels.keypoints.points[i, 7] - xy[elbow]).max() < 0.01
    assert (counts > 20).all()


def test_nobody_is_in_anybody(scenes, rebuilt):
    """Vertices of two bodies keep apart, and none is in a capsule of the other."""
    index, pairs = scenes.maker.index, 0
    for frame, (vertices, joints) in zip(scenes.frames, rebuilt, strict=True):
        for a in range(len(frame.people)):
            for b in range(len(frame.people)):
                if a == b:
                    continue
                weight = float(frame.labels["phenotype"][a, 3])
                body = collide.Capsules(joints[a : a + 1], index, weight)
                assert body.gap(vertices[b][::7], 0, -1).min() > 0
                assert cKDTree(vertices[a]).query(vertices[b][::3])[0].min() > 0.01
                pairs += 1
    assert pairs >= 12


def test_a_frame_is_read_as_it_was_written(scenes):
    frame = scenes.frames[0]
    members = encode_frame(frame)
    read = decode_frame(members["json"], "shard:key")
    assert [p.track for p in read.people] == [p.track for p in frame.people]
    assert np.allclose(read.K, frame.K, atol=1e-5) and read.scene == frame.scene
    assert (decode_ids(members["ids.png"], frame) == frame.ids).all()
    assert simplejpeg.decode_jpeg(members["jpg"]).shape == (frame.height, frame.width, 3)
    wrong = dataclasses.replace(frame, people=frame.people[:1])
    with pytest.raises(UserError, match=r"frame .*: "):
        encode_frame(wrong)


def _digests(folder):
    tars = sorted(Path(folder).glob("*.tar"))
    return [hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars]


def test_equal_bytes_from_one_and_two_processes_and_after_a_kill(
    tmp_path, capsys, scenes, monkeypatch
):
    keys = ["kind=scene", "clips=4", "clips_per_shard=2", "size=64", "instants=2", "seed=3"]
    keys += ["scene.people=[1,3]", "domain.planted=true", "device=cpu"]
    base, one, two = tmp_path / "base.yaml", tmp_path / "one", tmp_path / "two"
    base.write_text("command: data make\n")
    make.main([str(base), *keys, f"out={two}", "workers=2"])
    whole = _digests(two)
    assert len(whole) == 2
    # A kill leaves whole shards and half-written files of other names.
    shutil.copytree(two, one)
    last = sorted(one.glob("*.tar"))[1]
    last.unlink()
    half = one / f"{last.name}.writing-999999999"
    half.write_bytes(b"half")

    def reuse(config, device):
        """The maker that is there, with another config: a new one would take seconds."""
        maker = copy.copy(scenes.maker)
        maker.config = config
        maker.renderer = FrameRenderer(maker.template, maker.bank, config.size, 2, device)
        maker.stopwatch = maker.renderer.stopwatch
        return maker

    monkeypatch.setattr(scene_maker, "SceneMaker", reuse)
    make.main([str(base), *keys, f"out={one}"])
    assert _digests(one) == whole and not half.exists()
    capsys.readouterr()
    assert inspect.verify([f"{tmp_path}/one", "workers=1"]) == 0
    assert "8 clips" in capsys.readouterr().out
    assert inspect.stats([f"{tmp_path}/one", "workers=1"]) == 0
    assert "8 frames of 4 scenes; 8 with labels" in capsys.readouterr().out
    inspect.preview([f"{tmp_path}/one", "rows=1", f"out={tmp_path}/sheet.png"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["domain.cut_share=0.2"], "domain.cut_share=0.2 means nothing with kind=scene"),
        (["scene.people=[0,3]"], r"scene.people=\[0, 3\]: two numbers of 1 to 20"),
        (["scene.aspects=[5:4]"], "scene.aspects: '5:4' is none of 9:16"),
        (["scene.lens_mm=[90,30]"], "scene.lens_mm=.*the lesser first"),
        (["kind=body", "scene.people=[1,3]"], "scene.people=.* means nothing with kind=body"),
    ],
)
def test_wrong_keys_are_told_in_a_sentence(words, said):
    with pytest.raises(UserError, match=said):
        parse(
            PeopleConfig,
            [str(ROOT / "configs/data/scene_small.yaml"), "out=x", *words],
            command="data make",
        )
