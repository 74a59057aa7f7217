"""Files of SMPL's family as users have them: found by name, refused in one sentence, never run."""

import os
import pickle

import numpy as np
import pytest
import torch
from body_standins import make_body, write_npz, write_old_pickle
from old_pickles import Call, write_old

from data.bodies.body_files import VARIABLE, find_file
from data.bodies.models import LAYOUTS, open_model
from data.bodies.smpl_layout import FAMILY, SMPL, SMPLH
from data.format.joint_sets import find_joint_set
from engine.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def refusal(name="smpl", variant=""):
    """The one sentence that opening a model ends in."""
    with pytest.raises(UserError) as caught:
        open_model(name, variant)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_names_of_joints_and_parents_are_the_models():
    for spec, count in zip(FAMILY.values(), (24, 52, 55, 16), strict=True):
        names = spec.joint_names
        assert len(names) == len(spec.parents) == count
        layout = LAYOUTS.find(spec.name)
        assert layout.joint_names == names and layout.index_keypoints()[0] == 0
        for side in ("left_hand", "right_hand"):
            hand = layout.index_part(side)
            assert "wrist" in names[hand[0]] and len(hand) == {"smpl": 2}.get(spec.name, 16)
        for joint, parent in enumerate(spec.parents):
            if names[joint].endswith(("_2", "_3")) and "spine" not in names[joint]:
                number = int(names[joint][-1]) - 1
                assert names[parent] == f"{names[joint][:-1]}{number}"
            elif names[joint].endswith("_1") and spec.kind == "body" and joint > 21:
                assert names[parent] == names[joint].split("_")[0] + "_wrist"
    assert [FAMILY["smplx"].joint_names[i] for i in FAMILY["smplx"].parents[22:25]] == ["head"] * 3
    assert LAYOUTS.find("smpl").keypoints["spine"] == "spine_1"
    assert list(LAYOUTS.find("smplh").keypoints) == list(find_joint_set("body21").joints)


@pytest.mark.parametrize(
    ("place", "variant"),
    [
        ("smpl/SMPL_FEMALE.npz", "female"),
        ("SMPL_MALE.pkl", "male"),
        ("SMPL_python_v.1.1.0/smpl/models/basicmodel_f_lbs_10_207_0_v1.1.0.pkl", "female"),
        ("smpl/models/basicModel_neutral_lbs_10_207_0_v1.0.0.pkl", "neutral"),
    ],
)
def test_files_are_found_where_they_unpack_and_where_people_put_them(folder, place, variant):
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert find_file(SMPL, variant) == str(path)
    with pytest.raises(UserError):
        find_file(SMPL, "male" if variant != "male" else "female")


def test_npz_comes_before_pkl_and_the_models_own_folder_before_the_others(folder):
    for place in ("SMPLH_MALE.pkl", "mano_v1_2/models/SMPLH_male.pkl", "smplh/male/model.npz"):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert find_file(SMPLH, "male") == str(folder / "smplh/male/model.npz")
    os.unlink(folder / "smplh/male/model.npz")
    assert find_file(SMPLH, "male").endswith("mano_v1_2/models/SMPLH_male.pkl")


