"""The runs of a study, as commands that anyone could type."""

import functools
import hashlib
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.format.index import read_index
from data.people.config import PeopleConfig
from data.storage.cache import CacheConfig
from data.storage.catalogue import read_catalogue
from data.storage.shard_store import Store
from engine.config.parser import parse
from engine.errors import UserError
from studies import operations
from studies.config import REAL, StudyConfig
from studies.row_table import RowTable

# What a study needs of a run's log; anything of it may be set in an arm.
QUIET = ["log.images_every=0", "log.wandb=off", "log.every=50"]
ANEW = "delete its line to have it made anew, or give the study another name="
SOURCE = re.compile(r"data\.sources\.[^=]*\.shards=")  # with these data.shards is not given
SHARED = (
    "position",
    "patch",
    "image_size",
    "encoder",
)  # what an encoder keeps when it is fine-tuned


@dataclass(frozen=True)
class Row:
    """One row of a study: an arm, a seed, a share of labels.

    It is finished when its line is in the study's table.
    """

    arm: str
    seed: int
    share: float

    @property
    def name(self) -> str:
        """Return the row's name: arm, share of labels and seed."""
        return f"{self.arm}-{self.share:g}-seed{self.seed}"

    @property
    def keys(self) -> dict[str, Any]:
        """What its lines in the table are found by."""
        return {"arm": self.arm, "seed": self.seed, "share": self.share}


def list_rows(config: StudyConfig) -> list[Row]:
    """Return all Rows in the order in which they are run.

    Seed by seed, so that arms can be compared early; of an arm the shares.
    """
    seeds: dict[str, int] = {}
    for name in config.chosen:
        own = config.arms[name].seeds
        seeds[name] = config.seeds if own is None else own
    return [
        Row(name, seed, share)
        for seed in range(max(seeds.values()))
        for name in seeds
        if seed < seeds[name]
        for share in config.arms[name].shares or config.shares
    ]


def open_table(config: StudyConfig) -> RowTable:
    """Return the table that holds a study's measurements."""
    return RowTable(Path(config.rows) / f"{config.name}.jsonl")


def find_done(config: StudyConfig) -> set[Row]:
    """Return the Rows whose errors are in the table."""
    lines = open_table(config).read("errors")
    return {Row(found["arm"], found["seed"], found["share"]) for found in lines}


def place_of(config: StudyConfig, row: Row) -> str:
    """Return where a row is, for messages: the table and its name."""
    return f"{open_table(config).path}: {row.name}"


def list_sets(config: StudyConfig) -> dict[str, list[str]]:
    """Return {folder: words after ``python -m``} of the sets of synthetic humans."""
    return {
        str(folder): [
            "data",
            "make",
            spec.make,
            f"out={folder}",
            f"clips={spec.clips}",
            f"device={config.device}",
            *spec.keys.split(),
        ]
        for folder, spec in (
            (train_folder(config), config.train),
            *((test_folder(config, name), test) for name, test in config.tests.items()),
        )
    }


def train_folder(config: StudyConfig) -> Path:
    """Return the folder of the training clips."""
    return Path(config.work) / f"{config.kind}_train_{config.train.clips}"


def test_folder(config: StudyConfig, name: str) -> Path:
    """Return the folder of the test clips of a name."""
    return Path(config.work) / f"{config.kind}_{name}_{config.tests[name].clips}"


def find_people(config: StudyConfig) -> dict[str, str]:
    """Return {set: what all names of its people begin with}.

    Of the training set and the test sets that are made; of real clips the digest of their shards.

    Raises:
        UserError: a set is not made.
    """
    folders = {
        "train": train_folder(config),
        **{name: test_folder(config, name) for name in config.tests},
    }
    out = {}
    for name, folder in folders.items():
        shards = sorted(folder.glob("*.tar"))
        if not shards:
            raise UserError(f"{folder} has no shards; the study makes them before its first row")
        out[name] = str(read_index(str(shards[0])).keys[0]).rpartition("-")[0]
    if config.real.shards:
        out[REAL] = _digest_shards(config.real.shards)
    return out


