"""Synthetic humans: what the labels say is what the images show, and equal recipes give equal
bytes."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
import torch

from data.format.clip import decode_meta, encode
from data.format.shards import write_shard
from data.people import collide, labels, make, motion, poses, shots
from data.people.config import Domain, PeopleConfig, population
from data.people.maker import ClipMaker
from engine.config.parser import parse
from engine.errors import UserError
from engine.geometry import angle_about, camera_centre, project

ROOT = Path(__file__).resolve().parent.parent
EASY = str(ROOT / "configs/data/people_body_easy.yaml")
CLIPS = 3


class Drawn:
    """A few clips of one config with the full-size images they came from."""

    def __init__(self, maker):
        draw, self.maker, self.config, self.images = maker.renderer.draw, maker, maker.config, []

        def remember(world):
            self.images.append(draw(world))
            return self.images[-1]

        maker.renderer.draw = remember
        self.clips = [maker.clip(i) for i in range(CLIPS)]
        maker.renderer.draw = draw


@pytest.fixture(scope="module")
def bodies():
    return Drawn(
        ClipMaker(PeopleConfig(out="none", seed=3, size=128, domain=Domain(part_share=0.0)))
    )


@pytest.fixture(scope="module")
def hands(bodies):
    # The maker is a few seconds' work; nothing it holds depends on these keys.
    maker = bodies.maker
    before, maker.config = maker.config, dataclasses.replace(maker.config, kind="hand")
    drawn = Drawn(maker)
    maker.config = before
    return drawn


@pytest.fixture(scope="module")
def rebuilt(bodies):
    """Vertices (T, 13718, 3) and joints of each clip of ``bodies``, from its labels through the
    public body model."""
    from data.bodies.anny_body import AnnyBody

    return [rebuild(AnnyBody(), clip) for clip in bodies.clips]


def rebuild(body, clip):
    given = {
        name: torch.from_numpy(clip.labels[name]) for name in ("pose", "root", "phenotype", "face")
    }
    with torch.inference_mode():
        vertices, joints = body(
            given["pose"], given["root"], given["phenotype"][None], given["face"][None]
        )
    return vertices.numpy(), joints.numpy()


def seen_vertices(clip):
    return np.unpackbits(clip.labels["vertex_visible"], axis=1)[:, :13718].astype(bool)


def cameras(clip):
    return [(np.array(c.K), np.array(c.Rt)) for c in clip.crops]


def test_parameters_rebuild_joints(bodies, rebuilt):
    for clip, (vertices, joints) in zip(bodies.clips, rebuilt, strict=True):
        assert np.abs(joints - clip.labels["joints"]).max() < 1e-5  # 0.01 mm
        assert np.abs(vertices[..., 2].min(1)).max() < 1e-5  # the lowest vertex stands on the floor
        assert np.abs(joints[:, 0] - clip.labels["root"]).max() < 1e-5


def test_visible_vertices_fall_on_the_person(bodies, rebuilt):
    on, mask_on = [], []
    for clip, images, (vertices, _) in zip(bodies.clips, bodies.images, rebuilt, strict=True):
        seen = seen_vertices(clip)
        assert seen.any(1).all()
        for n, (K, Rt) in enumerate(cameras(clip)):
            xy, depth = project(vertices[clip.labels["instant"][n]][seen[n]], K, Rt)
            assert (depth > 0).all()
            x, y = np.clip(xy.astype(int), 0, 127).T
            on.append((images.label[n, y, x] > 0).mean())
            # Half a cell of a mask may be background; one cell of tolerance leaves only gross
            # shifts.
            grown = cv2.dilate(clip.masks[n].astype(np.uint8), np.ones((3, 3), np.uint8))
            mask_on.append(grown[y // 2, x // 2].mean())
    assert np.mean(on) >= 0.97 and np.min(on) >= 0.95
    assert np.mean(mask_on) >= 0.995


def test_visible_joints_fall_on_the_person(bodies, hands):
    for drawn in (bodies, hands):
        on = []
        for clip, images in zip(drawn.clips, drawn.images, strict=True):
            for n, (K, Rt) in enumerate(cameras(clip)):
                visible = clip.labels["joint_visible"][n] == labels.SEEN
                xy, _ = project(clip.labels["joints"][clip.labels["instant"][n]][visible], K, Rt)
                x, y = xy.astype(int).T
                on += (images.label[n, y, x] > 0).tolist()
        assert len(on) > 100 and np.mean(on) >= 0.97


def test_crops_hold_the_person_with_their_margin(bodies, rebuilt):
    for clip, (vertices, _) in zip(bodies.clips, rebuilt, strict=True):
        for n, (K, Rt) in enumerate(cameras(clip)):
            xy, _ = project(vertices[clip.labels["instant"][n]], K, Rt)
            assert (xy > 0).all() and (xy < 128).all()
            assert (
                128 / np.ptp(xy, axis=0).max() > 0.98 * bodies.config.margin
            )  # every 11th vertex is asked


def test_hand_crops_show_their_hand(hands):
    shares = []
    for clip in hands.clips:
        side = clip.crops[0].kind
        assert {c.kind for c in clip.crops} == {side} and side in ("left_hand", "right_hand")
        names = hands.maker.body.joint_names
        fingers = [
            i
            for i, name in enumerate(names)
            if name.startswith("finger") and name.endswith(side[0].upper())
        ]
        for n, (K, Rt) in enumerate(cameras(clip)):
            xy, _ = project(clip.labels["joints"][clip.labels["instant"][n]][fingers], K, Rt)
            assert (xy > 0).all() and (xy < 128).all()
        shares += clip.labels["visible"].tolist()
    assert np.mean(shares) > 0.25 and max(shares) < 0.75  # one never sees all around


def test_overlap_is_directed_and_exact(bodies, hands):
    for drawn in (bodies, hands):
        for clip in drawn.clips:
            o, visible = clip.overlap, clip.labels["visible"]
            assert (o >= 0).all() and (o <= 1).all() and (np.diag(o) == 1).all()
            common = (
                o * visible[:, None]
            )  # the area two crops share, whichever of them it is counted from
            assert np.abs(common - common.T).max() < 1e-5
            assert np.abs(o - o.T).max() > 0.005


def test_a_camera_leaves_what_it_would_touch():
    points = np.random.default_rng(0).normal(0, 0.05, (200, 3))
    middle = np.zeros(3)
    for eye in ([0.01, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, -0.1, 0.05]):
        found = shots.keep_away(np.array(eye), points, middle)
        assert np.linalg.norm(points - found, axis=1).min() >= shots.LEAST_EYE_M
    far = np.array([0.0, 1.0, 0.0])
    assert np.array_equal(shots.keep_away(far, points, middle), far)


def test_second_camera_is_near_the_first(bodies, hands):
    for drawn in (bodies, hands):
        for clip in drawn.clips:
            where = {c.camera: camera_centre(c.Rt) for c in clip.crops}
            assert set(where) == {"0", "1", "2"}
            target = (
                clip.labels["joints"].mean((0, 1)) if drawn is bodies else _hand_middle(drawn, clip)
            )
            assert 2 < np.degrees(angle_about(target, where["0"], where["1"])) < 60
            for c in clip.crops:  # a camera stays where it is between instants
                assert np.abs(camera_centre(c.Rt) - where[c.camera]).max() < 1e-4


def _hand_middle(drawn, clip):
    side = clip.crops[0].kind[0].upper()
    return clip.labels["joints"][:, drawn.maker.index[f"finger3-1.{side}"]].mean(0)


def test_clip_survives_encoding(bodies):
    members = encode(bodies.clips[0])
    name = f"{population(bodies.config)}-0"
    assert re.fullmatch("made-[0-9a-f]{16}-3-0", name)
    meta = decode_meta(members["json"], f"shard:{name}")
    assert (meta.source, meta.licence, meta.subject) == ("made", "CC0-1.0", name)
    assert [c.time_s for c in meta.crops] == [0.0, 0.35] * 3
    image = cv2.imdecode(np.frombuffer(members["00.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (128, 128, 3) and image.std() > 10


def test_clips_do_not_depend_on_their_order(bodies):
    again = bodies.maker.clip(1)
    assert encode(again) == encode(bodies.clips[1])


def config_of(name, *keys):
    return parse(
        PeopleConfig, [str(ROOT / f"configs/data/{name}.yaml"), "out=none", *keys], "data make"
    )


def test_recipes_that_differ_share_nobody_whatever_their_seeds(bodies):
    """The studio and out-of-domain recipes, bodies and hands, a key changed by a little: all with
    seed 3."""
    maker, keys = bodies.maker, ["seed=3", "size=64", "instants=1", "cameras=2", "antialias=1"]
    studio, more = config_of("people_body_studio", *keys), "domain.child_share=0.001"
    recipes = {
        "studio": studio,
        "out-of-domain": config_of("people_body_elsewhere", *keys),
        "hands": dataclasses.replace(studio, kind="hand"),
        "children": config_of("people_body_studio", *keys, more),
        "farther": config_of("people_body_studio", *keys, "domain.distance_m=2.5,4.6"),
        "seed 4": config_of("people_body_studio", *keys, "seed=4"),
    }
    before, found = maker.config, {}
    for name, config in recipes.items():
        maker.config = config
        found[name] = [maker.make_person(maker.random(index)) for index in range(3)]
    maker.config = before
    shapes = {
        tuple(person.phenotype.tolist()): name
        for name, persons in found.items()
        for person in persons
    }
    poses_ = {person.pose.tobytes(): name for name, persons in found.items() for person in persons}
    assert len(shapes) == len(poses_) == 3 * len(recipes)
    assert len({population(config) for config in recipes.values()}) == len(recipes)


def test_equal_names_mean_equal_people(bodies):
    """Where clips lie, how large they are drawn and stored, and how a number is written change
    nobody, and no name."""
    maker, keys = bodies.maker, ["seed=3", "instants=1", "cameras=2", "antialias=1"]
    plain = config_of("people_body_studio", *keys, "size=64")
    same = [
        config_of(
            "people_body_studio",
            *keys,
            "size=96",
            "clips=9",
            "clips_per_shard=7",
            "jpeg_quality=50,60",
        ),
        dataclasses.replace(
            plain, domain=dataclasses.replace(plain.domain, facing_deg=30, child_share=0)
        ),
    ]
    assert {population(config) for config in same} == {population(plain)}
    # A key that is added to the recipe later must not make other people of today's recipes.
    assert population(config_of("people_body_studio")) == "made-b599d94ad248cd36-0"
    before, poses_ = maker.config, set()
    for config in (plain, *same):
        maker.config = config
        poses_.add(maker.make_person(maker.random(1)).pose.tobytes())
    maker.config = before
    assert len(poses_) == 1


def test_all_recipes_that_ship_and_their_default_seeds_coincide_nowhere():
    names = [path.stem for path in (ROOT / "configs/data").glob("people_*.yaml")]
    assert len(names) >= 6 and len(
        {population(config_of(name, "seed=0")) for name in names}
    ) == len(names)


def test_a_folder_of_an_older_generator_is_not_gone_on_with(tmp_path):
    """Its people had other random numbers; a folder of both would be of two populations under one
    recipe."""
    sets = ["clips=2", "clips_per_shard=2", "size=64", "cameras=2", "seed=9"]
    assert make.main([EASY, f"out={tmp_path}", "device=cpu", *sets]) == 0
    tar = tmp_path / "shard-000000.tar"
    old = [
        dataclasses.replace(clips.make_clip(i, size=16), key=f"made-9-{i}", subject=f"made-9-{i}")
        for i in range(2)
    ]
    write_shard(str(tar), old)
    assert make.main([EASY, f"out={tmp_path}", "device=cpu", *sets]) == 0  # complete as it is
    with pytest.raises(
        UserError,
        match=r"shard-000000.tar holds made-9-0, which another version .*made-[0-9a-f]{16}-9-0",
    ):
        make.main([EASY, f"out={tmp_path}", "device=cpu", *sets, "clips=4"])


def test_motions_keep_limits_and_are_smooth():
    rng = np.random.default_rng(0)
    for n in range(60):
        moves = motion.sample_motion(rng, motion.even_times(48, 1 / 240), may_run=n % 3 > 0)
        angles, hands, root = moves.angles, moves.hands, moves.root
        assert (angles >= poses.LOW - 1e-9).all() and (angles <= poses.HIGH + 1e-9).all()
        assert (hands[..., 4:16] >= poses.FINGER_LOW).all() and (
            hands[..., 4:16] <= poses.FINGER_HIGH
        ).all()
        # 1000 degrees and 3 metres a second are beyond what limbs and runners do.
        assert np.abs(np.diff(angles, axis=0)).max() * 240 < 1500
        assert np.linalg.norm(np.diff(root[:, 1:], axis=0), axis=1).max() * 240 < 6


def test_mirrored_angles_mirror_the_skeleton(bodies):
    rng = np.random.default_rng(1)
    rig, body = bodies.maker.rig, bodies.maker.body
    names = list(poses.POSTURES)
    angles = np.stack([motion.sample_posture(rng, names) for _ in range(4)])
    hands = rng.uniform(0, 30, (4, 2, poses.HAND_SIZE))
    sides = [
        rig.index[n[:-1] + {"L": "R", "R": "L"}[n[-1]] if n[-2:] in (".L", ".R") else n]
        for n in rig.names
    ]
    found = []
    for a, h in ((angles, hands), (poses.mirror_angles(angles), hands[:, ::-1])):
        pose, place = rig.pose(a, h, np.zeros((4, 3)))
        shape = torch.full((1, 6), 0.5)
        found.append(
            body.joints_at(
                torch.from_numpy(pose), torch.from_numpy(place), body.rest(shape)
            ).numpy()
        )
    reflected = found[1][:, sides] * [-1, 1, 1]
    # The posture is mirrored where rotations are about one axis; combined rotations of the trunk
    # come in one order on both sides.
    assert np.median(np.abs(reflected - found[0])) < 0.02
    arms = [i for i, n in enumerate(rig.names) if "finger" in n or "wrist" in n]
    assert np.abs(reflected - found[0])[:, arms].max() < 0.05


def test_no_hand_is_inside_the_body(bodies):
    """By the winding number of the body's mesh without its arms (Jacobson et al. 2013), not by the
    capsules."""
    maker = bodies.maker
    template, rng = maker.template, np.random.default_rng(5)
    trunk = (template.limb[template.faces[: template.body_faces], 0] < 0).all(1)
    faces = template.faces[: template.body_faces][
        trunk & (template.layer[: template.body_faces] == 0)
    ]
    inside = []
    for _ in range(12):
        person = maker.make_person(rng)
        for t in range(len(person.joints)):
            points = np.concatenate(
                [collide.hand_points(person.joints, maker.index, side)[t] for side in "LR"]
            )
            inside += (winding(points, person.vertices[t].numpy(), faces) > 0.5).tolist()
    assert np.mean(inside) < 0.005


def winding(points, vertices, faces):
    """(n,) how often a mesh winds around each point: sum of signed solid angles (Van Oosterom and
    Strackee 1983)."""
    out = np.zeros(len(points))
    for i, point in enumerate(points):
        a, b, c = (vertices[faces[:, k]] - point for k in range(3))
        la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
        volume = (a * np.cross(b, c)).sum(1)
        below = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        out[i] = np.arctan2(volume, below).sum() / (2 * np.pi)
    return out


def test_winding_tells_inside_from_outside(bodies):
    template = bodies.maker.template
    faces = template.faces[: template.body_faces]
    assert np.allclose(
        winding(np.array([[0, 0, 1.2], [0, 0, 3.0]]), template.rest, faces), [1, 0], atol=0.1
    )


def test_thin_people_keep_their_mask():
    label = np.zeros((2, 256, 256), np.uint8)
    label[0, 10:200, 30] = 1
    label[1, 64:128, 64:128] = 3
    masks = labels.make_masks(label)
    assert masks[0].sum() == 48 and masks[1].sum() == 16 * 16


def test_bytes_are_equal_from_one_and_two_processes(tmp_path):
    sets = ["clips=4", "clips_per_shard=2", "size=64", "cameras=2", "seed=9"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert make.main([EASY, f"out={one}", "device=cpu", *sets]) == 0
    subprocess.run(
        [
            sys.executable,
            "-m",
            "data",
            "make",
            EASY,
            f"out={two}",
            "device=cpu",
            "workers=2",
            *sets,
        ],
        cwd=ROOT,
        check=True,
    )
    assert digests(one) == digests(two) and len(digests(one)) == 2

    # More clips continue; what is there stays; what a killed process left goes.
    stale = one / "shard-000002.tar.writing-999999999"
    stale.write_bytes(b"half")
    when = (one / "shard-000000.tar").stat().st_mtime_ns
    assert make.main([EASY, f"out={one}", "device=cpu", *sets, "clips=5"]) == 0
    assert not stale.exists() and (one / "shard-000000.tar").stat().st_mtime_ns == when
    assert (
        len(digests(one)) == 3
        and digests(one)["shard-000000.tar"] == digests(two)["shard-000000.tar"]
    )

    with pytest.raises(UserError, match=r"seed=10 here.*seed=9"):
        make.main([EASY, f"out={one}", *sets, "seed=10"])


def digests(folder):
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.tar"))
    }


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make.main([EASY, f"out={tmp_path}/file/clips"])
    (tmp_path / "shard-000000.tar").write_bytes(b"someone else's")
    with pytest.raises(UserError, match="did not make"):
        make.main([EASY, f"out={tmp_path}"])
    with pytest.raises(UserError, match="out= is not set"):
        make.main([EASY])


def test_a_try_that_wrote_no_shard_claims_no_folder(tmp_path):
    def claim(seed):
        make.claim_folder(PeopleConfig(out=str(tmp_path), seed=seed))

    claim(1)
    claim(2)
    (tmp_path / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(UserError, match="seed=3 here.*seed=2"):
        claim(3)


def test_device_must_exist(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="no CUDA device"):
        make.main([EASY, f"out={tmp_path}", "device=cuda"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_draws_the_same_images(bodies):
    maker = ClipMaker(bodies.config, "cuda")
    clip = maker.clip(0)
    assert encode(maker.clip(0)) == encode(clip)
    for ours, theirs in zip(clip.jpegs, bodies.clips[0].jpegs, strict=True):
        a, b = (
            cv2.imdecode(np.frombuffer(j, np.uint8), cv2.IMREAD_COLOR).astype(int)
            for j in (ours, theirs)
        )
        assert np.abs(a - b).mean() < 2
    assert np.abs(clip.labels["joints"] - bodies.clips[0].labels["joints"]).max() < 1e-4


@pytest.mark.parametrize(
    "config", ["people_body", "people_body_easy", "people_hand", "people_hand_easy"]
)
def test_configs_are_complete(config, tmp_path):
    found = parse(
        PeopleConfig,
        [str(ROOT / f"configs/data/{config}.yaml"), f"out={tmp_path}"],
        command="data make",
    )
    assert found.kind == ("hand" if "hand" in config else "body")
    assert found.size == (128 if "easy" in config else 256) and found.margin >= 1.25
    assert found.domain.upright == ("easy" in config)
    assert os.path.basename(found.out) == tmp_path.name
