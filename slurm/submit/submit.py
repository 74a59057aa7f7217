"""From a command line to a job: everything checked, the code copied, the script written by
submitit, sent."""

import contextlib
import dataclasses
import os
import shlex
import sys
import time
from pathlib import Path

from engine.errors import UserError
from slurm import job_record, site
from slurm.config import FEW_CORES
from slurm.submit import check, cli_args, job_specs, snapshot
from slurm.supervisor import local, ranks, supervise
from slurm.supervisor.allocation import leave_allocation


def main(argv):
    """Submit, or run here; returns the exit code.

    Raises:
        UserError: everything that was found to be wrong, in one list.
    """
    order = cli_args.read(argv)
    faults, notes = list(order.faults), []
    where = None
    if order.settings:
        where = (
            order.settings.where
            if order.settings.where != "auto"
            else "slurm"
            if site.present()
            else "local"
        )
        if where == "slurm" and not site.present():
            faults.append(
                "slurm.where=slurm, but sbatch is not on PATH: this machine has no SLURM; "
                "slurm.where=local runs "
                "here"
            )
    runs = job_specs.of(order, where, faults, notes)
    if order.settings:
        _check_place(order, where, runs, faults)
    if faults:
        faults = list(dict.fromkeys(faults))
        head = f"{len(faults)} faults, nothing was started:"
        raise UserError(faults[0] if len(faults) == 1 else "\n  ".join([head, *faults]))
    for text in dict.fromkeys(
        notes + (check.folder_notes(runs[0].folder) if where == "slurm" else [])
    ):
        print(f"note: {text}")
    if where == "local":
        return local.run(order, runs)
    return _send(order, runs)


def _check_place(order, where, runs, faults):
    for element in runs:
        faults += check.folder_faults(element.folder)
    if where == "slurm" and site.present():
        faults += check.site_faults(order.settings)
        if any(element.evaluation for element in runs):
            faults += check.evaluation_faults(_with_cores(order, runs))
    if where == "local":
        faults += local.faults(order.settings)


def _send(order, runs):
    settings = order.settings = _with_cores(order, runs)
    base = runs[0].folder if len(runs) == 1 else os.path.dirname(runs[0].folder)
    code = snapshot.next_place(base) if order.dry else snapshot.take(base)
    for element in runs:
        job_specs.demand_gpu(element, settings.gpus_per_node)
    jobs = [
        job_specs.make_job(
            order, element, code, settings.nodes, settings.ranks, i if len(runs) > 1 else None
        )
        for i, element in enumerate(runs)
    ]
    executor = make_executor(settings, base, jobs[0])
    if order.dry:
        print(
            f"# slurm.where=slurm: would submit {len(jobs)} job{'s' * (len(jobs) > 1)} with this "
            f"script\n"
            f"{script_of(executor)}\n# and this config"
        )
        print("\n".join(f"{key}: {value}" for key, value in runs[0].config.items()))
        return 0
    (Path(base) / "slurm").mkdir(parents=True, exist_ok=True)
    for job, element in zip(jobs, runs, strict=True):
        job_specs.put_down(job, element)
    if len(jobs) > 1:
        job_specs.list_all(base, jobs, order.room)
    numbers = submit(executor, jobs)
    world = jobs[0].nodes * jobs[0].ranks
    what = f"job {numbers[0]}" if len(jobs) == 1 else f"jobs {numbers[0]} to {numbers[-1]}"
    print(
        f"submitted {what}: {order.room.command}, {jobs[0].nodes} node{'s' * (jobs[0].nodes > 1)}, "
        f"{world} "
        f"process{'es' * (world > 1)}, in {base}\npython -m slurm status {shlex.quote(base)} shows "
        f"how it goes"
    )
    return 0


def _with_cores(order, runs):
    """The settings with cores_per_node, where nobody asked for any."""
    settings, room = order.settings, order.room
    if settings.cores_per_node is not None:
        return settings
    share = check.training_cores(settings)
    if room.plain:
        share = share if settings.gpus_per_node else min(FEW_CORES, share)
    cores = share if room.training or room.plain else runs[0].config.get("workers", 1)
    return dataclasses.replace(settings, cores_per_node=cores)


def submit(executor, jobs):
    """Hand jobs to SLURM, several as an array; returns their numbers.

    Raises:
        UserError: sbatch refuses, in its own words.
        EnvironmentFault: it does not reach the controller.
    """
    import submitit

    leave_allocation()
    for job in jobs:
        job_record.note(job.home, "submitted")  # before it may start
    sent = []
    try:
        with executor.batch() if len(jobs) > 1 else contextlib.nullcontext():
            for job in jobs:
                sent.append(executor.submit(supervise.main, job.folder))
    except submitit.core.utils.FailedJobError as error:
        said = [text for text in str(error).splitlines() if text.strip()]
        raise site.failure_told(f"sbatch refused the job: {said[-1] if said else error}") from None
    numbers = [one.job_id for one in sent]
    for job, number in zip(jobs, numbers, strict=True):
        job_record.write(job.home / "submitted.json", {"job": number, "time": time.time()})
    return numbers


def make_executor(settings, base, job):
    """submitit's executor with the settings of a site; one task a node, which is the supervisor."""
    import submitit  # imports numpy: not for --help

    pyxis = settings.container is not None and settings.container_tool == "pyxis"
    # Python takes a second to be ready for the signal that tells of the time limit; until then it
    # must not die of it.
    python = shlex.join(ranks.ignoring(["USR2"], ["python3" if pyxis else sys.executable]))
    executor = submitit.AutoExecutor(
        os.path.join(base, "slurm", "submitit"), cluster="slurm", slurm_python=python
    )
    srun = ["--kill-on-bad-exit=1"]
    if pyxis:
        mounts = ",".join(f"{path}:{path}" for path in dict.fromkeys((job.cwd, base)))
        srun += [
            f"--container-image={settings.container}",
            f"--container-mounts={mounts}",
            f"--container-workdir={job.code}",
            *settings.container_options,
        ]
    gpus = (
        f"{settings.gpu_type}:{settings.gpus_per_node}"
        if settings.gpu_type
        else settings.gpus_per_node or None
    )
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
        slurm_setup=_setup(settings, base, job),
        slurm_srun_args=srun,
        slurm_additional_parameters={
            "requeue": True,
            **({"gpus-per-node": gpus} if gpus else {}),
            **{name: value or True for name, value in settings.options.items()},
        },
    )
    return executor


def script_of(executor):
    """The text that submitit hands to sbatch."""
    inner = executor._executor
    return inner._make_submission_file_text(inner._submitit_command_str, "dry-run")


# What the batch script itself does if the supervisors could not: a job that saved (75), or whose
# supervisor was killed by a signal (above 128), goes on, unless SLURM is ending it. SLURM_JOB_ID
# alone would not do in an array: the last element's is the number of the whole array.
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
seen=$(srun --kill-on-bad-exit=0 sh -c 'for place; do test -e "$place" || {{ echo "error: node $SLURMD_NODENAME does not see \
$place: it must be on storage that all nodes share" >&2; exit 2; }}; done; echo "$SLURMD_NODENAME"' sh {places}) || unseen"""


def _setup(settings, base, job):
    """Lines of the batch script before the supervisor starts."""
    code, places = (
        shlex.quote(job.code),
        [job.code] if settings.container else [job.code, job.python],
    )
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
            places=shlex.join(places), most=supervise.MOST_STARTS, leave_out=leave_out
        ).splitlines(),
    ]