@functools.cache
def _digest_shards(shards: str) -> str:
    """Return a digest of shards, whatever their names and wherever they lie."""
    _, entries = read_catalogue(shards, Store(CacheConfig().open()))
    digests = sorted(entry.digest for entry in entries)
    return hashlib.blake2b("".join(digests).encode(), digest_size=8).hexdigest()


def people_of_row(config: StudyConfig, found: dict[str, Any]) -> dict[str, str]:
    """As find_people, of those that a row was made with.

    Before rows said so, a seed alone decided who they are.
    """
    before = found.get("people", {})
    out = {}
    for name, spec in {"train": config.train, **config.tests}.items():
        out[name] = before.get(name) or f"made-{_read_seed(spec.make, spec.keys)}"
    if REAL in before:
        out[REAL] = before[REAL]
    return out


@functools.cache
def _read_seed(make: str, keys: str) -> int:
    """Return the seed of a set; reading a config takes a tenth of a second, and every row asks."""
    return parse(PeopleConfig, [make, "out=none", *keys.split()], "data make").seed


def refuse_other_people(
    mine: dict[str, str], theirs: dict[str, str], path: str, words: str
) -> None:
    """Raise UserError where a row is of other people than ``mine``; clips are compared one by one.

    ``words``: whose those are. A row that nothing real was read out of fits any real clips.
    """
    for name, who in mine.items():
        if name == REAL and name not in theirs:
            continue
        if theirs.get(name) != who:
            raise UserError(
                f"{path} is of other people ({theirs.get(name)}-...) in the set '{name}' than "
                f"{words} ({who}-...): "
                f"they cannot be compared clip by clip; {ANEW}"
            )


def pretrained_arm(config: StudyConfig, row: Row) -> str:
    """Return the name of the arm whose pre-training a row uses."""
    return config.arms[row.arm].weights or row.arm


def pretrain_folder(config: StudyConfig, row: Row) -> Path:
    """Return the folder of a row's pre-training run."""
    return (
        Path(config.work) / config.name / f"pretrain-{pretrained_arm(config, row)}-seed{row.seed}"
    )


def finetune_folder(config: StudyConfig, row: Row) -> Path:
    """Return the folder of a row's fine-tuning run."""
    return Path(config.work) / config.name / f"finetune-{row.name}"


def pretrain_words(config: StudyConfig, row: Row) -> list[str] | None:
    """Return the words after ``python -m`` that pre-train an arm.

    None where it has no pre-training.
    """
    arm = config.arms[pretrained_arm(config, row)]
    if arm.scratch or arm.timm:
        return None
    own = [*config.pretrain_keys.split(), *_fill_places(config, arm.pretrain.split())]
    names_sources = any(SOURCE.match(word) for word in own)
    words = [
        config.pretrain,
        f"run={pretrain_folder(config, row)}",
        *([] if names_sources else [f"data.shards={train_folder(config)}"]),
        f"seed={row.seed}",
        f"device={config.device}",
        *QUIET,
        *own,
    ]
    if arm.teacher:
        words.append(f"objective.teacher={pretrain_folder(config, Row(arm.teacher, row.seed, 1))}")
    if arm.compute:
        own, other = (
            count_operations(words),
            count_operations(pretrain_words_of(config, config.reference)),
        )
        words.append(f"steps={math.ceil(other[0] * other[1] / own[0])}")
    return ["pretrain", "train", *words]


def _fill_places(config: StudyConfig, words: list[str]) -> list[str]:
    """Put folders for TRAIN and REAL; the latter stays where its folders are not known."""
    places = {"TRAIN": str(train_folder(config)), "REAL": config.real.shards or "REAL"}
    return [re.sub("TRAIN|REAL", lambda found: places[found[0]], word) for word in words]


def hide_real(config: StudyConfig, words: list[str]) -> list[str]:
    """Return a command with REAL for the folders of real clips, as rows keep it."""
    ending = f"={config.real.shards}" if config.real.shards else "=REAL"
    return [
        f"{word.removesuffix(ending)}=REAL" if word.endswith(ending) else word for word in words
    ]


def pretrain_words_of(config: StudyConfig, arm: str) -> list[str]:
    """As pretrain_words, of any seed, without the command; of an arm that is pre-trained."""
    words = pretrain_words(config, Row(arm, 0, 1.0))
    if words is None:
        raise ValueError(f"arm '{arm}' has no pre-training")
    return words[2:]


