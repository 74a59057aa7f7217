"""From a command line to a job.

Everything is checked, the code copied, the script written by submitit, and sent.
"""

import contextlib
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from engine.errors import UserError
from engine.logging.console import get_logger
from engine.run.job_description import CommandTraits
from engine.run.run_folder import RunFolder
from slurm import job_record, site
from slurm.config import FEW_CORES, SlurmConfig
from slurm.submit import check, cli_args, job_specs, local, snapshot
from slurm.submit.job_specs import Element, Submission
from slurm.supervisor import ranks, supervise
from slurm.supervisor.allocation import leave_allocation

if TYPE_CHECKING:
    import submitit

log = get_logger(__name__)


def main(argv: list[str]) -> int:
    """Submit, or run here; return the exit code.

    Raises:
        UserError: everything that was found to be wrong, in one list.
    """
    line = cli_args.read_line(argv)
    faults = list(line.faults)
    where = _choose_where(line.settings, faults)
    choices, described = job_specs.describe_runs(line)
    faults += cli_args.find_array_faults(line, described.traits)
    faults += [fault for job in described.jobs for fault in job.faults]
    elements, element_faults = job_specs.make_elements(line, choices, described, where)
    faults += element_faults
    if line.settings:
        faults += _find_place_faults(line.settings, described.traits, where, elements)
    if faults or line.settings is None:
        raise UserError(_list_faults(faults))
    notes = [note for job in described.jobs for note in job.notes]
    if where == "slurm":
        notes += check.find_folder_notes(elements[0].folder)
    for text in dict.fromkeys(notes):
        log.info("note: %s", text)
    submission = Submission(line.words, described.traits, line.settings, elements, line.dry)
    return local.run_here(submission) if where == "local" else _send(submission)


def _choose_where(settings: SlurmConfig | None, faults: list[str]) -> str | None:
    """Return "slurm", "local", or None where the settings have faults."""
    if settings is None:
        return None
    if settings.where == "auto":
        return "slurm" if site.is_present() else "local"
    if settings.where == "slurm" and not site.is_present():
        faults.append(
            "slurm.where=slurm, but sbatch is not on PATH: this machine has no SLURM; "
            "slurm.where=local runs here"
        )
    return settings.where


def _list_faults(faults: list[str]) -> str:
    faults = list(dict.fromkeys(faults))
    if len(faults) == 1:
        return faults[0]
    return "\n  ".join([f"{len(faults)} faults, nothing was started:", *faults])


def _find_place_faults(
    settings: SlurmConfig, traits: CommandTraits, where: str | None, elements: list[Element]
) -> list[str]:
    """Return what is wrong with the folders, and with what is asked of the cluster or machine."""
    faults = [fault for element in elements for fault in check.find_folder_faults(element.folder)]
    if where == "slurm" and site.is_present():
        faults += check.find_site_faults(settings)
        if any(element.evaluation for element in elements):
            faults += check.find_evaluation_faults(_with_cores(settings, traits, elements))
    if where == "local":
        faults += local.find_faults(settings)
    return faults


def _send(submission: Submission) -> int:
    elements = submission.elements
    settings = _with_cores(submission.settings, submission.traits, elements)
    submission = dataclasses.replace(submission, settings=settings)
    several = len(elements) > 1
    base = os.path.dirname(elements[0].folder) if several else elements[0].folder
    code = snapshot.find_next(base) if submission.dry else snapshot.take_snapshot(base)
    jobs = []
    for number, element in enumerate(elements):
        job_specs.demand_gpu(element, settings.gpus_per_node)
        array = number if several else None
        nodes, ranks = settings.nodes, settings.ranks
        jobs.append(job_specs.make_job(submission, element, code, nodes, ranks, array))
    executor = make_executor(settings, base, jobs[0])
    if submission.dry:
        print(
            f"# slurm.where=slurm: would submit {len(jobs)} job{'s' * several} with this script\n"
            f"{write_script(executor)}\n# and this config"
        )
        print("\n".join(f"{key}: {value}" for key, value in elements[0].config.items()))
        return 0
    RunFolder(base).slurm.mkdir(parents=True, exist_ok=True)
    for job, element in zip(jobs, elements, strict=True):
        job_specs.save_job(job, element)
    if several:
        job_specs.list_elements(base, jobs, submission.traits.takes_part)
    numbers = submit_jobs(executor, jobs)
    world = jobs[0].nodes * jobs[0].ranks
    what = f"jobs {numbers[0]} to {numbers[-1]}" if several else f"job {numbers[0]}"
    nodes = f"{jobs[0].nodes} node{'s' * (jobs[0].nodes > 1)}"
    processes = f"{world} process{'es' * (world > 1)}"
    print(
        f"submitted {what}: {submission.command}, {nodes}, {processes}, in {base}\n"
        f"python -m slurm status {shlex.quote(base)} shows how it goes"
    )
    return 0


def _with_cores(
    settings: SlurmConfig, traits: CommandTraits, elements: list[Element]
) -> SlurmConfig:
    """Return the settings with cores_per_node, where nobody asked for any."""
    if settings.cores_per_node is not None:
        return settings
    if traits.takes_config and not traits.trains:
        cores = elements[0].config.get("workers", 1)
    else:
        cores = check.count_training_cores(settings)
        if not traits.trains and not settings.gpus_per_node:
            cores = min(FEW_CORES, cores)
    return dataclasses.replace(settings, cores_per_node=cores)


