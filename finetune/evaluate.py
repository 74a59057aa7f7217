"""``python -m finetune evaluate``: errors of a run on people it has not seen, beside the mean pose
and no pre-training."""

import datetime
import functools
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.bodies.anny import AnnyBody
from data.bodies.models import mirrored, open_model
from data.config import CropDataConfig, SourceConfig
from data.format.clip import MADE
from data.loading.build import open_crop_order, people_at, val_crops
from data.loading.crops import TAGS
from data.sampling.seen import Seen, leak_warnings
from data.sampling.subjects import leave_out_people
from data.storage.shard_store import Store
from engine.config.parser import flat, key, parse_keys, resumable_keys, section
from engine.config.paths import refuse_commands
from engine.distributed import hardware
from engine.errors import UserError, explain, failure_of
from engine.geometry import axis_angle_to_matrix
from engine.logging import progress
from engine.pose_metrics import mpjpe, pa_mpjpe
from engine.training import eval_jobs
from finetune import draw, metrics, tables
from finetune.people import crop_people, meshes
from finetune.predict import Predictor
from finetune.raster import shared_raster
from finetune.views import Targets, view
from pretrain import header

USAGE = "python -m finetune evaluate run=DIR [data.shards=DIR] [without=DIR] [key=value ...]"
CHUNK = 32
MASK_SIDE = 64
PLACE = [TAGS.index(name) for name in ("source", "shard", "index")]
ROWS = ("model", "scratch", "turned", "mean")
EXAMPLES = (("best", 0.0), ("median", 0.5), ("worst", 1.0))


@dataclass
class EvaluateDataConfig:
    shards: str = key(
        "",
        "labelled shards; clips that the run was trained on are left out; default: those of the "
        "run",
        path="several",
    )


@dataclass
class EvaluateConfig:
    run: str = key("", "a fine-tuning run, or one of its checkpoints", path="one")
    without: str = key(
        "", "the same training without pre-training, for a row of the table", path="one"
    )
    out: str = key("", "folder for the results; default: RUN/evaluation", path="one")
    log: bool = key(
        False,
        "put the numbers into the run's log too, at the checkpoint's step; out is then "
        "RUN/evaluations/step-X",
    )
    clips: int = key(64, "clips, at most", low=1)
    examples: int = key(
        2, "of the best, of the median and of the worst crops that are drawn", low=1
    )
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))
    allow_commands: bool = key(False, "run the commands (pipe:) that RUN's config names as shards")
    data: EvaluateDataConfig = section(EvaluateDataConfig)


def main(argv):
    """``python -m finetune evaluate``; returns the exit code."""
    config, _ = parse_keys(EvaluateConfig, argv, "finetune evaluate", USAGE, least=0)
    if not config.run:
        raise UserError(f"run= is not set; usage: {USAGE}")
    if config.log and eval_jobs.run_of(config.run) is None:
        raise UserError(
            f"log=true, but run={config.run} is no checkpoint: RUN/checkpoints/step-X names one"
        )
    evaluation = evaluate(config, "python -m finetune evaluate " + shlex.join(argv))
    print(tables.table(evaluation))
    print("\n".join(evaluation["notes"]))
    print(f"wrote {_folder(config)}")
    if config.log:
        run, step = eval_jobs.run_of(config.run)
        eval_jobs.note(run, step, _numbers(evaluation), evaluation["command"])
        eval_jobs.settle(run)
    return 0


