"""Whom a fine-tuning run was trained on, and its pre-training: nobody of them is a fair test."""

import os
from pathlib import Path

import numpy as np

from data.manifest import read_manifest
from data.pairs import offer_bits
from data.store import Store
from data.subjects import leave_out_people, trained_people
from engine.config import parse
from engine.errors import Failure
from pretrain.config import PretrainConfig


def leave_out_trained(order, config) -> list[str]:
    """Take the clips of people whom a run was trained on away from a test's held-out ones.

    People are compared by name in all shards that the run and its pre-training read, so that one
    who also appears in other shards, under other keys, does not count as unseen.

    Args:
        order: data.order.Order of the test.  config: finetune.config.FinetuneConfig of the run.
    Returns:
        Sentences on what was left out, and on what could not be compared.
    """
    found, notes = [np.zeros(0, np.uint64)], []
    for words, began in _readings(config):
        try:
            store = Store(began.cache.open())
            people, unknown = trained_people(_sources(began, store), store)
        except Failure as error:
            notes.append(f"The people that {words} was trained on are not known, and may be in "
                         f"this test ({error}).")
            continue
        found.append(people)
        if unknown:
            notes.append(f"{unknown} shards that {words} was trained on are not on this machine: "
                         f"their people may be in this test.")
    if config.init and _pretraining(Path(config.init)) is None:
        notes.append(f"init={config.init} is no run on this machine: whether people of this test "
                     f"were pre-trained on is known by their shards alone.")
    gone, unknown = leave_out_people(order, np.concatenate(found), Store(config.data.cache.open()))
    if gone:
        notes.append(f"{gone} clips of other shards were left out: they show people that the run "
                     f"or its pre-training was trained on.")
    if unknown:
        notes.append(f"In {unknown} shards of this test people are not listed (`python -m data "
                     f"index` does it): they may be people that the run was trained on.")
    return notes


def _readings(config):
    """(whose in words, ReadingConfig) of the run and of the pre-training it began from."""
    out = [("the run", config.data)]
    if config.init and (pretraining := _pretraining(Path(config.init))):
        out.append(("its pre-training", pretraining.data))
    return out


def _pretraining(init):
    """The PretrainConfig of a run, or of a checkpoint's run; None where there is none."""
    for folder in (init, *init.resolve().parents[:2]):
        path = folder / "config.yaml"
        if path.is_file():
            try:
                return parse(PretrainConfig, [os.fspath(path)], "pretrain")
            except Failure:
                return None  # of another command, or of another version
    return None


def _sources(reading, store):
    bits = offer_bits("any")
    return [read_manifest(name, source.shards, reading.held_out, bits, store)
            for name, source in reading.named().items()]