def count_operations(words: list[str]) -> tuple[float, int]:
    """Return (floating-point operations of a step, steps) of a pre-training command.

    Raises:
        UserError: its objective does not say what a step costs.
    """
    of_step, steps = operations.count_pretraining(tuple(words))
    if of_step is None:
        raise UserError(
            f"the objective of `{' '.join(words)}` does not say what a step costs, which "
            f"compute=true and equal_compute= of a study ask for"
        )
    return of_step, steps


def count_training(config: StudyConfig, arm: str) -> tuple[float, float] | None:
    """Return the operations of an arm's (pre-training, fine-tuning), in all its steps.

    A pre-training that arms share counts for each of them. None where they are not known: of timm's
    weights, of a teacher's own training, of what pretrain.objectives or finetune.flops cannot say.
    """
    spec = config.arms[config.arms[arm].weights or arm]
    if spec.timm or spec.teacher:
        return None
    row = Row(arm, 0, 1.0)
    words, before, after = pretrain_words(config, row), 0.0, 0.0
    if words is not None:
        of_step, steps = operations.count_pretraining(tuple(words[2:]))
        if of_step is None:
            return None
        before = of_step * steps
    if config.finetune:
        of_step, steps = operations.count_finetuning(finetune_words_of(config, row, "unmade")[2:])
        if of_step is None:
            return None
        after = of_step * steps
    return before, after


def match_steps(config: StudyConfig, arm: str, words: list[str]) -> int:
    """Return the fine-tuning steps with which an arm costs what its equal_compute= costs in all.

    Rounded up, so that it never has the less.

    Args:
        words: the arm's fine-tuning command without the verb.
    Raises:
        UserError: one of the two does not say what it costs.
    """
    other = config.arms[arm].equal_compute
    spent = count_training(config, other)
    of_step, _ = operations.count_finetuning(words)
    if spent is None or of_step is None:
        raise UserError(
            f"arms.{arm}.equal_compute={other}: how many operations "
            f"{f'arms.{other} takes' if spent is None else f'a step of arms.{arm} takes'} is not "
            f"known; set steps= in arms.{arm}.finetune"
        )
    return math.ceil(sum(spent) / of_step)


def refuse_other(config: StudyConfig, row: Row, found: dict[str, Any], path: str) -> None:
    """Raise UserError where a row that is there was made by another command.

    Another than the study would make it with now.

    Args:
        found: the row's dict.  path: where it is, for messages.
    """
    words = pretrain_words(config, row)
    now = [
        hide_real(config, words) if words else None,
        finetune_words_of(config, row, "") if config.finetune else None,
    ]
    made = {
        words[0]: _keys(words)
        for words in (shlex.split(command)[2:] for command in found["commands"])
    }
    now = {words[0]: _keys(words) for words in now if words}
    for package in sorted(made.keys() | now.keys()):
        before, after = made.get(package, {}), now.get(package, {})
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                old, new = (
                    f"{name}={keys[name]}" if name in keys else f"no {name}"
                    for keys in (before, after)
                )
                raise UserError(
                    f"{path} was made with {old} of {package}, the study has {new}; {ANEW}"
                )


def _keys(words):
    """{key: value} of a command.

    Places and devices are no part of what a row is, and labels follow from seed and share.
    """
    keys = dict(word.split("=", 1) for word in words if "=" in word)
    keys["config"] = next(word for word in words if word.endswith(".yaml"))
    if words[0] == "pretrain":
        for name in keys:
            if name == "data.shards" or SOURCE.match(f"{name}="):
                keys[name] = Path(keys[name]).name
    else:
        keys["data.shards"] = ""
    if "objective.teacher" in keys:
        keys["objective.teacher"] = Path(keys["objective.teacher"]).name
    return {name: value for name, value in keys.items() if name not in ("run", "init", "device")}


