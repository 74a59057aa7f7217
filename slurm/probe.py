"""``python -m slurm.probe COMMAND CONFIG key=value ...``: what the room says of a command, without starting it.

Runs in a process of its own, so that nobody who submits imports a room. Prints one JSON object:
{"config": {dotted key: value} or null, "faults": [message, ...], "notes": [...]}.
"""

import contextlib
import importlib
import json
import sys

from engine.config import flat, parse_all
from engine.errors import UserError
from slurm import rooms


def main(argv):
    room = rooms.find(argv)
    with contextlib.redirect_stdout(sys.stderr):  # indexing shows progress
        config, faults = parse_all(_load(room.schema), argv[len(room.words):], room.command)
        notes = []
        if config is not None and room.training:
            try:
                notes.append(_shards(room, config))
            except UserError as error:
                faults.append(str(error))
    print(json.dumps({"config": flat(config) if config is not None else None, "faults": faults, "notes": notes}))
    return 0


def _load(place):
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _shards(room, config):
    """Read what a run reads of its shards before its first step; says how much there is."""
    feed = importlib.import_module("data.feed")
    opener = feed.open_order if room.words == ("pretrain",) else feed.open_crop_order
    order = opener(config.data, config.batch, config.seed)
    clips = sum(int(source.counts.sum()) for source in order.sources)
    if clips < config.batch:
        raise UserError(f"batch={config.batch} is more than the {clips} clips of the shards")
    return f"{clips} clips in {sum(len(source.paths) for source in order.sources)} shards"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
