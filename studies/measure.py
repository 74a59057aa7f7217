"""A row: errors on people who were not seen.

Of the fine-tuned network, of a ridge regression on the frozen encoder, of two views of it, and of
keypoints of real people.
"""

import datetime
import json
import shlex

import numpy as np
import torch

from data.config import CropDataConfig, SourceConfig
from data.loading.build import open_crop_order
from data.loading.crops import TAGS
from data.loading.validation import val_crops
from data.storage.cache import CacheConfig
from data.storage.shard_store import Store
from engine.config.parser import parse
from engine.distributed import hardware
from engine.distributed.process_group import Processes, device_of
from engine.distributed.rank_env import count_threads
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from engine.pose_metrics import mpjpe, pa_mpjpe
from engine.run.run_folder import RunFolder
from finetune.heads.base import pose_body
from finetune.inference.predictor import Predictor
from finetune.losses import project_points
from finetune.views import Targets, view
from pretrain import encoders, probe, ridge, weights
from pretrain.config import PretrainConfig
from studies import claims, plan
from studies.config import REAL, StudyConfig
from studies.keypoint_read_outs import measure_real
from studies.real_crops import read_real_crops
from studies.two_views import TwoViews

CHUNK = 64
PLACE = [TAGS.index(name) for name in ("source", "shard", "index")]


def measure_row(config: StudyConfig, row: plan.Row) -> None:
    """Put a finished row into the study's table; docs/results.md says what is in it."""
    torch.set_num_threads(count_threads() or torch.get_num_threads())
    predictor = (
        Predictor(plan.finetune_folder(config, row), config.device) if config.finetune else None
    )
    device = device_of(config.device)
    encoder, network = _open_weights(config, row, device)
    crops, processes = config.kind, Processes(0, 1, device)
    store, labelled = Store(CacheConfig().open()), ",".join(plan.list_labelled_shards(config, row))
    fit = probe.read_split(labelled, _clips(labelled, store), crops, store)
    features = probe.features(encoder, fit, crops, processes)
    two_views = TwoViews(encoder, network, fit, crops, processes)
    words, tune = plan.pretrain_words(config, row), plan.finetune_words(config, row)
    found = {
        "format": 1,
        "study": config.name,
        "kind": config.kind,
        "arm": row.arm,
        "seed": row.seed,
        "share": row.share,
        "labelled_clips": int(fit.clip.max()) + 1,
        "date": datetime.date.today().isoformat(),
        "machine": hardware.describe(),
        "torch": torch.__version__,
        "image_px": encoder.size,
        "commands": [
            "python -m " + shlex.join(plan.hide_real(config, one)) for one in (words, tune) if one
        ],
        "people": plan.find_people(config),
        "claims": claims.list_records(config),
        "code": _code(
            plan.finetune_folder(config, row) if tune else plan.pretrain_folder(config, row)
        ),
        "pretrain": _log(plan.pretrain_folder(config, row), "pairs") if words else {},
        "finetune": _log(plan.finetune_folder(config, row), "crops") if tune else {},
        "tests": {},
    }
    for name, test in config.tests.items():
        folder = str(plan.test_folder(config, name))
        split = probe.read_split(folder, test.clips, crops, store)
        seen = probe.features(encoder, split, crops, processes)
        errors: dict[str, dict] = {"frozen": measure_frozen(features, fit, seen, split)}
        errors |= two_views.measure(split)
        if predictor:
            errors |= measure_finetuned(predictor, folder, test.clips)
        found["tests"][name] = errors
    if config.real.shards:
        real = read_real_crops(config.real.shards, store)
        found["real"] = real.describe() | {"digest": found["people"][REAL]}
        found["tests"][REAL] = measure_real(encoder, features, fit, real, processes)
    plan.open_table(config).add("errors", found)