def check_arms(config: StudyConfig) -> None:
    """Raise UserError where a command of an arm would not start for its keys.

    To be called before anything is made.
    """
    from finetune.config import FinetuneConfig
    from pretrain.config import PretrainConfig

    _refuse_shared_people(config)
    for row in {row.arm: row for row in list_rows(config)}.values():
        arm = pretrained_arm(config, row)
        if "REAL" in config.arms[arm].pretrain and not config.real.shards:
            raise UserError(
                f"arms.{arm}.pretrain names REAL, and real.shards is not set: give the folders "
                f"of real clips that python -m data pairs has cut, with commas between"
            )
        words = pretrain_words(config, row)
        before = parse(PretrainConfig, words[2:], "pretrain train") if words else None
        if before is None or not before.model.decoder.cross:
            _refuse_decoder_claims(config, row.arm)
        if config.finetune:
            after = parse(
                FinetuneConfig, finetune_words_of(config, row, "unmade")[2:], "finetune train"
            )
            for name in SHARED if before else ():
                here, there = (getattr(run.model, name) for run in (before, after) if run)
                if here != there:
                    raise UserError(
                        f"arm '{row.arm}' is pre-trained with model.{name}={here} and fine-tuned "
                        f"with "
                        f"model.{name}={there}; arms.{row.arm}.finetune= sets the latter"
                    )


def _refuse_decoder_claims(config: StudyConfig, arm: str) -> None:
    """UserError where a claim is about two views in the decoder of an arm that sees one image."""
    for claim in config.list_claims():
        for word, name, how in (
            ("how", claim.arm, claim.how),
            ("minus_how", claim.minus, claim.minus_how),
        ):
            if name == arm and how.endswith("_decoder"):
                raise UserError(
                    f"claims.{claim.name}.{word}={how}, and arms.{arm} has "
                    f"model.decoder.cross=false: its decoder attends to no second view; set "
                    f"claims.{claim.name}.{word}={how.removesuffix('_decoder')}"
                )


def _refuse_shared_people(config: StudyConfig) -> None:
    """UserError where what arms are chosen by may show the people of another set.

    Sets of one seed share nobody where their recipes differ, but a recipe is one edit away from
    another: seeds are to differ too.
    """
    seeds = {
        f"tests.{name}": _read_seed(test.make, test.keys) for name, test in config.tests.items()
    }
    seeds["train"] = _read_seed(config.train.make, config.train.keys)
    for name in config.choose:
        mine = f"tests.{name}"
        for other, seed in seeds.items():
            if other != mine and seed == seeds[mine]:
                raise UserError(
                    f"choose={name}, and {mine} and {other} both have seed={seed}: arms are to be "
                    f"chosen by other people; set seed= in {mine}.keys"
                )


def list_labelled_shards(config: StudyConfig, row: Row) -> list[str]:
    """Return the shards whose labels a row uses.

    Another part of the set for each seed, the same for all arms.

    Raises:
        UserError: the set is not made.
    """
    shards = sorted(str(path) for path in train_folder(config).glob("*.tar"))
    if not shards:
        raise UserError(
            f"{train_folder(config)} has no shards; the study makes them before its first row"
        )
    count = max(1, round(row.share * len(shards)))
    first = row.seed * count % len(shards)
    return [shards[(first + k) % len(shards)] for k in range(count)]


def finetune_words(config: StudyConfig, row: Row) -> list[str] | None:
    """Return the words after ``python -m`` that fine-tune a row.

    None where nothing is fine-tuned.
    """
    if not config.finetune:
        return None
    return finetune_words_of(
        config,
        row,
        train_folder(config) if row.share == 1 else ",".join(list_labelled_shards(config, row)),
    )


def finetune_words_of(config: StudyConfig, row: Row, shards: str | Path) -> list[str]:
    """As finetune_words, of any labelled shards; for a study that has fine-tuning."""
    words = [
        config.finetune,
        f"run={finetune_folder(config, row)}",
        f"seed={row.seed}",
        f"device={config.device}",
        f"data.shards={shards}",
        "data.val_clips=0",
        *QUIET,
        *config.finetune_keys.split(),
        *config.arms[row.arm].finetune.split(),
    ]
    arm = config.arms[row.arm]
    if not arm.scratch:
        words.append(f"init={arm.timm.rpartition(':')[2] or pretrain_folder(config, row)}")
    if arm.equal_compute:
        words.append(f"steps={match_steps(config, row.arm, words)}")
    return ["finetune", "train", *words]