def evaluate(config, command):
    """The dict of evaluation.json (docs/finetuning.md); writes it, the errors of each crop, meshes
    and images.

    Args:
        config: EvaluateConfig.  command: what was typed.
    Raises:
        UserError: runs that do not fit each other or the shards; clips without labels.
    """
    predictor = Predictor(config.run, config.device)
    plain = _without(config, predictor) if config.without else None
    data = _data(config, predictor)
    order = open_crop_order(data, 1, 0)
    take_all(order)
    seen = {
        name: header.read_seen(run.checkpoint)
        for name, run in (("model", predictor), ("scratch", plain))
        if run
    }
    for one in seen.values():
        leave_out(order, one)
    people = leave_out_known(order, seen.values(), Store(data.cache.open()))
    arrays = val_crops(order, data, config.clips)
    if arrays is None:
        shards = ", ".join(source.shards for source in data.sources.values())
        raise UserError(
            f"{shards}: no labelled clip there that the run was not trained on, and of people that "
            f"it was not "
            f"trained on; data.shards= names others"
        )
    folder = _folder(config)
    _empty(folder)
    # All ones stand for an image without a mask; a clip of nothing but those has none.
    clips = np.unique(arrays["tags"][:, PLACE], axis=0, return_inverse=True)[1].ravel()
    full = (arrays["mask"] == 255).all(1)
    known = not any(full[clips == clip].all() for clip in range(clips.max() + 1))
    judge = Judge(predictor, plain, known)
    judge.made = all(
        source == MADE
        for source, _ in people_at(order, data, np.unique(arrays["tags"][:, PLACE], axis=0))
    )
    rows = len(arrays["tags"])
    with progress.bar(rows, "crop", description="evaluating") as bar:
        for first in range(0, rows, CHUNK):
            part = {
                name: torch.from_numpy(values[first : first + CHUNK])
                for name, values in arrays.items()
            }
            judge.add({name: values.to(predictor.device) for name, values in part.items()})
            bar.update(len(part["tags"]))
    found = {
        name: {metric: np.concatenate(parts) for metric, parts in values.items()}
        for name, values in judge.values.items()
    }
    evaluation = _summary(config, predictor, judge, found, clips, command, seen)
    evaluation["notes"] += people
    _write(folder, evaluation, config.examples, arrays, found, clips, judge)
    return evaluation


class Judge:
    """Collects errors of all rows of the table, batch by batch.

    Args:
        predictor: finetune.predict.Predictor.  plain: that of the run without pre-training, or
            None.
        masks: whether bodies' images come with person masks.
    Attributes:
        values: {row: {metric: [(n,) arrays]}}.  ceiling: [(n,) arrays], overlap of the true mesh
            with the person mask.
        found: [[Person]] of the model, truth: [[Person]], a list a batch.
    """

    def __init__(self, predictor, plain, masks):
        self.predictor, self.plain = predictor, plain
        self.body, self.size = predictor.body, predictor.config.model.image_size
        self.hand = self.body.kind == "hand"
        self.targets = Targets(self.body)
        self.whole_targets = (
            Targets(open_model("anny").to(predictor.device)) if self.hand else self.targets
        )
        self.whole = AnnyBody().to(predictor.device)
        self.columns = [
            m["key"]
            for m in metrics.columns(self.body.kind)
            if masks or self.hand or m["key"] != "iou"
        ]
        self.values = {
            name: {key: [] for key in self.columns} for name in ROWS if plain or name != "scratch"
        }
        self.found, self.truth, self.ceiling, self.shown = [], [], [], []
        self.made = False  # whether all crops show made people

    @torch.no_grad()
    def add(self, batch):
        """Judge a batch of whole crops, tensors of data.loading.crops.layout on the predictor's
        device."""
        labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
        seen = view(batch, self.size)
        target = self.targets(labels, seen)
        answers = {
            "model": self.predictor.model(seen.images, seen.K),
            "turned": self._mean(seen.K, target.pose[:, 0]),
            "mean": self._mean(seen.K),
        }
        if self.plain:
            answers["scratch"] = self.plain.model(seen.images, seen.K)
        truth = self._true_meshes(labels, seen, target)
        areas = metrics.vertex_areas(truth[0].cpu(), self.body.faces.cpu())
        K, masks = _mask_camera(batch), None
        if "iou" in self.columns:
            drawn = self._silhouettes(truth[0], K)
            masks = drawn if self.hand else _person_masks(batch["mask"])
            self.ceiling.append(metrics.iou(drawn, masks).numpy())
        for name, answer in answers.items():
            for metric, value in self._errors(
                meshes(answer, seen.flip, self.body), truth, areas, masks, K
            ).items():
                self.values[name][metric].append(value.cpu().numpy())
        self.found.append(crop_people(answers["model"], seen, self.body, batch))
        people = crop_people(target, seen, self.body, batch)
        for person, vertices in zip(people, truth[0].cpu().numpy(), strict=True):
            person.vertices = vertices
        self.truth.append(people)

    def _mean(self, K, whole=None):
        """The mean body at the mean place, as the head starts from it; ``whole``: (B, 3, 3) true
        orientation instead."""
        model, count = self.predictor.model, len(K)
        rest = [
            values.new_zeros(count, values.numel())
            for values in (model.mean_shape, model.mean_place)
        ]
        found = model.compose(
            model.mean_pose.new_zeros(count, 6 * model.joints), *rest, K, self.size
        )
        if whole is not None:
            found.pose[:, 0] = whole
        return found

    def _true_meshes(self, labels, seen, target):
        """As finetune.people.meshes: the true surface, the face's expression included."""
        whole = self.whole_targets(labels, seen)
        vertices, _ = self.whole(whole.pose, whole.root, whole.shape, labels["face"])
        joints = self.body(target.pose, target.root, target.shape)[1]
        points = vertices[:, self.body.vertex_ids], joints
        points = *points, self.body.keypoints(*points)
        return [
            torch.where(seen.flip[:, None, None], mirrored(values), values) for values in points
        ]

    def _errors(self, found, truth, areas, masks, K):
        vertices, points = found[0].cpu(), found[2].cpu()
        true, true_points = truth[0].cpu(), truth[2].cpu()
        out = {
            "mpjpe": mpjpe(points, true_points, 0),
            "pa_mpjpe": pa_mpjpe(points, true_points),
            "pve": metrics.pve(vertices, true, points[:, 0], true_points[:, 0], areas),
            "pve_plain": metrics.pve_plain(vertices, true, points[:, 0], true_points[:, 0]),
            "pa_pve": metrics.pa_pve(vertices, true, areas),
            "pa_pve_plain": metrics.pa_pve_plain(vertices, true),
        }
        if self.hand:
            out["f5"], out["f15"] = metrics.f_score(vertices, true, (0.005, 0.015))
        if masks is not None:
            out["iou"] = metrics.iou(self._silhouettes(vertices, K), masks)
        return out

    def _silhouettes(self, vertices, K):
        """(B, 64, 64) bool: where at least half of a cell is covered, as a clip's person masks are
        made."""
        side = 2 * MASK_SIDE
        drawn = shared_raster("cpu").silhouettes(
            vertices.cpu().numpy(), self.body.faces.cpu().numpy(), K, (side, side)
        )
        share = (
            torch.from_numpy(drawn)
            .float()
            .unflatten(2, (MASK_SIDE, 2))
            .unflatten(1, (MASK_SIDE, 2))
            .mean((2, 4))
        )
        return share >= 0.5