@torch.no_grad()
def measure_finetuned(predictor: Predictor, shards: str, clips: int) -> dict[str, dict]:
    """Return the errors of the fine-tuned network and of the mean pose.

    {"finetuned": {"px", "mpjpe", "pa_mpjpe": [mean of each clip's crops]}, "mean_pose": {the same:
    mean over clips}}.

    In pixels of the network's image, mm, mm. The mean pose stands at the mean translation, as the
    head starts from it.

    Args:
        predictor: finetune.inference.predictor.Predictor.  shards: of labelled clips that it has
            not seen.  clips: how many.
    """
    began = predictor.config.data
    data = CropDataConfig(
        sources={"test": SourceConfig(shards)}, rules=began.rules, augment=began.augment
    )
    order = open_crop_order(data, 1, 0)
    for source in order.sources:
        ends = (
            np.bincount([shard for shard, _ in source.val], minlength=len(source.paths))
            + source.counts
        )
        source.val = [(shard, index) for shard, end in enumerate(ends) for index in range(end)]
    arrays = val_crops(order, data, clips, choice=predictor.body.label_choice)
    if arrays is None:
        raise UserError("the shards hold no clips that can be measured")
    clip = np.unique(arrays["tags"][:, PLACE], axis=0, return_inverse=True)[1].ravel()
    # Keypoints alone are measured: a mesh of few vertices has them where the full one does.
    targets, body = Targets(predictor.body), predictor.body.coarse(16).to(predictor.device)
    model, size, values = predictor.model, predictor.config.model.size, []
    for first in range(0, len(clip), CHUNK):
        batch = {
            name: torch.from_numpy(part[first : first + CHUNK]).to(predictor.device)
            for name, part in arrays.items()
        }
        seen = view(batch, size)
        true = targets({**batch, "pose": axis_angle_to_matrix(batch["pose"])}, seen)
        found = model(seen.images, seen.K, body).keypoints
        mean = pose_body(body, model.place_means(seen.K, size)).keypoints
        wanted = pose_body(body, true).keypoints
        for points in (found, mean):
            px = (
                (project_points(points, seen.K) - project_points(wanted, seen.K))
                .norm(dim=-1)
                .mean(1)
            )
            values.append(
                torch.stack(
                    [px.double(), mpjpe(points, wanted, 0), pa_mpjpe(points, wanted)], 1
                ).cpu()
            )
    names = ("px", "mpjpe", "pa_mpjpe")
    found, mean = (_by_clip(torch.cat(values[which::2]).numpy().T, clip, names) for which in (0, 1))
    return {
        "finetuned": found,
        "mean_pose": {name: round(float(np.mean(of_clips)), 3) for name, of_clips in mean.items()},
    }


def measure_frozen(
    features: torch.Tensor, fit: probe.Split, test_features: torch.Tensor, test: probe.Split
) -> dict[str, list[float] | float]:
    """Return the errors of a ridge regression of joints on frozen features.

    {"mpjpe", "pa_mpjpe": [mean of each clip's crops], "lambda"}.

    Lambda is the one with the least MPJPE on one of the three parts of the labelled clips, fitted
    to the others.

    Args:
        features, test_features: as probe.features gives them for the Splits ``fit``, ``test``,
            whose parts are not used.
    """
    x, y = features.double(), torch.from_numpy(fit.joints).flatten(1).to(features.device)
    shape, chosen_by = fit.joints.shape[1:], torch.from_numpy(fit.part != 0).to(features.device)

    def error(guess):
        return float(mpjpe(guess.unflatten(1, shape), y[chosen_by].unflatten(1, shape), 0).mean())

    chosen = ridge.choose(x[~chosen_by], y[~chosen_by], x[chosen_by], error)
    guess = ridge.predict(x, y, test_features.double(), chosen).cpu().unflatten(1, shape)
    true = torch.from_numpy(test.joints)
    return _by_clip(
        torch.stack([mpjpe(guess, true, 0), pa_mpjpe(guess, true)]).numpy(),
        test.clip,
        ("mpjpe", "pa_mpjpe"),
    ) | {"lambda": chosen}


def _by_clip(values, clip, names):
    counts = np.bincount(clip)
    return {
        name: np.round(np.bincount(clip, one) / counts, 3).tolist()
        for name, one in zip(names, values, strict=True)
    }


def _open_weights(config, row, device):
    """The Frozen encoder of an arm before fine-tuning, and its network if that reads references.

    Without pre-training an encoder of random values, by the row's seed.
    """
    if config.arms[row.arm].timm:
        return encoders.from_timm(config.arms[row.arm].timm, device), None
    if config.arms[row.arm].scratch:
        words = plan.pretrain_words_of(config, config.reference)
        shape = parse(PretrainConfig, words, "pretrain train").model
        return encoders.random(shape, row.seed, device), None
    network = weights.load(str(plan.pretrain_folder(config, row))).to(device)
    return encoders.of_network(network), network if network.config.decoder.cross else None


def _clips(shards, store):
    return sum(len(store.index(path).keys) for path in shards.split(","))


def _code(folder):
    """The commit that a run was started from, None where there is none."""
    path = RunFolder(folder).environment
    return json.loads(path.read_text(encoding="utf-8"))["git"] if path.is_file() else None


def _log(folder, unit):
    """{"steps", unit, "seconds", and the newest validation numbers} of a run, from its log."""
    lines = [
        json.loads(line) for line in RunFolder(folder).log.read_text(encoding="utf-8").splitlines()
    ]
    counts = [0, *(line[unit] for line in lines)]
    seconds = sum(
        (now - before) / line[f"speed/{unit}_per_s"]
        for before, now, line in zip(counts, counts[1:], lines, strict=False)
    )
    found = {"steps": lines[-1]["step"], unit: lines[-1][unit], "seconds": round(seconds, 1)}
    for line in lines:
        found |= {
            name: round(value, 4)
            for name, value in line.items()
            if name.startswith(("val/", "reference_gain/", "geometry/"))
        }
    return found
