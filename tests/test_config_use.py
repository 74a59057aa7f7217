"""A key is a promise: what each one does is checked in a real run, not in the text of the
code."""

import json
import os
import subprocess
import sys

from clips import make_clip, write_shards
from runs import ROOT, finetune_words, words

# Runs a package's training in this process and prints which keys were read. Reads by what copies,
# prints, saves and compares whole configs do not count.
WATCH = """
import dataclasses, importlib, json, sys
package, schema, module, arguments = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
from engine.config.parser import parse
root = getattr(importlib.import_module(f"{package}.config"), schema)
read, declared = set(), set()

def watch(kind):
    names = {f.name for f in dataclasses.fields(kind)}
    declared.update((kind.__name__, name) for name in names)

    def get(self, name):
        reader = sys._getframe(1).f_code.co_filename
        whole = ("engine/config/parser.py", "engine/config/schema.py", "dataclasses.py")
        if name in names and not reader.endswith(whole):
            read.add((kind.__name__, name))
        return object.__getattribute__(self, name)

    kind.__getattribute__ = get
    for value in vars(kind()).values():
        for part in value.values() if isinstance(value, dict) else [value]:
            if dataclasses.is_dataclass(part):
                watch(type(part))

watch(root)
config = parse(root, arguments, f"{package} {module}".strip())
from data.config import SourceConfig
watch(SourceConfig)
train = importlib.import_module(f"{package}.train").train
assert train(config) == 0
print("UNREAD " + json.dumps(sorted(declared - read)))
"""


def unread(package, schema, module, arguments):
    """[[class, key], ...] that a run did not read."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, package, schema, module, *arguments],
        cwd=ROOT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout.rpartition("UNREAD ")[2])


def test_a_run_reads_every_key_of_pre_training(tmp_path):
    write_shards(tmp_path, [make_clip(i, size=56) for i in range(40)], 20)
    (tmp_path / "withdrawn.txt").write_text("person1\n")
    assert (
        unread(
            "pretrain",
            "PretrainConfig",
            "train",
            words(
                tmp_path / "run",
                tmp_path,
                "steps=4",
                "optim.warmup=2",
                "data.workers=0",
                "log.images_every=2",
                "log.images=1",
                "log.val_every=2",
                "log.wandb=offline",
                f"data.exclude={tmp_path / 'withdrawn.txt'}",
            ),
        )
        == []
    )


def test_a_run_reads_every_key_of_fine_tuning(tmp_path, people):
    assert unread(
        "finetune",
        "FinetuneConfig",
        "train",
        finetune_words(
            tmp_path / "run",
            "body",
            people["body"],
            "steps=2",
            "data.workers=0",
            "log.images_every=2",
            "log.wandb=offline",
        ),
    ) == [["FinetuneConfig", "margin"]]  # predict reads it
