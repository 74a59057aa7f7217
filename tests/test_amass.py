"""AMASS's files of both releases."""

import numpy as np
import pytest

from data.sources.labelled.amass import read_motion
from engine.errors import UserError


@pytest.mark.parametrize(
    "model,joints,more",
    [
        ("smplh", 52, {"mocap_framerate": 120.0, "dmpls": np.zeros((6, 8))}),
        (
            "smplx",
            55,
            {"mocap_frame_rate": np.array(60), "surface_model_type": np.array("smplx")},
        ),
    ],
)
def test_both_releases_are_read(tmp_path, model, joints, more):
    rng = np.random.default_rng(0)
    arrays = {
        "poses": rng.normal(size=(6, 3 * joints)),
        "trans": rng.normal(size=(6, 3)),
        "betas": rng.normal(size=16),
        "gender": np.array(b"female"),
        **more,
    }
    np.savez(tmp_path / "a_poses.npz", **arrays)
    motion = read_motion(str(tmp_path / "a_poses.npz"))
    assert (motion.model, motion.variant) == (model, "female")
    assert np.array_equal(motion.pose[3, 2], arrays["poses"][3, 6:9])
    assert np.array_equal(motion.transl, arrays["trans"])
    assert motion.times[-1] == pytest.approx(5 / motion.rate_hz)
    assert motion.rate_hz == (120 if model == "smplh" else 60)


def test_a_shape_without_motion_is_told(tmp_path):
    path = str(tmp_path / "shape.npz")
    np.savez(path, betas=np.ones(16), gender=np.array("male"))
    with pytest.raises(UserError, match=r"shape\.npz is no motion of AMASS: it lacks 'poses'"):
        read_motion(path)
    np.savez(path, betas=np.ones(16), poses=np.ones((6, 72)), trans=np.ones((6, 3)))
    with pytest.raises(UserError, match="poses have 24 joints, none of 52, 55"):
        read_motion(path)
    np.savez(path, betas=np.ones(16), poses=np.ones((6, 156)), trans=np.ones((6, 3)))
    with pytest.raises(UserError, match="it lacks 'mocap_frame_rate'"):
        read_motion(path)