def test_what_is_not_there_is_named_with_where_it_is_had(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert "register at https://smpl-x.is.tue.mpg.de" in refusal("smplx")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    assert "nowhere is no folder" in refusal()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    text = refusal("smplx", "male")
    assert "smplx_male.npz" in text and str(tmp_path / "smplx") in text and "https://" in text
    assert "'old' was asked for" in refusal("smpl", "old")
    assert "neutral, male, female" in refusal("smpl", "old")


def test_a_model_of_another_kind_in_the_slot_is_told(folder):
    write_npz(folder / "smpl/SMPL_NEUTRAL.npz", make_body("mano", vertices=778))
    text = refusal()
    assert "SMPL_NEUTRAL.npz is not a file of SMPL" in text
    assert "16 joints, as MANO has, SMPL has 24" in text
    arrays = make_body("mano", vertices=90)
    write_npz(folder / "mano/MANO_RIGHT.npz", arrays)
    assert "v_template has 90 vertices, MANO has 778" in refusal("mano")
    arrays = make_body("smpl")
    arrays["kintree_table"][0, 23] = 3
    write_npz(folder / "smpl/SMPL_NEUTRAL.npz", arrays)
    assert "24 joints, SMPL has 24 with other parents" in refusal()


def spoil(name, change):
    """Arrays of SMPL with one of them changed."""
    arrays = make_body("smpl")
    arrays[name] = change(arrays[name])
    return arrays


def with_nan(array):
    array = array.copy()
    array.flat[5] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("posedirs", lambda a: a[:, :, :-1], "posedirs is of shape (90, 3, 206), not (90, 3, 207)"),
        ("shapedirs", lambda a: a[:-1], "shapedirs is of shape (89, 3, 10), not (90, 3, n)"),
        ("J_regressor", lambda a: a.T, "J_regressor is of shape (90, 24), not (24, 90)"),
        ("v_template", with_nan, "v_template holds numbers that are not finite"),
        ("shapedirs", with_nan, "shapedirs holds numbers that are not finite"),
        ("weights", lambda a: a * 3, "weights of a vertex add up to 2.00 beside 1"),
        ("f", lambda a: a + 1, "f names rows 1 to 90, of 90"),
        ("f", lambda a: a.astype("U4"), "f is of <U4, not numbers"),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_both_shapes(folder, name, change, words):
    write_npz(folder / "smpl/SMPL_NEUTRAL.npz", spoil(name, change))
    assert words in refusal()


@pytest.mark.parametrize("name", ["v_template", "kintree_table", "posedirs"])
def test_a_missing_field_is_named(folder, name):
    arrays = make_body("smpl")
    del arrays[name]
    write_npz(folder / "smpl/SMPL_NEUTRAL.npz", arrays)
    assert f"is no file of SMPL: it lacks {name}" in refusal()


@pytest.mark.parametrize("kind", ["npz", "pkl"])
def test_truncated_and_empty_files_are_told(folder, kind):
    path = folder / f"smpl/SMPL_NEUTRAL.{kind}"
    write = write_npz if kind == "npz" else write_old_pickle
    write(path, make_body("smpl"))
    data = path.read_bytes()
    for size in (0, 100, len(data) // 2):
        path.write_bytes(data[:size])
        assert str(path) in refusal()


def test_nothing_in_a_pickle_runs(folder):
    ran = folder / "ran"
    for module, name in (("os", "system"), ("builtins", "eval"), ("torch", "load")):
        write_old(folder / "smpl/SMPL_NEUTRAL.pkl", {"f": Call(module, name, f"touch {ran}")})
        assert "nothing in it was executed" in refusal()
    (folder / "smpl/SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps([1, 2], 2))
    assert "holds a list, not the fields of a body model" in refusal()
    arrays = make_body("smpl")
    arrays["shapedirs"] = np.array([print], object)
    os.unlink(folder / "smpl/SMPL_NEUTRAL.pkl")
    np.savez(folder / "smpl/SMPL_NEUTRAL.npz", **arrays)
    assert "refused" in refusal()
    assert not ran.exists()


def test_betas_are_as_many_as_the_file_has(folder):
    write_npz(folder / "smpl/SMPL_NEUTRAL.npz", make_body("smpl", shapes=300, vertices=30))
    write_npz(folder / "smplx/SMPLX_NEUTRAL.npz", make_body("smplx", shapes=20, vertices=60))
    body, whole = open_model("smpl"), open_model("smplx")
    assert len(body.shape_space.names) == 300 and not body.expression_names
    assert len(whole.shape_space.names) == len(whole.expression_names) == 10
    short = torch.ones(2, 16)
    assert body.fit_shape(short).shape == (2, 300) and whole.fit_shape(short).shape == (2, 10)
    with pytest.raises(ValueError, match="11 numbers of shape, smplx has 10"):
        whole(torch.zeros(1, 55, 3), torch.zeros(1, 3), torch.zeros(1, 11))
