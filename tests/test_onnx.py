"""Networks as ONNX files: their answers, what they say, and the program of the docs."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from networks import make_run

from engine.errors import UserError
from finetune.__main__ import main
from finetune.inference.predictor import Predictor
from finetune.portable.command import word_licence
from finetune.portable.network import make_inputs
from finetune.portable.traced import find_nearest_rotation, interpolate

DOCS = Path(__file__).resolve().parent.parent / "docs" / "export.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    words = ["margin=1.35", "head.prompts=true", "data.augment.prompt_share=0.5"]
    words += ["head.rounds=1", "head.map_cells=2"]
    return make_run(tmp_path_factory.mktemp("runs") / "hand", "hand", *words)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The file of a whole network."""
    path = tmp_path_factory.mktemp("whole") / "body.onnx"
    assert main(["export", "onnx", str(run), f"out={path}"]) == 0
    return path


def open_session(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["counterpose"])


def test_nearest_rotations_are_those_of_the_singular_values():
    made = torch.Generator().manual_seed(1)
    matrices = torch.randn(4, 50, 3, 3, generator=made)
    found = find_nearest_rotation(matrices)
    assert torch.allclose(found, roma.special_procrustes(matrices, method="svd"), atol=1e-5)
    flat = matrices * torch.tensor([1.0, 1.0, 0.0])  # of rank 2, as bones of few vertices are
    wanted = roma.special_procrustes(flat, method="svd")
    assert torch.allclose(find_nearest_rotation(flat), wanted, atol=1e-4)


@pytest.mark.parametrize("extrapolate", [False, True])
def test_shares_of_anchors_are_annys(extrapolate):
    from anny.utils.interpolation import linear_interpolation_coefficients

    anchors, values = torch.tensor([0.0, 0.3, 1.0]), torch.linspace(-0.2, 1.2, 29)
    wanted = linear_interpolation_coefficients(values, anchors, extrapolate)
    assert torch.allclose(interpolate(values, anchors, extrapolate), wanted, atol=1e-6)


def test_a_whole_network_answers_as_torch_does(run, whole):
    session, about = open_session(whole)
    predictor = Predictor(run, "cpu")
    inputs = make_inputs(predictor, ["images", "K", "prompts"], 5, 9)
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        wanted = predictor.model(inputs["images"], inputs["K"], predictor.body, inputs["prompts"])
    named = dict(zip([one.name for one in session.get_outputs()], found, strict=True))
    parameters = wanted.parameters
    for name, value in (
        ("vertices", wanted.vertices),
        ("joints", wanted.joints),
        ("keypoints", wanted.keypoints),
        ("pose", parameters.pose),
        ("shape", parameters.shape),
        ("translation", parameters.translation),
    ):
        assert named[name].shape == value.shape and np.ptp(named[name], 0).max() > 1e-3, name
        np.testing.assert_allclose(named[name], value.numpy(), atol=1e-3, err_msg=name)
    assert about["size"] == [32, 32] and about["margin"] == 1.35 and about["opset"] == 17
    assert about["joint_names"] == list(predictor.body.joint_names)
    assert about["largest_difference"]["float32"]["vertices"] <= 1e-3
    assert "Apache-2.0" in about["licence"] and "holds the body model" in about["licence"]
    assert "neither" not in about["licence"]


def test_the_program_of_the_docs(run, whole, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert set(re.findall(r"^import (\w+)", code, re.MULTILINE)) == {"json", "numpy", "onnxruntime"}
    y, x = np.mgrid[:120, :160] / 20
    waves = [np.sin(x * a + y * b) for a, b in ((1, 0.4), (0.3, 1.2), (-0.8, 0.9))]
    image = np.round(127.5 + 110 * np.stack(waves, 2)).astype(np.uint8)
    boxes = np.array([[20.0, 10, 90, 100], [-10, 40, 60, 130]])
    monkeypatch.chdir(whole.parent)
    known = {"image": image, "boxes": boxes}
    exec(compile(code, str(DOCS), "exec"), known)  # noqa: S102
    people = Predictor(run, "cpu")(image, boxes)
    assert len(people) == len(known["people"]["vertices"]) == 2
    for row, person in enumerate(people):
        # Crops are rounded to bytes there.
        assert np.abs(known["people"]["joints"][row] - person.joints).max() < 0.02
    assert known["pixels"].shape == (2, people[0].joints.shape[0], 2)
    squares = [known["find_square"](box, known["about"]) for box in boxes]
    crop = known["cut_crop"](image, squares[1], known["about"])
    from data.cropping.geometry import square_of_box
    from data.cropping.host import cut_square

    other = cut_square(image, square_of_box(squares[1]), 32)
    assert np.abs(crop - other).max() < 2


def test_an_encoder_alone_and_in_8_bits(run, tmp_path, capsys):
    predictor = Predictor(run, "cpu")
    images = make_inputs(predictor, ["images"], 4, 3)["images"]
    with torch.no_grad():
        wanted = predictor.model.make_tokens(images, torch.eye(3)[None]).numpy()
    apart = {}
    for words in ([], ["int8=true"]):
        path = tmp_path / f"encoder{len(words)}.onnx"
        assert main(["export", "onnx", str(run), f"out={path}", "part=encoder", *words]) == 0
        session, about = open_session(path)
        (found,) = session.run(["tokens"], {"images": images.numpy()})
        assert found.shape == wanted.shape
        kind = "int8" if words else "float32"
        apart[kind] = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert list(about["largest_difference"])[-1] == kind and "joint_names" not in about
        assert f"{kind} against torch, largest difference: tokens" in capsys.readouterr().out
    assert apart["float32"] < 1e-3 and 10 * apart["float32"] < apart["int8"] < 0.2


@pytest.mark.parametrize("body", ["anny", "smplx"])
def test_the_licence_is_of_what_the_file_holds(body):
    whole, alone = (word_licence(body, whole) for whole in (True, False))
    assert "holds the network alone" in alone and "above" not in whole + alone
    assert whole.endswith("The file holds the body model too, under its own licence.")
    assert "part of the file" not in whole and "alone" not in whole
    assert ("research" in whole) == (body == "smplx") and ("CC0" in whole) == (body == "anny")


def test_what_export_refuses(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="out=a.pt: .* does not end in .onnx"):
        main(["export", "onnx", str(run), "out=a.pt"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[onnx\]'"):
        main(["export", "onnx", str(run), f"out={tmp_path / 'a.onnx'}"])
