"""The same command on this machine: the supervisor here, with a process for each of its GPUs."""

from pathlib import Path

from engine.distributed.hardware import visible_gpus
from slurm import job_record
from slurm.submit import snapshot
from slurm.submit.job_specs import demand_gpu, list_all, make_job, put_down
from slurm.supervisor import supervise
from slurm.supervisor.allocation import THIS_MACHINE


def faults(settings):
    """What slurm.where=local cannot give, where it is asked for in so many words."""
    out = []
    if settings.where == "local" and settings.nodes > 1:
        out.append(f"slurm.nodes={settings.nodes}, but slurm.where=local is this machine alone")
    if settings.where == "local" and settings.gpus_per_node > visible_gpus():
        out.append(
            f"slurm.gpus_per_node={settings.gpus_per_node}, but this machine has {visible_gpus()} "
            f"GPUs"
        )
    return out


def run(order, elements):
    """Run elements one after another; returns the first exit code that is not 0."""
    gpus = 0 if elements[0].config.get("device") == "cpu" else visible_gpus()
    ranks = order.settings.ranks_per_node or max(1, min(gpus, order.settings.gpus_per_node or gpus))
    ranks = ranks if order.room.training else 1
    why = "" if order.settings.where == "local" else ", for there is no sbatch here"
    print(
        f"slurm.where=local: {order.room.command} runs on this machine{why}, {ranks} "
        f"process{'es' * (ranks > 1)}"
        f"{f' on {gpus} GPUs' if gpus else ''}",
        flush=True,
    )
    for element in elements:
        demand_gpu(element, min(gpus, order.settings.gpus_per_node))
    jobs = [make_job(order, element, snapshot.ROOT, 1, ranks) for element in elements]
    if len(elements) > 1 and not order.dry:  # status takes the folder of them all
        list_all(Path(elements[0].folder).parent, jobs, order.room)
    for job, element in zip(jobs, elements, strict=True):
        if order.dry:
            print(
                f"# would run\npython -m {order.room.command} {' '.join(element.arguments)}\n# "
                f"with this config"
            )
            print("\n".join(f"{key}: {value}" for key, value in element.config.items()))
            continue
        put_down(job, element)
        job_record.write(job.home / "submitted.json", {"job": None, "time": 0})
        job_record.note(job.home, "submitted", job=None)
        try:
            supervise.run_job(job.folder, THIS_MACHINE)
        except SystemExit as end:
            return end.code
    return 0
