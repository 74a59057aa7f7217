"""What a value may hold: any text, kept as it is; several paths; a home folder; and no command that
nobody agreed to."""

import json
import os
import random
import subprocess
import sys
import types
from dataclasses import dataclass

import pytest
from clips import make_clip, write_shards
from runs import ROOT, finish, start, words

from data.format.shards import find_shards
from data.storage import fetch
from data.storage.catalogue import read_catalogue
from data.storage.shard_store import Store
from engine.config.parser import flat, is_assignment, key, parse, parse_keys, save, section
from engine.config.paths import find_commands, refuse_commands, split_list, split_paths
from engine.errors import UserError

NASTY = [
    "${a}",
    "${a",
    r"\${b}",
    r"\\${c}",
    "${oc.env:HOME}",
    "$HOME",
    "'quoted'",
    'say "no"',
    "a # b",
    "#",
    "a: b",
    ": ",
    "- x",
    "  spaces  ",
    "\ttab\t",
    "é ü 人 😀",
    "one\ntwo\n\n three",
    "\r\n",
    "~",
    "null",
    "None",
    "1e5",
    "0x10",
    "012",
    "yes",
    "off",
    "a,b",
    "[a, b]",
    "{a: b}",
    "&anchor",
    "*star",
    "!tag x",
    "%",
    "@",
    "`",
    "|",
    ">",
    "? x",
    "https://h/s.tar?a=b=c,d&e=f",
    "12:00:00",
    "2026-11-28",
    "\x85next\u2028line",
    "\udc80",
    "=",
    "",
    "x" * 300 + " " + "y" * 300,
]
OLD = """command: package
text: ${a}
perhaps: null
texts:
- '1'
- b
named: {}
parts:
  x:
    text: '0123'
part:
  text: \\${b}
folder: runs/x
shards: a,b
every: 600.0
"""


@dataclass
class Part:
    text: str = key("", "any text")


@dataclass
class Schema:
    text: str = key("", "any text")
    perhaps: str | None = key(None, "any text, or none")
    texts: list[str] = key([], "several")
    named: dict[str, str] = key({}, "by name")
    parts: dict[str, Part] = key({}, "named parts")
    part: Part = section(Part)
    folder: str = key("", "a folder", path="one")
    shards: str = key("", "some paths", path="several")
    every: float = key(600, "a float whose default is written as a whole number")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("command: package\n")
    return str(path)


def read_back(config, tmp_path):
    save(config, tmp_path / "saved.yaml", "package")
    return parse(Schema, [str(tmp_path / "saved.yaml")], "package")


@pytest.mark.parametrize("value", NASTY, ids=ascii)
def test_a_text_is_what_was_typed_and_is_read_back_equal(file, tmp_path, value):
    typed = [f"text={value}", f"part.text={value}", f"parts.x.text={value}", f"named.y={value}"]
    config = parse(Schema, [file, *typed], "package")
    assert (config.text, config.part.text, config.parts["x"].text, config.named["y"]) == (
        value,
    ) * 4
    config.texts = [value, "plain", value]
    assert read_back(config, tmp_path) == config


def test_random_texts_are_read_back_equal(file, tmp_path):
    draw = random.Random(3)
    letters = "ab ${}\\\"'#:~,=[]-|>&*!%@`\n\té😀"
    for _ in range(200):
        text = "".join(draw.choices(letters, k=draw.randrange(12)))
        config = Schema(
            text=text, texts=[text], named={"k": text}, parts={"p": Part(text)}, every=600.0
        )
        assert read_back(config, tmp_path) == config, ascii(text)


def test_a_saved_config_of_before_is_read(tmp_path):
    """As versions with interpolation wrote it: plain YAML of the resolved values."""
    (tmp_path / "old.yaml").write_text(OLD)
    expected = Schema(
        text="${a}",
        texts=["1", "b"],
        parts={"x": Part("0123")},
        part=Part(r"\${b}"),
        folder="runs/x",
        shards="a,b",
        every=600.0,
    )
    assert parse(Schema, [str(tmp_path / "old.yaml")], "package") == expected


def test_a_default_is_of_the_declared_type(file):
    assert type(parse(Schema, [file], "package").every) is float


@pytest.mark.parametrize(
    "text, parts",
    [
        ("a,b", ["a", "b"]),
        ("[a, b]", ["a", "b"]),
        ('["a,b", "c"]', ["a,b", "c"]),
        ("", []),
        ("[]", []),
        ('["a\\"b"]', ['a"b']),
    ],
)
def test_a_list_may_hold_commas(text, parts, file):
    assert split_list(text, "k") == parts
    assert parse(Schema, [file, f"texts={text}"], "package").texts == parts


@pytest.mark.parametrize("text", ['["a", b]', '["a"', '["a", 3]'])
def test_a_broken_list_names_its_key(text, file):
    with pytest.raises(UserError, match="texts=.*(is none|each in double quotes)"):
        parse(Schema, [file, f"texts={text}"], "package")