def _mask_camera(batch):
    """(B, 3, 3) float64 intrinsics in pixels of twice a mask's resolution."""
    K = batch["K"].cpu().double().numpy().copy()
    K[:, :2] *= (2 * MASK_SIDE / batch["tags"][:, TAGS.index("size")].cpu().numpy())[:, None, None]
    return K


def _person_masks(bits):
    """(B, 64, 64) bool of (B, 512) uint8."""
    return (
        torch.from_numpy(np.unpackbits(bits.cpu().numpy(), axis=1)).reshape(
            -1, MASK_SIDE, MASK_SIDE
        )
        > 0
    )


def _without(config, predictor):
    """The Predictor of the run without pre-training, after a check that the two are comparable."""
    plain = Predictor(config.without, config.device, "without")
    here, there = flat(predictor.config), flat(plain.config)
    free = resumable_keys(predictor.config)
    for name in sorted(here.keys() | there.keys()):
        if name not in free and here.get(name) != there.get(name):
            raise UserError(
                f"without={config.without} has {name}={there.get(name)}, run={config.run} has "
                f"{name}="
                f"{here.get(name)}: the two must differ in init alone"
            )
    if header.read_manifest_of(predictor.folder) != header.read_manifest_of(plain.folder):
        raise UserError(
            f"without={config.without} was trained on other shards than run={config.run}: compare "
            f"their "
            f"manifest.json"
        )
    if predictor.step != plain.step:
        raise UserError(
            f"without={config.without} is at step {plain.step}, run={config.run} at step "
            f"{predictor.step}"
        )
    if there["init"] or not here["init"]:
        raise UserError(
            f"run={config.run} began from init={here['init']}, without={config.without} from "
            f"init={there['init']}: "
            f"a run with pre-training and one without are compared"
        )
    return plain


