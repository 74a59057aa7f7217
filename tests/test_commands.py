"""The command line: one grammar, help that fits a screen, what is said of a mistyped word, and the
installed command."""

import os
import shutil
import subprocess
import sys

import pytest
from runs import ROOT, words

from engine import commands, counterpose
from engine.config.key_list import list_choices
from engine.config.parser import parse
from engine.config.shipped import find_config
from engine.errors import UserError
from finetune import demo
from finetune.demo import DemoConfig
from pretrain.config import PretrainConfig

PACKAGES = {name: commands.load_name(f"{name}.__main__:PACKAGE") for name in counterpose.PACKAGES}
VERBS = [(package, verb) for package in PACKAGES.values() for verb in package.verbs]
ALL_VERBS = pytest.mark.parametrize(
    "package, verb", VERBS, ids=[f"{package.name} {verb.name}" for package, verb in VERBS]
)


def check_screen(text):
    """A help is at most 24 lines of 100 columns, and the last of them are an example."""
    lines = text.rstrip("\n").splitlines()
    assert len(lines) <= 24, text
    assert max(map(len, lines)) <= 100, text
    assert "example:" in lines[-3:], text


@pytest.mark.parametrize("words", [[], ["--help"], *([name, "--help"] for name in PACKAGES)])
def test_help_of_a_package_fits_a_screen_and_ends_with_an_example(words, capsys):
    assert counterpose.main(words) == 0
    check_screen(capsys.readouterr().out)


@ALL_VERBS
def test_help_of_a_verb_fits_a_screen_and_ends_with_an_example(package, verb, capsys):
    assert counterpose.main([package.name, *verb.name.split(), "--help"]) == 0
    check_screen(capsys.readouterr().out)
    assert counterpose.main([package.name, *verb.name.split(), "--help", "all"]) == 0
    everything = capsys.readouterr().out
    for name in list_choices(commands.load_name(verb.keys)) if verb.keys else ():
        assert f" {verb.prefix}{name}=" in everything


@ALL_VERBS
def test_tables_name_what_is_there(package, verb):
    assert callable(commands.load_name(verb.run))
    known = set()
    for schema, prefix in commands._key_schemas(verb, verb.name):
        known |= {prefix + name for name in list_choices(commands.load_name(schema))}
    for word in verb.example.split():
        name = word.partition("=")[0]
        assert "=" not in word or name in known or name.startswith(("sweep.", "checkpoints"))
    if verb.takes_config:
        command = verb.name if verb.whole else f"{package.name} {verb.name}"
        assert verb.example.split()[0] in commands.list_configs(*command.split(" ", 1))


WITHOUT_TORCH = """
import sys
from engine import commands, counterpose
counterpose.main(["--help"])
for name in counterpose.PACKAGES:
    package = commands.load_name(f"{name}.__main__:PACKAGE")
    counterpose.main([name, "--help"])
    for verb in package.verbs:
        words = [name, *verb.name.split()]
        counterpose.main([*words, "--help", "all"])
        counterpose.complete([*words, ""])
        counterpose.complete([*words, "x", "device="])
print("LOADED", sorted({"torch", "timm", "matplotlib"} & set(sys.modules)))
"""


def test_help_and_completion_import_no_torch():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, text=True, capture_output=True
    )
    assert done.stdout.endswith("LOADED []\n"), done.stdout[-300:] + done.stderr


@pytest.mark.parametrize(
    "typed, said",
    [
        ("pretrain trian", "'trian' is not a verb of counterpose pretrain; did you mean 'train'?"),
        ("pretrain xyzzy", "is not a verb of counterpose pretrain: train, probe, export, replay;"),
        ("pretrian train", "did you mean 'pretrain'?"),
        (
            "evaluate runs/a",
            "'evaluate' is a verb of finetune: write counterpose finetune evaluate",
        ),
        ("pretrain a.yaml run=b", "write counterpose pretrain train a.yaml run=b"),
        ("finetune a.yaml", "write counterpose finetune train a.yaml"),
        ("data a.yaml", "write counterpose data make or pairs a.yaml"),
        ("slurm pretrain a.yaml x=1", "write counterpose slurm pretrain train a.yaml x=1"),
        ("slurm statsu", "did you mean 'status'?"),
        ("finetune evaluate run=runs/a", "write python -m finetune evaluate runs/a ..."),
        ("finetune evaluate a b", "takes one RUN, not a and b"),
        ("pretrain export a b out=c", "takes one RUN, not a and b"),
        ("completion tcsh", "takes one of bash, zsh, fish"),
    ],
)
def test_a_word_that_does_not_fit_is_told_with_what_to_write(typed, said):
    with pytest.raises(UserError) as caught:
        counterpose.main(typed.split())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_old_command_line_is_one_error_that_shows_the_new_form():
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", "configs/pretrain/demo_body.yaml", "run=x"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    new = "python -m pretrain train configs/pretrain/demo_body.yaml run=x"
    assert done.returncode == 2
    assert done.stderr == f"error: the verb comes before the config: write {new}\n"


