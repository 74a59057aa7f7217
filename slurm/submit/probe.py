"""``python -m slurm.submit.probe COMMAND CONFIG key=value ...``: what the room says of a command,
without starting it.

Runs in a process of its own, so that nobody who submits imports a room. Prints one JSON object:
{"config": {dotted key: value} or null, "faults": [message, ...], "notes": [...], "place": where
results go or null, "evaluation": as in slurm.job_record.Job}.
"""

import contextlib
import importlib
import json
import sys

from engine.config.parser import flat, parse_all, parse_keys
from engine.errors import Failure, UserError
from slurm import commands


def main(argv):
    room, out = (
        commands.find(argv),
        {"config": None, "faults": [], "notes": [], "place": None, "evaluation": None},
    )
    with contextlib.redirect_stdout(sys.stderr):  # indexing shows progress
        try:
            look = _plain if room.plain else _training if room.training else _parsed
            look(room, argv[len(room.words) :], out)
        except Failure as error:
            out["faults"].append(str(error))
    print(json.dumps(out))
    return 0


def _parsed(room, words, out):
    config, faults = parse_all(_load(room.schema), words, room.command)
    out["faults"] += faults
    out["config"] = None if config is None else flat(config)
    return config


def _plain(room, words, out):
    """A command without a config file: a run or weights, and keys."""
    config, paths = parse_keys(
        _load(room.schema),
        words,
        room.command,
        f"python -m slurm {room.command}",
        0 if room.run else 1,
    )
    out["config"], out["place"] = flat(config), _load(room.plain)(config, paths)


def _training(room, words, out):
    config = _parsed(room, words, out)
    if config is None:
        return
    try:
        out["notes"].append(_shards(room, config))
    except Failure as error:
        out["faults"].append(str(error))
    if config.evaluate.every:
        words = config.evaluation("{checkpoint}")
        out["evaluation"] = {"every": config.evaluate.every, "steps": config.steps, "words": words}
        _evaluation(config, words)


def _evaluation(config, words):
    """UserError where what evaluates checkpoints would refuse its keys, or its shards are not
    there."""
    room = commands.find(words)
    try:
        parse_keys(
            _load(room.schema),
            words[len(room.words) :],
            room.command,
            f"python -m {room.command}",
            0 if room.run else 1,
        )
    except Failure as error:
        raise UserError(f"evaluate: {error}") from None
    shards = config.evaluate.shards
    if shards:
        catalogue, store = (
            importlib.import_module("data.storage.catalogue"),
            importlib.import_module("data.storage.shard_store"),
        )
        catalogue.list_shards(shards, store.Store(config.data.cache.open()))


def _load(place):
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _shards(room, config):
    """Read what a run reads of its shards before its first step; says how much there is."""
    feed = importlib.import_module("data.loading.build")
    opener = feed.open_order if room.words == ("pretrain",) else feed.open_crop_order
    order = opener(config.data, config.batch, config.seed)
    clips = sum(int(source.counts.sum()) for source in order.sources)
    if clips < config.batch:
        raise UserError(f"batch={config.batch} is more than the {clips} clips of the shards")
    return f"{clips} clips in {sum(len(source.paths) for source in order.sources)} shards"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