def _data(config, predictor):
    """The CropDataConfig of what is evaluated: the run's own rules on the shards that were
    named."""
    began = predictor.config.data
    shards = {"data": SourceConfig(config.data.shards)} if config.data.shards else began.named()
    if not config.data.shards:
        of_run = {f"data.{name}": value for name, value in flat(began).items()}
        refuse_commands(of_run, set(), str(predictor.folder / "config.yaml"), config.allow_commands)
    return CropDataConfig(
        sources=shards, rules=began.rules, augment=began.augment, exclude=began.exclude
    )


def take_all(order):
    """Let the held-out clips of an order be all its clips."""
    for source in order.sources:
        ends = (
            np.bincount([shard for shard, _ in source.val], minlength=len(source.paths))
            + source.counts
        )
        source.val = [(shard, index) for shard, end in enumerate(ends) for index in range(end)]


def leave_out(order, seen):
    """Take the clips that a training saw from the held-out ones of an order. ``seen``:
    data.sampling.seen.Seen of its weights."""
    for source in order.sources:
        source.val = [
            (shard, index)
            for shard, index in source.val
            if index >= seen.clips.get(source.digests[shard], 0)
        ]


def leave_out_known(order, seen, store):
    """Take the clips of people whom trainings saw, in whatever shards, from the held-out ones of an
    order.

    Args:
        seen: a data.sampling.seen.Seen of each training.
    Returns:
        sentences on what was left out, and on what could not be compared.
    """
    seen = functools.reduce(Seen.union, seen)
    notes, unlisted = [], len(seen.clips.keys() - seen.listed)
    if unlisted:
        notes.append(
            f"The people of {unlisted} of the {len(seen.clips)} shards that the run and what it "
            f"began from were "
            f"trained on are not listed: they may be in this test."
        )
    if not seen.people:
        return notes
    gone, unknown = leave_out_people(order, seen.people, store)
    if gone:
        notes.append(
            f"{gone} clips of other shards were left out: they show people that the run or its "
            f"pre-training was "
            f"trained on."
        )
    if unknown:
        notes.append(
            f"In {unknown} shards of this test people are not listed (`python -m data index` does "
            f"it): they may "
            f"be people that the run was trained on."
        )
    return notes


def place(config, paths):
    """Where python -m slurm keeps its record of this command, beside the results. ``paths``: none
    are taken."""
    if not config.run:
        raise UserError(f"run= is not set; usage: {USAGE}")
    if not Path(config.run).is_dir():
        raise UserError(f"run={config.run}: there is no such folder")
    return str(_folder(config))


def _folder(config):
    """Where results go: ``out``, or RUN/evaluation, or for one checkpoint RUN/evaluation-step-X or
    RUN/evaluations/step-X."""
    run = Path(config.run)
    if config.out:
        return Path(config.out)
    if config.log:
        return eval_jobs.place(*eval_jobs.run_of(run))
    return (
        run.resolve().parents[1] / f"evaluation-{run.name}"
        if (run / "model.safetensors").is_file()
        else run / "evaluation"
    )


def _numbers(evaluation):
    """{"evaluation/METRIC": mean} of the run's row, and of the mean pose's as it is, for the run's
    log."""
    rows = {row["key"]: row["values"] for row in evaluation["rows"]}
    unknown = {"evaluation/leakage_not_excluded": 1} if evaluation["warnings"] else {}
    return {
        **unknown,
        **{f"evaluation/{name}": value["mean"] for name, value in rows["model"].items()},
        **{
            f"evaluation/{name}_constant": rows["mean"][name]["mean"]
            for name in ("mpjpe", "pa_mpjpe")
        },
    }


def _empty(folder):
    """Make the folder, and take the last evaluation.json away: what stands beside it is about to
    change."""
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").unlink(missing_ok=True)
    except OSError as error:
        raise failure_of(error, f"{folder} cannot be written: {explain(error)}") from None


