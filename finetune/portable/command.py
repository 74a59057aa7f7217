"""``python -m finetune export onnx``: a network as an ONNX file, compared with its own answers."""

import importlib
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from data.cropping.geometry import find_sides
from data.loading.augment import MEAN, STD
from engine.config.parser import parse_keys
from engine.errors import EnvironmentFault, UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import write_file
from finetune.config import BODY_MODELS
from finetune.inference.predictor import Predictor
from finetune.portable.network import Graph, choose_part, make_inputs
from finetune.portable.traced import recording
from finetune.prompts import PROMPTED
from finetune.released.card import BODY_TERMS, LICENCE, OTHER_LICENCE
from finetune.verb_config import ExportOnnxConfig

OPSET = 17
FORMAT = 1  # of the metadata
KEY = "counterpose"  # of the file's metadata
EXTRA = "pip install -e '.[onnx]' -c constraints.txt"
TOLERANCE = 1e-3  # metres; of an encoder's tokens a share of their largest
ASKED = (1, 3)  # images at once that are compared
HOLDS_BODY = ". The file holds the body model too, under its own licence."
# Where a card says that a file holds the network alone.
ALONE = ("; neither is part", ". The body model is no part")

log = get_logger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run ``python -m finetune export onnx``; returns the exit code.

    Raises:
        UserError: there is no such network; the packages are missing.
        EnvironmentFault: the file answers otherwise than the network.
    """
    config, _ = parse_keys(ExportOnnxConfig, argv, "finetune export onnx")
    runtime = import_extra("onnxruntime")
    import_extra("onnx")
    predictor = Predictor(config.run, "cpu")
    graph = choose_part(predictor, config.part)
    data = record_graph(predictor, graph)
    differences = {"float32": compare(runtime, data, predictor, graph)}
    refuse_difference(differences["float32"], graph, config.out)
    if config.int8:
        data = shrink_weights(data)
        differences["int8"] = compare(runtime, data, predictor, graph)
    about = describe(predictor, graph, config, differences)
    data = add_metadata(data, about)
    try:
        write_file(config.out, data)
    except OSError as error:
        raise failure_of(error, f"out={config.out} cannot be written: {explain(error)}") from None
    for kind, found in differences.items():
        words = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
        print(f"{kind} against torch, largest difference: {words}")
    print(f"{config.out}: {', '.join(graph.inputs)} -> {', '.join(graph.outputs)}; "
          f"opset {OPSET}, {len(data) / 1e6:.1f} MB")  # fmt: skip
    return 0


def import_extra(name: str) -> ModuleType:
    """Return a module of the extra ``onnx``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"files of ONNX are written by onnx and onnxruntime: {EXTRA}") from None


def record_graph(predictor: Predictor, graph: Graph) -> bytes:
    """Return the ONNX file of a part of a network, for any number of images at once.

    It is recorded with one image: what torch takes for a number is then 1, which ONNX repeats as
    often as it has to.
    """
    inputs = make_inputs(predictor, graph.inputs, 1, 0)
    names = (*graph.inputs, *graph.outputs)
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.no_grad(),
        recording(),
        warnings.catch_warnings(),
    ):
        file = Path(folder) / "recorded.onnx"
        # That numbers are taken for constants, and that this exporter is the older one: the newer
        # takes over five minutes for eight rounds of a body.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module,
            tuple(inputs.values()),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes={name: {0: "batch"} for name in names},
        )
        return file.read_bytes()


def compare(
    runtime: ModuleType, data: bytes, predictor: Predictor, graph: Graph
) -> dict[str, float]:
    """Return {output: largest difference} of a file and the network, on made inputs.

    Those of tokens are shares of the largest token.
    """
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    out = dict.fromkeys(graph.outputs, 0.0)
    for count in ASKED:
        inputs = make_inputs(predictor, graph.inputs, count, count)
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            wanted = graph.module(*inputs.values())
        for name, one, other in zip(graph.outputs, found, wanted, strict=True):
            apart = float(np.abs(one - other.numpy()).max()) if one.shape == other.shape else np.inf
            if name == "tokens":
                apart /= float(other.abs().max())
            out[name] = max(out[name], apart)
    return out


def refuse_difference(found: Mapping[str, float], graph: Graph, path: str) -> None:
    """Raise EnvironmentFault where an output is off by more than TOLERANCE."""
    for name, apart in found.items():
        if not apart <= TOLERANCE:
            raise EnvironmentFault(
                f"out={path}: '{name}' of the file is {apart:.3g} from the network's, more than "
                f"{TOLERANCE:g}: this torch records it otherwise; versions: {EXTRA}"
            )


def shrink_weights(data: bytes) -> bytes:
    """Return the file with the encoder's matrices in 8 bits, its images' numbers when it runs.

    The head and the body model stay in float32: they turn numbers into metres.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    onnx = import_extra("onnx")
    nodes = [node.name for node in onnx.load_from_string(data).graph.node if "encoder" in node.name]
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(data)
        quantization.quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=nodes,
            weight_type=quantization.QuantType.QInt8,
        )
        return after.read_bytes()


def describe(
    predictor: Predictor,
    graph: Graph,
    config: ExportOnnxConfig,
    differences: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return what a program has to know of the file, as JSON holds it."""
    body, settings = predictor.body, predictor.config
    about = {
        "format": FORMAT,
        "part": config.part,
        "run": Path(config.run).name,
        "opset": OPSET,
        "kind": body.kind,
        "size": list(find_sides(settings.model.size)),
        "margin": settings.margin,
        "mean": list(MEAN),
        "std": list(STD),
        "int8": config.int8,
        "largest_difference": {kind: dict(found) for kind, found in differences.items()},
        "licence": word_licence(body.name, config.part == "network"),
    }
    if config.part == "encoder":
        return about
    about["axes"] = "camera of the crop: x right, y down, z forward; metres; rotation matrices"
    about |= {
        "body": body.name,
        "joint_names": list(body.joint_names),
        "joint_parents": list(body.parents),
        "keypoint_names": list(body.keypoint_names),
        "shape_names": list(body.shape_space.names),
    }
    if "prompts" in graph.inputs:
        about["prompt_names"] = list(PROMPTED[body.kind])
    return about


def word_licence(body: str, whole: bool) -> str:
    """Return the licence of a file.

    Args:
        body: name of the body model.  whole: whether the file holds it too.
    """
    known = body in BODY_MODELS.values()
    text = LICENCE if known else OTHER_LICENCE.format(name=body, terms=BODY_TERMS)
    text = " ".join(text.split()).replace("named above", "named in their card")
    if not whole:
        return text
    for words in ALONE:
        text = text.partition(words)[0]
    return text + HOLDS_BODY


def add_metadata(data: bytes, about: Mapping[str, Any]) -> bytes:
    """Return the file with what ``describe`` says of it."""
    onnx = import_extra("onnx")
    model = onnx.load_from_string(data)
    model.producer_name = KEY
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    return model.SerializeToString()
