"""How good are the weights for 3D right now: joints read off frozen features by a ridge regression.

Whole crops, up to four of each clip, go through the encoder; its tokens are averaged over a 4 x 4
grid; a ridge regression takes them to the joints about the root, in the camera's frame. Beside it
stand rows that no training made: the mean pose, a random encoder of the same shape, and a timm
model where the user has one. The split is fixed: it depends on the shards and ``probe.clips``
alone, and nobody is in its fit and in its test part.

A probe ranks encoders; it is no pose estimator. Its regression is linear, so fine-tuned errors are
far lower.
"""

import contextlib
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from data.loading.augment import augment
from data.loading.crops import CropReader
from data.loading.reader import BadSample
from data.sampling.order import Order
from data.sampling.seen import Seen, leak_warnings
from data.sampling.subjects import refuse_people
from data.storage.cache import CacheConfig
from data.storage.shard_store import Store
from engine.config.parser import parse_keys
from engine.config.train_config import GuardConfig
from engine.distributed import process_group
from engine.distributed.heartbeat import Watch
from engine.distributed.process_group import Processes
from engine.distributed.rank_env import read_rank_env
from engine.distributed.startup import starting
from engine.errors import UserError, explain, failure_of
from engine.pose_metrics import mpjpe, pa_mpjpe
from engine.run.files import write_file
from engine.training import eval_jobs
from pretrain import encoders, header, ridge
from pretrain.config import PretrainConfig
from pretrain.encoders import Frozen
from pretrain.model import PairNetwork
from pretrain.probe_split import (
    SEED,
    Split,
    digests_of,
    open_reader,
    read_split,
    refuse_overlap,
    refuse_seen,
)
from pretrain.verb_config import ProbeCommand

if TYPE_CHECKING:
    pass

GRID = 4
AT_ONCE = 64  # crops
Score = dict  # {"pa_mpjpe", "mpjpe": (test crops,) mm, "lambda": float or None}
Table = Sequence[tuple[str, Score]]