def _summary(config, predictor, judge, found, clips, command, seen):
    rows, differences = metrics.summarise(found, clips)
    runs, warnings = {"model": config.run, "scratch": config.without}, []
    for name, one in seen.items():
        warnings += leak_warnings(one, runs[name])
    for row in rows:
        if row["key"] in seen and seen[row["key"]].unknown:
            row["name"] += f" ({tables.LEAK})"
    columns = [m for m in metrics.columns(judge.body.kind) if m["key"] in judge.columns]
    evaluation = {
        "format": 1,
        "kind": judge.body.kind,
        "run": str(config.run),
        "step": predictor.step,
        "clips": int(clips.max()) + 1,
        "crops": len(clips),
        "command": command,
        "machine": hardware.describe(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "metrics": columns,
        "rows": rows,
        "warnings": warnings,
        "medians": {
            name: {key: float(np.median(values)) for key, values in row.items()}
            for name, row in found.items()
        },
    }
    if differences:
        evaluation["differences"] = differences
    evaluation["notes"] = tables.sentences(evaluation, judge.made)
    if judge.ceiling and not judge.hand:
        reach = np.concatenate(judge.ceiling)
        evaluation["notes"].append(
            f"The true mesh, which wears no clothes, overlaps the person masks by "
            f"{reach.mean():.3f} "
            "on average: no mesh can be expected to reach much more."
        )
    evaluation["notes"].append(
        "Both mean-pose rows stand at the mean place in the crop, at the mean depth for its field "
        "of "
        "view; a hand that is turned about its wrist there may leave the crop."
    )
    if "iou" not in judge.columns:
        evaluation["notes"].append("There is no IoU: not all clips have person masks.")
    return evaluation


def _write(folder, evaluation, count, arrays, found, clips, judge):
    """evaluation.json last, so that its being there means that the rest is."""
    try:
        examples = _examples(found["model"], clips, count)
        people, truth = sum(judge.found, []), sum(judge.truth, [])
        for example in examples:
            row = example.pop("row")
            size = arrays["tags"][row, TAGS.index("size")]
            words = ", ".join(
                f"{m['name']} {found['model'][m['key']][row]:.{0 if m['unit'] else 2}f} "
                f"{m['unit']}".strip()
                for m in evaluation["metrics"]
                if m["key"] in ("mpjpe", "pa_mpjpe", "iou")
            )
            sheet = draw.sheet(
                arrays["pixels"][row, :size, :size],
                people[row],
                [f"recovered: {words}", "true"],
                truth[row],
                example["name"],
            )
            sheet.save(folder / example["sheet"])
            example |= {
                m["key"]: float(found["model"][m["key"]][row]) for m in evaluation["metrics"]
            }
            example["mesh"] = len(judge.shown)
            judge.shown.append(row)
        evaluation["examples"] = examples
        left = [
            people[row].kind == "left_hand" for row in judge.shown
        ]  # their triangles run the other way round
        np.savez_compressed(
            folder / "meshes.npz",
            predicted=np.stack([people[row].vertices for row in judge.shown]),
            true=np.stack([truth[row].vertices for row in judge.shown]),
            faces=people[judge.shown[0]].faces,
            names=np.array([e["name"] for e in examples]),
            mirrored=np.array(left) != left[0],
        )
        flat_values = {
            f"{name}/{key}": values for name, row in found.items() for key, values in row.items()
        }
        np.savez_compressed(folder / "per_crop.npz", clip=clips, **flat_values)
        temporary = folder / ".evaluation.json"
        temporary.write_text(json.dumps(evaluation, indent=1), encoding="utf-8")
        os.replace(temporary, folder / "evaluation.json")
    except OSError as error:
        raise failure_of(error, f"{folder} cannot be written: {explain(error)}") from None


def _examples(values, clips, count):
    """[{"rank", "name", "sheet", "row"}] of the model's best, median and worst crops by PA-MPJPE,
    no clip twice in a rank."""
    order, out = np.argsort(values["pa_mpjpe"], kind="stable"), []
    for rank, share in EXAMPLES:
        middle = share * (len(order) - 1)
        nearest = order[np.argsort(np.abs(np.arange(len(order)) - middle), kind="stable")]
        _, first = np.unique(clips[nearest], return_index=True)
        for number, place in enumerate(np.sort(first)[:count], 1):
            name = f"{rank}-{number}"
            out.append(
                {
                    "rank": rank,
                    "name": name,
                    "sheet": f"images/{name}.png",
                    "row": int(nearest[place]),
                }
            )
    return out
