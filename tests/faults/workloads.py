"""The runs that are disturbed: of the engine alone, and of pre-training."""

import shutil
from dataclasses import dataclass, field

from .plan import Fault

STEPS, EVERY, KEEP, KEEP_EVERY = 20, 3, 2, 6
TOY = [
    f"steps={STEPS}",
    f"checkpoint.every={EVERY}",
    f"checkpoint.keep={KEEP}",
    f"checkpoint.keep_every={KEEP_EVERY}",
    "log.every=2",
    "log.val_every=4",
]
PRETRAIN = [
    *TOY,
    "model.image_size=32",
    "model.patch=16",
    "model.encoder.width=16",
    "model.encoder.depth=1",
    "model.encoder.heads=2",
    "model.decoder.width=16",
    "model.decoder.depth=1",
    "model.decoder.heads=2",
    "batch=4",
    "optim.warmup=2",
    "log.val_pairs=2",
    "log.images_every=0",
    "log.wandb=off",
    "data.val_clips=2",
    "device=cpu",
    "precision=float32",
]


@dataclass(frozen=True)
class Workload:
    """A command, and the folder that it begins with.

    Attributes:
        kind: "toy" (tests/toy.py) or "pretrain".
        words: key=value, with {run}, {shards}, {store} and {cache} for folders.
        faults: of the toy.
        begun: faults of starts before the disturbed one; the last ends the run.
        change: what is done to the folder after that.
    """

    kind: str
    words: tuple = ()
    faults: dict = field(default_factory=dict)
    begun: tuple = ()
    change: object = None


def leave_rubbish(run):
    """What a killed save and a killed line leave."""
    beside = run / "checkpoints" / ".writing-0123abcd-step-00000015"
    beside.mkdir()
    (beside / "model.safetensors").write_bytes(b"half")
    with open(run / "log.jsonl", "ab") as file:
        file.write(b'{"step": 14, "ti')


def damage_newest(run):
    """A byte of the newest complete checkpoint changes on the disk."""
    weights = sorted(run.glob("checkpoints/step-*/complete.json"))[-1].with_name(
        "model.safetensors"
    )
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def remove_indexes(folder):
    """Shards as somebody else's tool wrote them."""
    for path in [*folder.glob("*.npz"), *folder.glob("shards.json")]:
        path.unlink()


# Killed while it writes the line of step 14; checkpoints of steps 6, 9 and 12 are there.
KILLED = (Fault("write", "run/log.jsonl", 7, 1, "KILL"),)
IN_A_SAVE = (Fault("rename", "run/checkpoints/step-00000012/complete.json", 1, 1, "KILL"),)
LOCAL = ("data.shards={shards}", "data.workers=0")
THROUGH = (
    "data.cache.folder={cache}",
    "data.workers=0",
    "data.cache.gigabytes=0.001",
    "data.cache.ahead=0",
)
WORKLOADS = {
    "fresh": Workload("toy"),
    "older": Workload("toy", begun=(KILLED,)),
    "alone": Workload("toy", ("checkpoint.background=false",), begun=(KILLED,)),
    "wreck": Workload("toy", begun=(IN_A_SAVE,), change=leave_rubbish),
    "damaged": Workload("toy", begun=(KILLED,), change=damage_newest),
    "done": Workload("toy", begun=((),)),
    "back": Workload("toy", ("guard.skips=2",), {"nan": [9, 10]}),
    "local": Workload("pretrain", LOCAL),
    "local_older": Workload("pretrain", LOCAL, begun=(KILLED,)),
    "workers": Workload("pretrain", ("data.shards={shards}", "data.workers=1")),
    "file": Workload("pretrain", (*THROUGH, "data.shards=file://{store}")),
    "file_older": Workload("pretrain", (*THROUGH, "data.shards=file://{store}"), begun=(KILLED,)),
    "http": Workload("pretrain", (*THROUGH, "data.shards={url}"), begun=(KILLED,)),
}


def words_of(workload, places):
    """The command's words. ``places``: {"run": folder, ...}."""
    common = TOY if workload.kind == "toy" else ["configs/pretrain/demo_body.yaml", *PRETRAIN]
    words = [*common, "run={run}", *workload.words]
    return [word.format(**places) if "{" in word else word for word in words]


def make_shards(folder):
    """Three shards of five clips; a copy of them is each case's own."""
    from clips import make_clip, write_shards

    from data.storage.cache import Cache
    from data.storage.catalogue import read_catalogue
    from data.storage.shard_store import Store

    folder.mkdir()
    write_shards(folder, [make_clip(i, size=32) for i in range(15)], 5)
    read_catalogue(
        str(folder), Store(Cache(str(folder), 1.0))
    )  # writes shards.json, the list of a served folder


def copy_shards(made, places):
    """Give a case its shards: with indexes where they are served, without where they lie here."""
    shutil.copytree(made, places["shards"])
    remove_indexes(places["shards"])
    shutil.copytree(made, places["store"])


# Of ten cases one is of pre-training, which takes five times as long.
MOSTLY_SMALL = [
    name for name, workload in WORKLOADS.items() for _ in range(8 if workload.kind == "toy" else 1)
]
