"""What a submission does before SLURM has it: the code's copy, its commit, the list of elements,
the script, the device."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import types

import pytest
import torch
from runs import ROOT

from engine.distributed import hardware, process_group
from engine.errors import EnvironmentFault, UserError
from engine.run import preflight
from engine.training import eval_jobs
from slurm import evaluations, job_record, site
from slurm.config import SlurmConfig
from slurm.status import manage
from slurm.submit import check, evaluate, job_specs, snapshot, submit
from slurm.supervisor import eval_supervisor, ranks

needs_srun = pytest.mark.skipif(
    shutil.which("srun") is None, reason="submitit writes a script where srun is installed alone"
)

NAMELESS = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


def git(folder, *words):
    done = subprocess.run(
        ["git", "-C", folder, *words],
        env={**os.environ, **NAMELESS},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def commit(folder, text):
    """Change the checkout in a folder and commit it; returns the commit as git describes it."""
    (folder / "notes.txt").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", text)
    return git(folder, "describe", "--always")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of its own with engine/ in it, from which code is copied."""
    folder = tmp_path / "checkout"
    (folder / "engine").mkdir(parents=True)
    for name in ("__init__.py", "version.py"):
        shutil.copy2(ROOT / "engine" / name, folder / "engine" / name)
    git(tmp_path, "init", "-q", str(folder))
    monkeypatch.setattr(snapshot, "ROOT", folder)
    monkeypatch.setattr(snapshot.version, "ROOT", folder)
    monkeypatch.setattr(snapshot.version, "__file__", str(folder / "engine" / "version.py"))
    return folder


def identity(code):
    """(commit, what ranks compare) as the code in a folder says of itself."""
    said = (
        "import json; from engine import version; "
        "print(json.dumps([version.describe_commit(), version.identify_code()]))"
    )
    return json.loads(
        subprocess.run(
            [sys.executable, "-c", said], cwd=code, check=True, capture_output=True, text=True
        ).stdout
    )


def test_each_submission_has_a_copy_of_its_own(checkout, tmp_path):
    run = tmp_path / "run"
    old = commit(checkout, "one")
    first = snapshot.take_snapshot(run)
    new = commit(checkout, "two")
    assert snapshot.find_next(run) == run / "code" / "0002"
    second = snapshot.take_snapshot(run)
    assert (first, second) == (run / "code" / "0001", run / "code" / "0002")
    assert [(code / "notes.txt").read_text() for code in (first, second)] == ["one", "two"]
    assert [
        json.loads((code / "snapshot.json").read_text())["git"] for code in (first, second)
    ] == [old, new]


def test_a_copy_inside_the_checkout_tells_the_commit_it_was_taken_at(checkout):
    """The checkout around it changes; no rank that starts later finds another commit."""
    old = commit(checkout, "one")
    code = snapshot.take_snapshot(checkout / "runs" / "first")
    before = identity(code)
    commit(checkout, "two")
    assert identity(code) == before and before[0] == old and old in before[1]


def test_a_commit_while_ranks_start_makes_no_difference_between_them(checkout):
    commit(checkout, "one")
    before = identity(checkout)
    new = commit(checkout, "two")
    after = identity(checkout)
    assert after == [new, before[1]] and before[0] != new
    (checkout / "engine" / "more.py").write_text("x = 1\n")  # other code is another identity
    assert identity(checkout)[1] != before[1] and identity(checkout)[0] == new


def test_code_that_merely_lies_in_a_checkout_is_not_described_by_it(checkout):
    commit(checkout, "one")
    (checkout / "installed" / "engine").mkdir(parents=True)
    shutil.copy2(ROOT / "engine" / "version.py", checkout / "installed" / "engine")
    assert identity(checkout / "installed")[0] is None


def test_ranks_compare_what_the_copy_recorded(monkeypatch):
    monkeypatch.setattr(preflight.version, "identify_code", lambda: "abc in 0001")
    several = types.SimpleNamespace(world=2, device=torch.device("cpu"))
    assert preflight.here(several)["alike"]["counterpose"] == "abc in 0001"


def job_in(folder, number=None):
    job = job_record.Job(
        ["pretrain", "train"], [], str(folder), "/", "/code", sys.executable, True, 1, 1, {}
    )
    job.save()
    if number:
        job_record.write_json(job.home / "submitted.json", {"job": number, "time": 0})
    return job