def submit_jobs(executor: "submitit.AutoExecutor", jobs: Sequence[job_record.Job]) -> list[str]:
    """Hand jobs to SLURM, several as an array; return their numbers.

    Raises:
        UserError: sbatch refuses, in its own words.
        EnvironmentFault: it does not reach the controller.
    """
    import submitit  # takes a second

    leave_allocation()
    for job in jobs:
        job_record.add_event(job.home, "submitted")  # before it may start
    sent = []
    try:
        with executor.batch() if len(jobs) > 1 else contextlib.nullcontext():
            for job in jobs:
                sent.append(executor.submit(supervise.main, job.folder))
    except submitit.core.utils.FailedJobError as error:
        said = [text for text in str(error).splitlines() if text.strip()]
        words = f"sbatch refused the job: {said[-1] if said else error}"
        raise site.classify_failure(words) from None
    numbers = [one.job_id for one in sent]
    for job, number in zip(jobs, numbers, strict=True):
        job_record.write_json(job.home / "submitted.json", {"job": number, "time": time.time()})
    return numbers


def make_executor(settings: SlurmConfig, base: str, job: job_record.Job) -> "submitit.AutoExecutor":
    """Return submitit's executor; one task a node, which is the supervisor.

    Args:
        settings: of the job and the site.
        base: folder of all jobs of the submission.
        job: one of them, whose code and numbers of nodes are those of all.
    """
    import submitit  # imports numpy: not for --help

    pyxis = settings.container is not None and settings.container_tool == "pyxis"
    # Python takes a second to be ready for the signal that tells of the time limit; until then it
    # must not die of it.
    python = shlex.join(ranks.ignore_signals(["USR2"], ["python3" if pyxis else sys.executable]))
    executor = submitit.AutoExecutor(
        str(RunFolder(base).slurm / "submitit"), cluster="slurm", slurm_python=python
    )
    container = _pyxis_options(settings, base, job) if pyxis else []
    further: dict[str, object] = {"requeue": True}
    if settings.gpus_per_node:
        kind = f"{settings.gpu_type}:" if settings.gpu_type else ""
        further["gpus-per-node"] = f"{kind}{settings.gpus_per_node}"
    for name, value in settings.options.items():
        further[name] = value or True
    executor.update_parameters(
        name=settings.name or os.path.basename(base),
        nodes=job.nodes,
        tasks_per_node=1,
        timeout_min=settings.minutes,
        cpus_per_task=settings.cores_per_node,
        mem_gb=settings.memory_gb,
        stderr_to_stdout=True,
        slurm_signal_delay_s=settings.warn_s,
        slurm_partition=settings.partition,
        slurm_account=settings.account,
        slurm_qos=settings.qos,
        slurm_constraint=settings.constraint,
        slurm_comment=f"counterpose:{base}",
        slurm_array_parallelism=settings.at_once,
        slurm_setup=_setup(settings, job),
        slurm_srun_args=["--kill-on-bad-exit=1", *container],
        slurm_additional_parameters=further,
    )
    return executor


def _pyxis_options(settings: SlurmConfig, base: str, job: job_record.Job) -> list[str]:
    """Return the options of srun that put the whole job into its container."""
    mounts = [f"{path}:{path}" for path in dict.fromkeys((job.cwd, base))]
    return [
        f"--container-image={settings.container}",
        f"--container-mounts={','.join(mounts)}",
        f"--container-workdir={job.code}",
        *settings.container_options,
    ]


def write_script(executor: "submitit.AutoExecutor") -> str:
    """Return the text that submitit hands to sbatch."""
    inner = cast("submitit.SlurmExecutor", executor._executor)
    return inner._make_submission_file_text(inner._submitit_command_str, "dry-run")


# What the batch script itself does if the supervisors could not: a job that saved (75), or whose
# supervisor was killed by a signal (above 128), is put back, unless SLURM is ending it.
# SLURM_JOB_ID alone would not do in an array: the last element's is the number of the whole array.
_END = """\
me=$SLURM_JOB_ID
[ -z "$SLURM_ARRAY_TASK_ID" ] || me=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
on_exit() {
  code=$?
  if [ "$code" = 75 ] || { [ "$code" -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; }; then
    scontrol show job -o "$me" 2>/dev/null | grep -q 'JobState=RUNNING' && scontrol requeue "$me"
  fi
  exit "$code"
}
trap on_exit EXIT
trap : TERM"""

# Each node's first act. On a job's first start a person has to choose another folder; of a job that
# ran before it is the node.
_SEEN = """\
unseen() {{
  [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] && [ "$SLURM_RESTART_COUNT" -lt {most} ] || exit 2
  {leave_out} "$me" $(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -vxF "$seen")
  exit $?
}}
seen=$(srun --kill-on-bad-exit=0 sh -c '
for place; do
  test -e "$place" && continue
  echo "error: node $SLURMD_NODENAME does not see $place: it must be on storage that all nodes \
share" >&2
  exit 2
done
echo "$SLURMD_NODENAME"
' sh {paths}) || unseen"""


def _setup(settings: SlurmConfig, job: job_record.Job) -> list[str]:
    """Return the lines of the batch script before the supervisor starts."""
    code = shlex.quote(job.code)
    paths = [job.code] if settings.container else [job.code, job.python]
    gone = f"error: {job.code} is gone, the copy of the code that this job runs; submit it anew"
    leave_out = shlex.join(
        [sys.executable, os.path.join(job.code, "slurm", "launch.py"), "slurm.supervisor.leave_out"]
    )
    # srun forgets it since 22.05, and would give one
    cores = f"export SRUN_CPUS_PER_TASK={settings.cores_per_node}"
    return [
        *settings.setup,
        cores,
        *_END.splitlines(),
        f"cd {code} || {{ echo {shlex.quote(gone)} >&2; exit 2; }}",
        *_SEEN.format(
            paths=shlex.join(paths), most=supervise.MOST_STARTS, leave_out=leave_out
        ).splitlines(),
    ]
