"""Tracks and rigs: skinning by hand against the body models, gaps, what does not fit."""

import numpy as np
import pytest
import torch
from body_standins import make_body, write_npz
from moving import make_take, make_track

from data.bodies.body_files import VARIABLE
from data.bodies.models import open_model
from engine.errors import UserError
from finetune.animation.rig import TO_WORLD, find_upright, make_motion, make_rig, skin


@pytest.fixture
def smpl(tmp_path, monkeypatch):
    """SMPL by a made file, whose correctives of the pose are not 0."""
    write_npz(tmp_path / "bodies/smpl/SMPL_NEUTRAL.npz", make_body("smpl", vertices=6890))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bodies"))
    return open_model("smpl")


@pytest.mark.parametrize(
    "name, kind", [("anny", "body"), ("anny_hand", "right_hand"), ("anny_hand", "left_hand")]
)
def test_skinning_by_hand_is_the_model(bodies, name, kind):
    track = make_track(bodies[name], kind)
    rig, motion = make_rig(track), make_motion(track)
    assert np.allclose(rig.weights.sum(1), 1)
    for row in (0, 3):
        vertices = track.pose_rows(slice(row, row + 1)).vertices[0]
        assert np.abs(skin(rig, motion, row) @ TO_WORLD - vertices).max() < 2e-6


def test_only_correctives_are_lacking_of_smpl(smpl):
    track = make_track(smpl)
    rig, motion = make_rig(track), make_motion(track)
    vertices = track.pose_rows(slice(0, 1)).vertices[0]
    assert np.abs(skin(rig, motion, 0) @ TO_WORLD - vertices).max() > 1e-3
    smpl.skinning.pose_directions.zero_()
    vertices = track.pose_rows(slice(0, 1)).vertices[0]
    assert np.abs(skin(rig, motion, 0) @ TO_WORLD - vertices).max() < 2e-6


def test_rigs_stand_upright_and_face_z(bodies):
    track = make_track(bodies["anny"])
    rig = make_rig(track)
    at = dict(zip(rig.joint_names, rig.joints, strict=True))
    assert at["head"][1] > at["root"][1] > at["foot.L"][1]
    assert at["upperleg01.L"][0] > 0 > at["upperleg01.R"][0]
    assert at["toe2-1.L"][2] > at["foot.L"][2]
    outward = np.cross(
        rig.vertices[rig.faces[:, 1]] - rig.vertices[rig.faces[:, 0]],
        rig.vertices[rig.faces[:, 2]] - rig.vertices[rig.faces[:, 0]],
    )
    inside = rig.vertices[rig.faces].mean(1) - rig.vertices.mean(0)
    assert (outward * inside).sum() > 0


def test_left_hands_are_right_ones_in_a_mirror(bodies):
    left = make_track(bodies["anny_hand"], "left_hand")
    right = make_track(bodies["anny_hand"], "right_hand")
    flip = np.diag([-1.0, 1, 1])
    right.pose = (flip @ left.pose @ flip).astype(np.float32)
    right.translation = left.translation * np.float32([-1, 1, 1])
    mine, theirs = left.pose_rows(slice(0, 2)), right.pose_rows(slice(0, 2))
    assert np.allclose(mine.vertices * [-1, 1, 1], theirs.vertices, atol=1e-6)
    assert make_rig(left).joint_names[1] == "wrist.L"


def test_gaps_stay(bodies):
    track = make_track(bodies["anny_hand"], "right_hand", frames=(2, 3, 4, 7, 8))
    assert [(one.start, one.stop) for one in track.list_stretches()] == [(0, 3), (3, 5)]
    take = make_take(track)
    assert take.list_frame(3) == [(0, 1)]
    assert take.list_frame(5) == take.list_frame(9) == []
    person = track.make_person(3, 0)
    assert person.time_s == pytest.approx(7 / 25) and person.track == 0
    assert np.allclose(person.vertices, track.pose_rows(slice(3, 4)).vertices[0])


def test_what_does_not_belong_together_is_told(bodies):
    with pytest.raises(UserError, match=r"body-1: its frames do not increase"):
        make_track(bodies["anny_hand"], "right_hand", frames=(3, 3))
    track = make_track(bodies["anny_hand"], "right_hand")
    fields = {name: getattr(track, name) for name in track.__dataclass_fields__}
    with pytest.raises(UserError, match=r"times has shape \(4,\), not \(5,\) of its 5 frames"):
        type(track)(**fields | {"times": track.times[1:]})


def test_upright_of_a_model_is_a_rotation(bodies):
    for body in bodies.values():
        shape = torch.full((1, len(body.shape_space.names)), 0.5)
        stand = find_upright(body, shape)
        assert np.allclose(stand @ stand.T, np.eye(3)) and np.linalg.det(stand) == pytest.approx(1)