@pytest.mark.parametrize("takes_part, kept", [(False, ["a", "b"]), (True, ["b"])])
def test_a_second_submission_adds_to_the_list_of_elements(tmp_path, monkeypatch, takes_part, kept):
    """Of parts of one work, only those that are in the queue stay."""
    monkeypatch.setattr(site, "is_present", lambda: True)
    monkeypatch.setattr(site, "read_state", lambda number: {"1": "FAILED", "2": "RUNNING"}[number])
    first = [job_in(tmp_path / "a", "1"), job_in(tmp_path / "b", "2")]
    second = [job_in(tmp_path / "b", "2"), job_in(tmp_path / "c")]
    job_specs.list_elements(tmp_path, first, takes_part)
    job_specs.list_elements(tmp_path, second, takes_part)
    assert job_record.read_json(tmp_path / "slurm" / "elements.json") == [
        str(tmp_path / name) for name in [*kept, "c"]
    ]


@needs_srun
def test_a_signal_is_ignored_without_the_option_of_a_newer_env(tmp_path):
    """By the command line that submitit writes, run by a shell, on a system whose env is older."""
    (tmp_path / "env").write_text("#!/bin/sh\necho env: unrecognized option >&2\nexit 125\n")
    (tmp_path / "env").chmod(0o755)
    job = job_record.Job(
        ["pretrain", "train"], [], str(tmp_path), "/", "/code", sys.executable, True, 1, 1, {}
    )
    executor = submit.make_executor(SlurmConfig(cores_per_node=1), str(tmp_path), job)
    script = submit.write_script(executor)
    python = executor._executor.python
    assert f" {python} -u -m submitit.core._submit " in script
    program = (
        "import signal; "
        "print(*(signal.getsignal(n) == signal.SIG_IGN for n in (signal.SIGUSR2, signal.SIGTERM)))"
    )
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run(
        ["sh", "-c", f"{python} -c '{program}'"], env=path, capture_output=True, text=True
    )
    assert told.stdout.split() == ["True", "False"], told.stderr
    both = ranks.ignore_signals(["TERM", "USR2"], [sys.executable, "-c", program])
    assert subprocess.run(both, env=path, capture_output=True, text=True).stdout.split() == [
        "True",
        "True",
    ]
    assert signal.getsignal(signal.SIGUSR2) != signal.SIG_IGN


def test_the_batch_script_asks_for_its_own_element_alone(tmp_path):
    """The last element of an array has the array's number as its own; all of the array would be
    requeued by it."""
    job = job_record.Job(
        ["pretrain", "train"], [], str(tmp_path), "/", str(tmp_path), sys.executable, True, 1, 1, {}
    )
    lines = submit._setup(SlurmConfig(cores_per_node=1), job)
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho JobState=RUNNING\n'
    )
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 0\n")
    for name in ("scontrol", "srun"):
        (tmp_path / name).chmod(0o755)  # every node sees all
    for variables, number in (
        ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}, "7_0"),
        ({}, "7"),
    ):
        done = subprocess.run(
            ["bash", "-c", "\n".join([*lines, "exit 75"])],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **variables},
        )
        assert done.returncode == 75
        assert (tmp_path / "asked").read_text().splitlines()[-2:] == [
            f"show job -o {number}",
            f"requeue {number}",
        ]


@pytest.mark.parametrize(
    "restart, spare, code, told",
    [
        (None, "5", 2, []),
        ("1", "5", 75, ["requeue 7", "update jobid=7 ExcNodeList=n2"]),
        ("1", "1", 75, ["requeue 7"]),
        ("20", "5", 2, []),
    ],
)
def test_a_node_that_does_not_see_the_code_is_left_out_of_a_job_that_ran_before(
    tmp_path, restart, spare, code, told
):
    """n2 of n1 and n2. On the first start a person has to choose another folder; where no node is
    left it is tried again."""
    job = job_record.Job(
        ["pretrain", "train"], [], str(tmp_path), "/", str(ROOT), sys.executable, True, 2, 1, {}
    )
    lines = submit._setup(SlurmConfig(cores_per_node=1), job)
    (tmp_path / "srun").write_text("#!/bin/sh\necho n1\nexit 2\n")
    (tmp_path / "scontrol").write_text(f"""#!/bin/sh
case "$*" in
"show hostnames"*) echo n1; echo n2 ;;
"show job"*) [ -e {tmp_path}/requeued ] && state=COMPLETING || state=RUNNING
  echo "JobId=7 JobState=$state Partition=main NumNodes=2 ReqNodeList=(null) ExcNodeList=(null)" ;;
requeue*) touch {tmp_path}/requeued; echo "$@" >> {tmp_path}/told ;;
*) echo "$@" >> {tmp_path}/told ;;
esac
""")
    (tmp_path / "sinfo").write_text(
        f'#!/bin/sh\nfor i in $(seq 2 $((1 + {spare}))); do echo "n$i|idle|(null)|(null)"; done\n'
    )
    for name in ("scontrol", "srun", "sinfo"):
        (tmp_path / name).chmod(0o755)
    variables = {"SLURM_RESTART_COUNT": restart} if restart else {}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]",
            **variables,
        },
    )
    assert done.returncode == code, done.stderr
    assert (
        (tmp_path / "told").read_text().splitlines() if (tmp_path / "told").exists() else []
    ) == told