def test_home_is_written_out_for_paths_alone(file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")

    def of(*typed):
        return parse(Schema, [file, *typed], "package")

    assert of("folder=~/runs").folder == "/home/me/runs"
    assert (
        of("folder=~").folder == "~"
        and of("folder=a~/b").folder == "a~/b"
        and of("text=~/runs").text == "~/runs"
    )
    assert of("shards=~/a,b,~/c-{0..1}.tar").shards == "/home/me/a,b,/home/me/c-{0..1}.tar"
    assert of("shards=https://h/~me/a.tar").shards == "https://h/~me/a.tar"
    assert of("shards=pipe:cat ~/a.tar").shards == "pipe:cat ~/a.tar"  # the shell's to expand
    assert json.loads(of('shards=["~/a,b", "c"]').shards) == ["/home/me/a,b", "c"]
    monkeypatch.setenv("HOME", "/home/a,b")
    assert split_paths(of("shards=~/x,y").shards) == ["/home/a,b/x", "y"]


def test_a_file_may_list_several_paths(file, tmp_path):
    (tmp_path / "b.yaml").write_text("command: package\nshards:\n- a,b\n- https://h/x.tar?s=1,2\n")
    config = parse(Schema, [str(tmp_path / "b.yaml")], "package")
    assert split_paths(config.shards) == ["a,b", "https://h/x.tar?s=1,2"]
    assert read_back(config, tmp_path) == config
    with pytest.raises(UserError, match="'folder' in .* takes one str"):
        (tmp_path / "b.yaml").write_text("command: package\nfolder: [a, b]\n")
        parse(Schema, [str(tmp_path / "b.yaml")], "package")


def test_several_paths_are_told_apart(tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    assert split_paths("x-{1,2}.tar, y,") == ["x-{1,2}.tar", "y"]
    assert split_paths(str(folder)) == [str(folder)]  # it is there as it is written
    assert split_paths('["pipe:cat a,b", "c"]') == ["pipe:cat a,b", "c"] and split_paths(
        "pipe:cat a,b"
    ) == ["pipe:cat a,b"]
    assert split_paths("[ab]/*.tar") == ["[ab]/*.tar"]  # a glob
    with pytest.raises(UserError, match="a command among others cannot be separated by commas"):
        split_paths("a.tar,pipe:cat b,c")


def test_a_folder_with_a_comma_is_read(tmp_path):
    write_shards_in(tmp_path / "a,b")
    write_shards_in(tmp_path / "c")
    both = json.dumps([str(tmp_path / "a,b"), str(tmp_path / "c")])
    assert len(find_shards(both)) == 2 and len(read_catalogue(both, Store(None))[0]) == 2
    done = subprocess.run(
        [sys.executable, "-m", "data", "verify", str(tmp_path / "a,b"), "workers=1"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0 and "all whole" in done.stdout, done.stderr
    with pytest.raises(UserError, match="no shards at .*x,y: no such"):
        find_shards('["/nowhere/x,y"]')


def write_shards_in(folder):
    folder.mkdir()
    write_shards(folder, [make_clip(i, size=16) for i in range(4)], 4)


def test_a_url_or_a_path_with_an_equals_sign_is_no_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    assert (
        is_assignment("a.b-c=1")
        and not is_assignment("https://h/s.tar?sig=a=b,c")
        and not is_assignment("runs/lr=1e-4")
    )
    assert not is_assignment("lr=1")
    config, paths = parse_keys(Schema, ["https://h/s.tar?sig=a=b", "lr=1", "text=a=b"], "x")
    assert paths == ["https://h/s.tar?sig=a=b", "lr=1"] and config.text == "a=b"


@pytest.mark.parametrize(
    "command, found",
    [
        ("pipe:cat ${S}/x-{0..1}.tar", ["pipe:cat ${S}/x-0.tar", "pipe:cat ${S}/x-1.tar"]),
        ("pipe:cat ${S:-a,b}/x.tar", ["pipe:cat ${S:-a,b}/x.tar"]),
        (r"pipe:printf 'a\n'", [r"pipe:printf 'a\n'"]),
        ("pipe:cat ${x", ["pipe:cat ${x"]),
    ],
)
def test_what_is_the_shells_reaches_the_shell(command, found):
    assert fetch.expand(command) == found


def test_a_shell_expands_what_a_config_leaves(file, monkeypatch):
    monkeypatch.setenv("SHARDS", "from the environment")
    spec = parse(Schema, [file, 'shards=pipe:printf %s "${SHARDS}"'], "package").shards
    with fetch.stream(spec) as (blocks, _):
        assert b"".join(blocks) == b"from the environment"


def test_braces_make_no_command():
    with pytest.raises(UserError, match="make a command of it"):
        fetch.expand("{pi,pi}pe:touch x # ://.tar")


def test_commands_are_found_wherever_they_hide():
    values = {"a": "pipe:x", "b": '["y", "\\u0070ipe:z"]', "c": ["k=v", "pipe:w"]}
    values |= {"d": "the pipe: of a pipe", "e": 3, "f": None}
    assert find_commands(values) == {"a": "pipe:x", "b": "pipe:z", "c": "pipe:w"}
    refuse_commands(values, {"a", "b", "c"}, "F", False)
    refuse_commands(values, set(), "F", True)
    with pytest.raises(
        UserError,
        match="^F says b=pipe:z, a command that a shell would run as you; give allow_commands=true",
    ):
        refuse_commands(values, {"a"}, "F", False)


@pytest.fixture(scope="module")
def run_of_commands(tmp_path_factory):
    """(a run whose shards come from a command that leaves a mark, the mark)."""
    home = tmp_path_factory.mktemp("home")
    (home / "shards").mkdir()
    write_shards(home / "shards", [make_clip(i, size=56) for i in range(40)], 20)
    mark = home / "mark"
    command = f"pipe:touch {mark}; cat {home}/shards/shard-{{000000..000001}}.tar"
    finish(
        start(
            words(
                home / "run",
                command,
                "steps=4",
                "checkpoint.every=2",
                "data.workers=0",
                f"data.cache.folder={home / 'cache'}",
            )
        )
    )
    return home / "run", mark


def replayed(run, *more, package="pretrain"):
    return subprocess.run(
        [sys.executable, "-m", package, "replay", str(run), "step=3", *more],
        cwd=ROOT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )


def test_replay_runs_no_command_of_a_run_unasked(run_of_commands, tmp_path):
    """Not even of one's own: whoever unpacks a run owns it."""
    run, mark = run_of_commands
    mark.unlink()
    cache = f"data.cache.folder={tmp_path}"
    done = replayed(run, cache)
    assert done.returncode == 2 and not mark.exists()
    assert (
        f"{run}/config.yaml says data.shards=pipe:touch {mark}; cat" in done.stderr
        and "allow_commands=true" in done.stderr
    )
    done = replayed(run, cache, "allow_commands=true")
    assert done.returncode == 0 and mark.exists(), done.stderr


def test_evaluate_runs_no_command_of_a_run_unasked(tmp_path):
    from data.config import CropDataConfig
    from finetune.config import FinetuneConfig
    from finetune.evaluation.selection import choose_data
    from finetune.verb_config import EvaluateConfig

    began = FinetuneConfig(data=CropDataConfig(shards="pipe:cat x.tar"))
    predictor = types.SimpleNamespace(
        config=began, folder=tmp_path, checkpoint=tmp_path / "step-00000001"
    )
    with pytest.raises(UserError, match="config.yaml says data.shards=pipe:cat x.tar, a command"):
        choose_data(EvaluateConfig(run="r"), predictor)
    assert (
        choose_data(EvaluateConfig(run="r", allow_commands=True), predictor).named()["all"].shards
        == "pipe:cat x.tar"
    )
    assert "allow_commands=true" in began.evaluation(
        "c"
    )  # in the course of the training that reads them itself
    own = EvaluateConfig(run="r")
    own.data.shards = "pipe:cat y.tar"
    assert choose_data(own, predictor).named()["data"].shards == "pipe:cat y.tar"


def test_the_record_of_another_users_job_is_not_gone_on_with(tmp_path, monkeypatch):
    from slurm import job_record
    from slurm.submit.evaluate import main

    job = job_record.Job(
        ["pretrain", "train"],
        [],
        str(tmp_path),
        str(tmp_path),
        "code",
        "python",
        True,
        1,
        1,
        {},
        evaluation={"every": 1, "steps": 1, "words": ["x"]},
    )
    job.save()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(
        UserError,
        match=r"job.json belongs to user \d+, and you are \d+: the code and the shell lines",
    ):
        main([str(tmp_path)])


def test_flat_names_every_key():
    assert set(flat(Schema())) >= {"text", "part.text", "shards"}


def test_a_sweep_is_over_values_that_may_hold_commas():
    from slurm.submit import cli_args

    swept = cli_args.read_line(
        [
            "pretrain",
            "train",
            "c.yaml",
            'sweep.data.shards=["a,b","c"]',
            "sweep.optim.lr=1e-4,2e-4",
            "sweep.seed=",
        ]
    ).sweep
    assert swept == {"data.shards": ["a,b", "c"], "optim.lr": ["1e-4", "2e-4"], "seed": [""]}


def test_a_card_names_shards_without_a_signature():
    from pretrain.model_card import _shard_names

    assert _shard_names('["/data/a,b","https://h/c.tar?sig=secret"]') == "a,b, c.tar"
