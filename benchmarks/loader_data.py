"""Shards and loose files of real size for benchmarks/loader.py, from a few dozen drawn clips under
many keys."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

from data.format.clip import Clip
from data.format.index import read_index
from data.format.shards import find_shards, shard_name, write_shard
from data.people.config import PeopleConfig
from engine.config.parser import parse

CONFIG = "configs/data/people_body.yaml"
BASE, LOOSE = 60, 4000  # clips drawn; images written as loose files, at most
CLIPS_PER_SHARD = PeopleConfig(out="none").clips_per_shard


def prepare(folder: str, clips: int) -> str:
    """Make what the folder lacks: ``shards/`` of so many clips, ``files/`` of loose images with
    ``files/pairs.json``.

    Returns:
        a line that says what the data are.
    """
    wanted = {"clips": clips, "base": min(BASE, clips), "loose": LOOSE}
    note = os.path.join(folder, "made.json")
    if not (os.path.exists(note) and _read(note) == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(os.path.join(folder, "shards"))
        base = _draw(wanted["base"])
        _write_shards(os.path.join(folder, "shards"), base, clips)
        _write_files(os.path.join(folder, "files"), folder)
        with open(note, "w", encoding="utf-8") as file:
            json.dump(wanted, file)
    shards = find_shards(os.path.join(folder, "shards"))
    size = sum(os.path.getsize(path) for path in shards) / 1e9
    return (
        f"{clips} clips of 6 crops at 256 px in {len(shards)} shards, {size:.2f} GB, from "
        f"{wanted['base']} drawn clips "
        f"under new keys and subjects (their JPEG bytes repeat, their places do not); loose files: "
        f"the crops of "
        f"{min(LOOSE // 6, clips)} of them"
    )


def _read(path: str) -> object:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _draw(count: int) -> list[Clip]:
    from data.people.maker import (
        ClipMaker,  # brings the body model and Warp: not needed where the data are there
    )

    print(f"drawing {count} clips: about a second each, once", flush=True)
    maker = ClipMaker(parse(PeopleConfig, [CONFIG, "out=none"], "data make"), "cpu")
    return [maker.clip(i) for i in range(count)]


def _write_shards(folder: str, base: Sequence[Clip], clips: int) -> None:
    for number, first in enumerate(range(0, clips, CLIPS_PER_SHARD)):
        write_shard(
            os.path.join(folder, shard_name(number)),
            (
                replace(base[i * 7919 % len(base)], key=f"clip-{i:06d}", subject=f"subject-{i:06d}")
                for i in range(first, min(first + CLIPS_PER_SHARD, clips))
            ),
        )


def _write_files(out: str, folder: str) -> None:
    """Write files/KEY.CC.jpg and a list of pairs [[a, b], ...]: cross-view and cross-pose by
    turns, as data.kinds has them."""
    os.makedirs(out)
    pairs, written = [], 0
    for path in find_shards(os.path.join(folder, "shards")):
        index = read_index(path)
        with open(path, "rb") as tar:
            for i in range(len(index)):
                if written + 6 > LOOSE:
                    break
                for suffix, (offset, length) in index.members(i).items():
                    if suffix.endswith(".jpg"):
                        tar.seek(offset)
                        with open(os.path.join(out, f"{index.keys[i]}.{suffix}"), "wb") as file:
                            file.write(tar.read(length))
                        written += 1
                # The generator lays crops by camera, then instant: 2 v + t.
                names = [f"{index.keys[i]}.{crop:02d}.jpg" for crop in range(6)]
                pairs += [
                    [names[0], names[2]],
                    [names[2], names[3]],
                    [names[5], names[1]],
                    [names[5], names[4]],
                ]
    with open(os.path.join(out, "pairs.json"), "w", encoding="utf-8") as file:
        json.dump(pairs, file)