@needs_srun
def test_what_is_submitted_from_an_interactive_allocation_is_no_part_of_it(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text(
        f"#!/bin/sh\nenv > {tmp_path}/had\necho Submitted batch job 7\n"
    )
    (tmp_path / "sbatch").chmod(0o755)
    for name, value in {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_MEM_PER_CPU": "100",
        "SRUN_CPUS_PER_TASK": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_ACCOUNT": "mine",
    }.items():
        monkeypatch.setenv(name, value)
    job = job_in(tmp_path / "run")
    assert submit.submit_jobs(
        submit.make_executor(SlurmConfig(cores_per_node=1), job.folder, job), [job]
    ) == ["7"]
    had = {line.split("=")[0] for line in (tmp_path / "had").read_text().splitlines()}
    assert (
        had & {"SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SRUN_CPUS_PER_TASK", "CUDA_VISIBLE_DEVICES"}
        == set()
    )
    assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= had


def test_what_asked_for_other_things_is_not_submitted_again_together(tmp_path):
    one, other = job_in(tmp_path / "a"), job_in(tmp_path / "b")
    later = dataclasses.replace(job_in(tmp_path / "c"), code="/code/0002")
    longer = dataclasses.replace(job_in(tmp_path / "d"), settings={"hours": 2.0})
    assert list(manage._group_alike([one, later, other, longer])) == [
        [one, other],
        [later],
        [longer],
    ]


# Devices.


@pytest.fixture
def broken(monkeypatch):
    """Two GPUs whose driver does not answer torch, which was built for them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(hardware, "visible_gpus", lambda: 2)


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_broken_driver_is_no_reason_to_take_the_cpu(broken, monkeypatch, wanted):
    with pytest.raises(
        EnvironmentFault,
        match=f"device={wanted}: .* has 2 GPUs .* torch can use none .*; device=cpu",
    ):
        process_group.device_of(wanted)
    assert process_group.device_of("cpu").type == "cpu"
    monkeypatch.setattr(hardware, "visible_gpus", lambda: 0)
    if wanted == "auto":
        assert process_group.device_of("auto").type == "cpu"
    else:
        with pytest.raises(UserError, match="finds 0 GPUs"):
            process_group.device_of("cuda")


def test_torch_without_cuda_is_a_choice_that_is_told(broken, monkeypatch, capsys):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert process_group.device_of("auto").type == "cpu"
    assert "has 2 NVIDIA GPUs, but torch" in capsys.readouterr().err


@pytest.mark.parametrize(
    "shown, count", [("0,1", 2), ("GPU-8932f937", 1), ("", 0), ("-1", 0), ("NoDevFiles", 0)]
)
def test_gpus_that_are_hidden_do_not_count(monkeypatch, shown, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert hardware.visible_gpus() == count


def test_a_run_that_began_on_a_gpu_goes_on_without_one_only_where_that_is_said(tmp_path):
    (tmp_path / "environment.json").write_text('{"device": "cuda"}')
    with pytest.raises(
        EnvironmentFault, match=f"run={tmp_path} began on a GPU .* device=auto finds none"
    ):
        preflight.refuse_other_device(tmp_path, "auto", "cpu")
    preflight.refuse_other_device(tmp_path, "cpu", "cpu")
    preflight.refuse_other_device(tmp_path, "auto", "cuda")
    (tmp_path / "environment.json").write_text('{"device": "cpu"}')
    preflight.refuse_other_device(tmp_path, "auto", "cpu")
    preflight.refuse_other_device(tmp_path / "older", "auto", "cpu")


@pytest.mark.parametrize(
    "device, gpus, asked", [("auto", 2, "cuda"), ("auto", 0, "auto"), ("cpu", 2, "cpu")]
)
def test_who_asks_for_gpus_gets_no_cpu(device, gpus, asked):
    element = job_specs.Element(["config.yaml"], {"device": device}, "run")
    job_specs.demand_gpu(element, gpus)
    assert element.config["device"] == asked
    assert element.arguments == ["config.yaml", *(["device=cuda"] if asked == "cuda" else [])]


@needs_srun
def test_an_evaluation_with_a_gpu_gets_no_cpu(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(site, "is_present", lambda: True)
    monkeypatch.setattr(
        evaluate.submit, "submit_jobs", lambda executor, jobs: sent.extend(jobs) or ["1"]
    )
    for gpus, words in ((1, []), (1, ["device=cpu"]), (0, [])):
        settings = submit.job_specs.flat(SlurmConfig(gpus_per_node=gpus, cores_per_node=2))
        told = {
            "every": 1,
            "steps": 1,
            "words": ["finetune", "evaluate", "{checkpoint}", "device=auto", *words],
        }
        evaluate._send(
            job_record.Job(
                ["finetune", "train"],
                [],
                str(tmp_path),
                "/",
                "/code",
                sys.executable,
                True,
                1,
                1,
                settings,
                evaluation=told,
            ),
            told["words"],
            1,
        )
    assert [job.arguments[-1] for job in sent] == ["device=cuda", "device=cpu", "device=auto"]


# What SLURM's commands say.


def test_a_controller_that_is_away_is_no_users_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "sinfo").write_text(
        "#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller (connect "
        "failure)' >&2\nexit 1\n"
    )
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Invalid user id for job 3' >&2\nexit 1\n")
    for name in ("sinfo", "scontrol"):
        (tmp_path / name).chmod(0o755)
    with pytest.raises(EnvironmentFault, match="Unable to contact slurm controller"):
        site.list_partitions()
    with pytest.raises(UserError, match="Invalid user id"):
        site.ask("scontrol", "update", "jobid=3")
    assert "Unable to contact" in check.find_site_faults(SlurmConfig())[0]


@pytest.mark.parametrize(
    "code, failed", [(74, []), (1, [(10, "not submitted: nobody answers")]), (2, [])]
)
def test_evaluations_wait_while_the_controller_is_away(tmp_path, monkeypatch, code, failed):
    """Of what it refuses the process itself has written down that it failed (2)."""
    given_up, begun = [], []
    program = f"print('error: nobody answers'); raise SystemExit({code})"
    monkeypatch.setattr(eval_supervisor, "LOOK_S", 0)
    monkeypatch.setattr(evaluations, "find_unsent", lambda job: [10] if not given_up else [])
    monkeypatch.setattr(evaluations, "find_sent", lambda job: {})
    words = [sys.executable, "-c", program]
    monkeypatch.setattr(eval_supervisor, "command_of", lambda job: begun.append(1) or words)
    monkeypatch.setattr(
        eval_jobs, "fail", lambda folder, step, reason: given_up.append((step, reason))
    )
    looks = eval_supervisor.EvaluationSupervisor(job_in(tmp_path))
    looks.tick()
    looks.child.wait()
    looks.tick()
    assert given_up == failed and [
        line["reason"] for line in job_record.read_events(tmp_path / "slurm")
    ] == ["nobody answers"]
    looks.tick()
    assert len(begun) == (2 if code == 2 else 1)
    looks.away_until = 0.0
    looks.tick()
    assert len(begun) == (1 if failed else 2)


def test_who_submits_and_supervises_needs_no_torch():
    said = (
        "import sys, slurm.__main__, slurm.supervisor.supervise, slurm.submit.submit; "
        "import slurm.supervisor.triage; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", said], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "wanted, known, spare",
    [(1, "(null)", True), (2, "(null)", True), (2, "n3", False), (3, "(null)", False)],
)
def test_a_node_is_left_out_only_where_enough_like_it_remain(monkeypatch, wanted, known, spare):
    """n4 is down, n5 has other GPUs."""
    nodes = (
        "n1|alloc|gpu:8|fast",
        "n2|idle|gpu:8|fast",
        "n3|mix|gpu:8|fast",
        "n4|down*|gpu:8|fast",
        "n5|idle|gpu:4|fast",
    )
    answers = {
        "sinfo": "\n".join(nodes),
        "hostnames": "n3\n",
        "show": f"JobId=1 Partition=main NumNodes={wanted} ReqNodeList=(null) "
        f"ExcNodeList={known}\n",
    }
    monkeypatch.setattr(
        site,
        "ask",
        lambda *words: next(
            answers[word] for word in ("sinfo", "hostnames", "show") if word in words
        ),
    )
    assert site.can_spare("1", ["n1"]) == spare


def test_a_node_that_is_left_out_already_is_named_once(monkeypatch):
    """The command may have been heard and its answer lost."""
    told = []

    def ask(*words):
        told.append(words[-1])
        return "JobId=1 ExcNodeList=n[2-3]\n" if "job" in words else "n2\nn3\n"

    monkeypatch.setattr(site, "ask", ask)
    site.exclude("1", ["n3", "n4"])
    assert told[-1] == "ExcNodeList=n2,n3,n4"
