"""The same command on this machine: the supervisor here, with a process for each of its GPUs."""

import os
import re
from pathlib import Path

from slurm import record, snapshot, supervise
from slurm.elements import make_job, put_down


def devices():
    """GPUs that a process started here would see, found without torch."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return len([one for one in shown.split(",") if one.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)])


def faults(settings):
    """What slurm.where=local cannot give, where it is asked for in so many words."""
    out = []
    if settings.where == "local" and settings.nodes > 1:
        out.append(f"slurm.nodes={settings.nodes}, but slurm.where=local is this machine alone")
    if settings.where == "local" and settings.gpus_per_node > devices():
        out.append(f"slurm.gpus_per_node={settings.gpus_per_node}, but this machine has {devices()} GPUs")
    return out


def run(order, elements):
    """Run elements one after another; returns the first exit code that is not 0."""
    gpus = 0 if elements[0].config.get("device") == "cpu" else devices()
    ranks = order.settings.ranks_per_node or max(1, min(gpus, order.settings.gpus_per_node or gpus))
    ranks = ranks if order.room.training else 1
    why = "" if order.settings.where == "local" else ", for there is no sbatch here"
    print(f"slurm.where=local: {order.room.command} runs on this machine{why}, {ranks} process{'es' * (ranks > 1)}"
          f"{f' on {gpus} GPUs' if gpus else ''}", flush=True)
    if len(elements) > 1 and not order.dry:  # status takes the folder of them all
        base = Path(elements[0].folder).parent / "slurm"
        base.mkdir(parents=True, exist_ok=True)
        record.write(base / "elements.json", [element.folder for element in elements])
    for element in elements:
        job = make_job(order, element, snapshot.ROOT, 1, ranks)
        if order.dry:
            print(f"# would run\npython -m {order.room.command} {' '.join(element.arguments)}\n# with this config")
            print("\n".join(f"{key}: {value}" for key, value in element.config.items()))
            continue
        put_down(job, element)
        record.write(job.home / "submitted.json", {"job": None, "time": 0})
        record.note(job.home, "submitted", job=None)
        try:
            supervise.main(job.folder)
        except SystemExit as end:
            return end.code
    return 0