def features(
    encoder: Frozen,
    split: Split,
    crops: str,
    processes: Processes,
    alive: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Returns (n, 16 * C) float32 pooled features of a split's crops, on all ranks.

    Each rank computes its share.

    Args:
        crops: "body" or "hand".
        alive: called now and then.
    """
    reader, out, count = open_reader(crops, split.store), None, len(split.places)
    # As many rows on each rank, so that all call the network equally often: what is beyond the end
    # is read and dropped.
    rows = np.arange(
        processes.rank, -(-count // processes.world) * processes.world, processes.world
    )
    for first in range(0, len(rows), AT_ONCE):
        alive()
        here = rows[first : first + AT_ONCE] % count
        found = pooled(encoder(read_images(reader, split, here, encoder.size, processes.device)))
        if out is None:
            out = torch.zeros(count, found.shape[1], device=processes.device)
        mine = rows[first : first + AT_ONCE] < count
        out[torch.from_numpy(here[mine]).to(processes.device)] = found[
            torch.from_numpy(mine).to(processes.device)
        ]
    # Each row is some rank's and zero elsewhere: the sum puts them together.
    if out is None:
        raise ValueError("there are no crops to read features of")
    return processes.sum(out)


def read_images(
    reader: CropReader, split: Split, rows: np.ndarray, size: int, device: torch.device
) -> torch.Tensor:
    """Return the (n, 3, size, size) normalised images of some crops of a split.

    Those of left hands are mirrored.

    Args:
        reader: as open_reader gives it.  rows: (n,) indices of crops.
    Raises:
        UserError: an image cannot be decoded.
    """
    pixels = np.zeros((len(rows), split.size, split.size, 3), np.uint8)
    boxes, mirrored = np.zeros((len(rows), 6), np.float32), np.zeros(len(rows), bool)
    for row, (shard, index, crop) in enumerate(split.places[rows].tolist()):
        clip, members = reader.clip(split.paths[shard], index)
        try:
            reader.decode(pixels[row], split.paths[shard], clip, members, crop)
        except BadSample as error:
            raise UserError(f"probe: {split.paths[shard]}, clip {clip.key}: {error}") from None
        boxes[row] = [clip.size / 2, clip.size / 2, clip.size, 1, 1, 1]
        mirrored[row] = clip.crops[crop].kind == "left_hand"
    images = augment(torch.from_numpy(pixels).to(device), torch.from_numpy(boxes).to(device), size)
    flip = torch.from_numpy(mirrored).to(device)[:, None, None, None]
    return torch.where(flip, images.flip(-1), images)


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """Return maps (B, C, rows, columns) as (B, 16 * C), averaged over a 4 x 4 grid.

    Of uneven cells where 4 does not divide.
    """
    return F.adaptive_avg_pool2d(maps.float(), GRID).flatten(1)


def score(split: Split, found: torch.Tensor | None) -> Score:
    """Return the score of features, or of the mean pose where ``found`` is None.

    {"pa_mpjpe", "mpjpe": (test crops,) mm, "lambda"}.

    Lambda is the one with the least MPJPE on the part that chooses it; the regression is then
    fitted to that part too.
    """
    joints = torch.from_numpy(split.joints)
    target = joints.flatten(1)
    fit, choice, test = (
        torch.from_numpy(np.flatnonzero(part))
        for part in (split.part == 0, split.part == 1, split.part == 2)
    )
    both = torch.cat([fit, choice])
    chosen = None
    if found is None:
        guess = target[both].mean(0).expand(len(test), -1)
    else:
        found, target = found.double(), target.to(found.device)
        shape = joints.shape[1:]

        def error(guess: torch.Tensor) -> float:
            return float(
                mpjpe(guess.unflatten(1, shape), target[choice].unflatten(1, shape), 0).mean()
            )

        chosen = ridge.choose(found[fit], target[fit], found[choice], error)
        guess = ridge.predict(found[both], target[both], found[test], chosen).cpu()
    guess, true = guess.unflatten(1, joints.shape[1:]), joints[test]
    return {
        "pa_mpjpe": pa_mpjpe(guess, true).numpy(),
        "mpjpe": mpjpe(guess, true, 0).numpy(),
        "lambda": chosen,
    }


class Prober:
    """The probe of a run in training.

    Args:
        config: PretrainConfig.  order: the run's Order, whose shards the probe's must not be.
        processes: engine.distributed.process_group.Processes.
    Raises:
        UserError: a shard of the probe is one of the training's, or there are too few clips.
    """

    def __init__(self, config: PretrainConfig, order: Order, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self.crops = "hand" if config.data.pairs.crops == "hand" else "body"

        def read() -> tuple[Split, dict[str, str]]:
            store = Store(config.data.cache.open())
            refuse_overlap(config.probe.shards, order, store)
            split = read_split(
                config.probe.shards, config.probe.clips, self.crops, store, config.data.excluded()
            )
            return split, digests_of(config.probe.shards, store)

        self.split, self.digests = processes.from_first(read)
        self.still = None  # rows that training does not change

    def refuse_seen(self, seen: Seen) -> None:
        """Raise UserError where a shard of the probe was trained on.

        It is among those that a data.sampling.seen.Seen says were.
        """
        refuse_seen(
            seen, self.digests, "probe.shards", f"run={self.config.run}, or what it began from,"
        )

    def refuse_people(self, people: frozenset[int]) -> None:
        """Raise UserError where the probe shows one of the people of the training.

        These are marks, as in data.sampling.seen.Seen.
        """
        refuse_people(
            self.config.probe.shards, people, Store(self.config.data.cache.open()), "probe.shards"
        )

    def measure(
        self, model: PairNetwork, bf16: bool, alive: Callable[[], None]
    ) -> dict[str, float]:
        """Return the probe's numbers of a model, errors in mm.

        {"probe/pa_mpjpe", "probe/mpjpe", "probe/lambda", and the first two of each row that stays}.

        Args:
            model: with ``encoder``.  bf16: it runs in bf16.  alive: is called now and then.
        """
        if self.still is None:
            self.still = {
                "constant": None,
                "random": encoders.random(self.config.model, SEED, self.processes.device),
            }
            if self.config.probe.timm:
                self.still["timm"] = encoders.from_timm(
                    self.config.probe.timm, self.processes.device
                )
            self.still = {
                name: self._row(encoder, f"_{name}", alive) for name, encoder in self.still.items()
            }
        line = self._row(encoders.of_network(model, bf16), "", alive)
        for row in self.still.values():
            line |= row
        return line

    def _row(
        self, encoder: Frozen | None, ending: str, alive: Callable[[], None]
    ) -> dict[str, float]:
        found = (
            None
            if encoder is None
            else features(encoder, self.split, self.crops, self.processes, alive)
        )
        got = self.processes.from_first(lambda: score(self.split, found))
        return _numbers(got, "probe", ending)


def _numbers(got: Score, group: str, ending: str) -> dict[str, float]:
    """Return {"GROUP/NAMEENDING": number} of a score.

    Means over the test crops in mm, and lambda where there is one.
    """
    line = {f"{group}/{key}{ending}": float(got[key].mean()) for key in ("pa_mpjpe", "mpjpe")}
    return line | ({f"{group}/lambda{ending}": got["lambda"]} if got["lambda"] is not None else {})


def _write(
    path: str,
    table: Table,
    config: ProbeCommand,
    command: str,
    warnings: Sequence[str],
) -> None:
    """The table as JSON, in one go."""
    content = {
        "format": 1,
        "command": command,
        "shards": config.shards,
        "clips": config.clips,
        "crops": config.crops,
        "warnings": warnings,
        "rows": [
            {
                "name": name,
                "pa_mpjpe": float(got["pa_mpjpe"].mean()),
                "mpjpe": float(got["mpjpe"].mean()),
                "lambda": got["lambda"],
            }
            for name, got in table
        ],
    }
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(content, indent=1))
    except OSError as error:
        raise failure_of(error, f"out={path} cannot be written: {explain(error)}") from None
    print(f"wrote {path}")


def main(argv: list[str]) -> int:
    """``python -m pretrain probe``; ``argv`` is what follows ``probe``. Returns the exit code."""
    with starting():
        config, sources = parse_keys(ProbeCommand, argv, "pretrain probe")
        if config.log and (len(sources) > 1 or eval_jobs.run_of(sources[0]) is None):
            raise UserError(
                f"log=true, but {' '.join(sources)} is not one checkpoint: RUN/checkpoints/step-X "
                f"names one"
            )
    with contextlib.ExitStack() as closing, Watch(read_rank_env(), GuardConfig().hang_s) as watch:
        processes = process_group.start(config.device, store=watch.store)
        closing.callback(processes.stop)
        torch.set_num_threads(process_group.threads())
        _probe(config, sources, argv, processes, watch)
    return 0


def _probe(
    config: ProbeCommand,
    sources: Sequence[str],
    argv: Sequence[str],
    processes: Processes,
    watch: Watch,
) -> None:
    """Read the split, measure every row, and tell the numbers on rank 0."""
    store = Store(CacheConfig().open())
    warnings = processes.from_first(lambda: _check_seen(sources, config.shards, store))
    split = processes.from_first(
        lambda: read_split(config.shards, config.clips, config.crops, store)
    )
    rows: list[tuple[str, Frozen | None]] = [("mean pose", None)]
    endings = ["_constant"]
    loaded = [(source, encoders.load(source, processes.device)) for source in sources]
    shapes = {}
    for source, encoder in loaded:
        # One random encoder for all runs of one shape.
        if encoder.shape is not None:
            shapes.setdefault(repr(encoder.shape), (source, encoder.shape))
    for source, shape in shapes.values():
        name = "random encoder" + (f", as {source}" if len(shapes) > 1 else "")
        rows.append((name, encoders.random(shape, SEED, processes.device)))
        endings.append("_random")
    if config.timm:
        rows.append((config.timm, encoders.from_timm(config.timm, processes.device)))
        endings.append("_timm")
    table = []
    for name, encoder in rows + loaded:
        watch.at(0, f"probing {name}")
        found = (
            None
            if encoder is None
            else features(encoder, split, config.crops, processes, watch.alive)
        )
        table.append((name, processes.from_first(lambda found=found: score(split, found))))
    watch.at(0, "writing the numbers")
    # All ranks fail where they cannot be written.
    processes.from_first(lambda: _publish(config, sources, argv, split, table, endings, warnings))


def _publish(
    config: ProbeCommand,
    sources: Sequence[str],
    argv: Sequence[str],
    split: Split,
    table: Table,
    endings: Sequence[str],
    warnings: Sequence[str],
) -> None:
    """Print the table, and put it where ``out`` and ``log`` say."""
    print(_shown(table, split, config, warnings))
    command = "python -m pretrain probe " + shlex.join(argv)
    if config.out:
        _write(config.out, table, config, command, warnings)
    found = eval_jobs.run_of(sources[0])
    if config.log and found is not None:
        numbers = {
            name: value
            for (_, got), ending in zip(table, [*endings, ""], strict=True)
            for name, value in _numbers(got, "evaluation", ending).items()
        }
        if warnings:
            numbers["evaluation/leakage_not_excluded"] = 1
        run, step = found
        eval_jobs.note(run, step, numbers, command)
        eval_jobs.settle(run)


def _shown(table: Table, split: Split, config: ProbeCommand, warnings: Sequence[str]) -> str:
    """The rows as text; +- is the standard error over the test clips.

    Warnings stand in the first line of the table.
    """
    clips = [len(np.unique(split.clip[split.part == part])) for part in (0, 1, 2)]
    clip, width = split.clip[split.part == 2], max(len(name) for name, _ in table)
    lines = [
        f"{config.clips} clips of {config.shards}, {len(split.part)} {config.crops} crops: "
        f"{clips[0] + clips[1]} clips to "
        f"fit (of which {clips[1]} choose lambda), {clips[2]} to test; {split.joints.shape[1]} "
        f"joints; mm, "
        f"+- standard error",
        f"{'':{width}}  {'PA-MPJPE':>14}  {'MPJPE':>14}  lambda / n",
    ]
    for name, got in table:
        cells = []
        for errors in (got["pa_mpjpe"], got["mpjpe"]):
            means = np.array([errors[clip == one].mean() for one in np.unique(clip)])
            cells.append(f"{errors.mean():6.1f} +- {means.std(ddof=1) / len(means) ** 0.5:4.1f}")
        chosen = "-" if got["lambda"] is None else f"{got['lambda']:.3g}"
        lines.append(f"{name:{width}}  {cells[0]:>14}  {cells[1]:>14}  {chosen}")
    lines[1:1] = [f"warning: {words}" for words in warnings]
    return "\n".join(lines)


def _check_seen(sources: Sequence[str], shards: str, store: Store) -> list[str]:
    """Warnings on weights of which it is not known what they saw.

    UserError where they saw one of the probe's shards.
    """
    digests, warnings = digests_of(shards, store), []
    for source in sources:
        seen = header.read_seen(source)
        refuse_seen(seen, digests, "shards", source)
        refuse_people(shards, seen.people, store, "shards")
        warnings += leak_warnings(seen, source)
    return warnings