def test_configs_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    required = ["run=x", "data.shards=y"]
    found = parse(PretrainConfig, ["body_vits", *required], "pretrain train")
    whole = str(ROOT / "configs/pretrain/body_vits.yaml")
    assert found == parse(PretrainConfig, [whole, *required], "pretrain train")
    assert find_config("configs/pretrain/body_vits.yaml", "pretrain train") == whole
    with pytest.raises(UserError, match="body_vit does not exist; did you mean .*body_vit.*yaml"):
        parse(PretrainConfig, ["body_vit", *required], "pretrain train")
    # A file of one's own goes first.
    (tmp_path / "body_vits").write_text("command: pretrain train\nbatch: 7\n")
    assert parse(PretrainConfig, ["body_vits", *required], "pretrain train").batch == 7


def test_the_word_of_an_earlier_version_is_read_in_a_runs_own_config_alone(tmp_path):
    file, *rest = words(tmp_path, "x")
    text = (ROOT / file).read_text()
    before = text.replace("command: pretrain train", "command: pretrain")
    assert before != text
    for name in ("mine.yaml", "config.yaml"):
        (tmp_path / name).write_text(before)
    expected = parse(PretrainConfig, [str(ROOT / file), *rest], "pretrain train")
    saved = str(tmp_path / "config.yaml")
    assert parse(PretrainConfig, [saved, *rest], "pretrain train") == expected
    with pytest.raises(UserError, match="says 'command: pretrain', .*write 'command: pretrain tr"):
        parse(PretrainConfig, [str(tmp_path / "mine.yaml"), *rest], "pretrain train")


@pytest.mark.parametrize(
    "typed, expected",
    [
        ("pre", {"pretrain", "predict"}),
        ("pretrain ", {"train", "probe", "export", "replay"}),
        ("pretrain train demo_", {"demo_body", "demo_hand"}),
        ("pretrain train demo_body optim.l", {"optim.lr="}),
        ("pretrain train demo_body device=c", {"device=cpu", "device=cuda"}),
        ("pretrain train demo_body device=cpu devic", set()),
        ("predict photo.jpg sid", {"side="}),
        ("slurm pretrain ", {"train", "probe"}),
        ("slurm data make people_hand_", {"people_hand_easy"}),
        ("slurm pretrain train demo_body slurm.nodes", {"slurm.nodes="}),
        ("slurm pretrain train demo_body slurm.where=l", {"slurm.where=local"}),
        ("completion ", {"bash", "zsh", "fish"}),
        ("nothing of ", set()),
    ],
)
def test_words_are_completed(typed, expected):
    assert set(counterpose.complete(typed.split(" "))) == expected


def ask_bash(line):
    """What bash offers after a line, as its script has it."""
    script = f"""
counterpose() {{ {sys.executable} -m engine.counterpose "$@"; }}
source <(counterpose completion bash)
COMP_LINE={line!r}
COMP_POINT=${{#COMP_LINE}}
_counterpose
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, text=True, capture_output=True)
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes():
    assert ask_bash("counterpose pretrain tr") == ["train "]
    assert ask_bash("counterpose pretrain train demo_body steps=3 optim.l") == ["optim.lr="]
    # Bash itself took the word apart at its "=".
    assert ask_bash("counterpose pretrain train demo_body device=") == ["auto ", "cpu ", "cuda "]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_are_well_formed(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(counterpose.SHELLS[shell])
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.long
def test_an_installed_copy_finds_its_configs(tmp_path):
    """Without the checkout: ``pip install .``, from another folder."""
    source, target = tmp_path / "source", tmp_path / "target"
    hidden = shutil.ignore_patterns("__pycache__")
    for name in ("engine", "data", "pretrain", "finetune", "slurm", "configs", "weights"):
        shutil.copytree(ROOT / name, source / name, ignore=hidden)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy2(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    shutil.rmtree(source)
    command = [sys.executable, str(target / "bin" / "counterpose")]
    done = subprocess.run(
        [*command, "pretrain", "train", "demo_body", "run=run", "data.shards=nowhere", "steps=0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: 'steps=0' in the command line: the value is below 1\n"


def test_the_stages_of_the_demo_are_commands_with_configs_that_ship():
    config = DemoConfig(videos=".", calibration=".")
    lanes = demo.stages(config, "runs/demo", 1)
    for name, (package, *typed) in (stage for lane in lanes.values() for stage in lane):
        verb = commands.find_verb(PACKAGES[package], typed)
        assert verb is not None, name
        if verb.takes_config:
            assert typed[1] in commands.list_configs(package, verb.name), name


def test_a_name_brings_its_own_keys_into_the_help(capsys):
    assert counterpose.main(["data", "labels", "--help"]) == 0
    assert "coco" in capsys.readouterr().out
    assert counterpose.main(["data", "labels", "coco", "--help"]) == 0
    check_screen(said := capsys.readouterr().out)
    assert " annotations=" in said and " root=" in said
    with pytest.raises(UserError, match="cocoa is none of .*; did you mean 'coco'"):
        counterpose.main(["data", "labels", "cocoa", "--help"])
