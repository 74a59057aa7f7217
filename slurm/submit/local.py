"""The same command on this machine: the supervisor here, with a process for each of its GPUs."""

from pathlib import Path

from engine.distributed.hardware import visible_gpus
from engine.errors import ExitCode
from engine.logging.console import get_logger
from slurm import job_record
from slurm.config import SlurmConfig
from slurm.submit import snapshot
from slurm.submit.job_specs import Submission, demand_gpu, list_elements, make_job, save_job
from slurm.supervisor import supervise
from slurm.supervisor.allocation import THIS_MACHINE

log = get_logger(__name__)


def find_faults(settings: SlurmConfig) -> list[str]:
    """Return what slurm.where=local cannot give, where it is asked for in so many words."""
    if settings.where != "local":
        return []
    out = []
    if settings.nodes > 1:
        out.append(f"slurm.nodes={settings.nodes}, but slurm.where=local is this machine alone")
    if settings.gpus_per_node > visible_gpus():
        out.append(
            f"slurm.gpus_per_node={settings.gpus_per_node}, but this machine has {visible_gpus()} "
            f"GPUs"
        )
    return out


def run_here(submission: Submission) -> int:
    """Run jobs one after another; return the first exit code that is not 0."""
    elements, settings = submission.elements, submission.settings
    gpus = 0 if elements[0].config.get("device") == "cpu" else visible_gpus()
    wanted = settings.gpus_per_node or gpus
    ranks = settings.ranks_per_node or max(1, min(gpus, wanted))
    ranks = ranks if submission.traits.trains else 1
    why = "" if settings.where == "local" else ", for there is no sbatch here"
    processes = f"{ranks} process{'es' * (ranks > 1)}{f' on {gpus} GPUs' if gpus else ''}"
    log.info("slurm.where=local: %s runs on this machine%s, %s", submission.command, why, processes)
    for element in elements:
        demand_gpu(element, min(gpus, settings.gpus_per_node))
    jobs = [make_job(submission, element, snapshot.ROOT, 1, ranks) for element in elements]
    if len(elements) > 1 and not submission.dry:  # status takes the folder of them all
        list_elements(Path(elements[0].folder).parent, jobs, submission.traits.takes_part)
    for job, element in zip(jobs, elements, strict=True):
        if submission.dry:
            words = " ".join(element.arguments)
            print(f"# would run\npython -m {submission.command} {words}\n# with this config")
            print("\n".join(f"{key}: {value}" for key, value in element.config.items()))
            continue
        save_job(job, element)
        job_record.write_json(job.home / "submitted.json", {"job": None, "time": 0})
        job_record.add_event(job.home, "submitted", job=None)
        try:
            supervise.run_job(job.folder, THIS_MACHINE)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else ExitCode.PROGRAM
    return 0
