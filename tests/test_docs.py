"""The documents: every link, path and command in them is there, and the site builds."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOPS = "engine|data|pretrain|finetune|slurm|studies|benchmarks|configs|docs|examples|tests"
SUFFIXES = "py|yaml|yml|sh|md|jsonl|ipynb|toml|html"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<(?:img|a)[^>]*(?:src|href)=\"([^\"]+)\"")
PATH = re.compile(rf"(?<![\w./-])(?:{TOPS})/[\w./*{{}},-]*\.(?:{SUFFIXES})\b")
COMMAND = re.compile(r"python -m ([a-z_]+(?:\.[a-z_]+)*)(?: ([a-z][a-z|]*)(?![\w./=-]))?")
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
# Not ours to describe: what a reader installs and what Python brings.
FOREIGN = {"pip", "venv", "http", "pytest", "mkdocs"}


def read_prose(path: Path) -> str:
    """Return a document without fenced code, where brackets are no links."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


@functools.cache
def list_anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them, and those set by hand."""
    text, anchors = read_prose(path), []
    for heading in re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        times = sum(re.fullmatch(rf"{re.escape(words)}(-\d+)?", one) is not None for one in anchors)
        anchors.append(f"{words}-{times}" if times else words)
    return {*anchors, *re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)}


def named(documents: list[Path]) -> list:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in documents]


@pytest.mark.parametrize("path", named(DOCUMENTS))
def test_every_link_leads_somewhere(path):
    broken = []
    for link in (one or other for one, other in LINK.findall(read_prose(path))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in list_anchors(file)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("path", named(DOCUMENTS))
def test_every_file_that_is_named_is_there(path):
    found = set(PATH.findall(path.read_text(encoding="utf-8")))
    expanded = {one for name in found for one in expand_braces(name)}
    assert not sorted(name for name in expanded if not any(ROOT.glob(name)))


def expand_braces(name: str) -> list[str]:
    """Return the names that a{b,c} stands for."""
    match = re.search(r"\{([^}]*)\}", name)
    if match is None:
        return [name]
    return [
        one
        for part in match[1].split(",")
        for one in expand_braces(name[: match.start()] + part + name[match.end() :])
    ]


@functools.cache
def read_help(module: str) -> str:
    """Return what a command says of itself."""
    words = [sys.executable, "-m", module, "--help"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_every_command_is_one():
    """``python -m MODULE VERB`` of all documents and scripts: the module runs, and says of the verb
    that it has it."""
    wrong = set()
    scripts = [ROOT / "Makefile", ROOT / "benchmarks" / "gpu.sh"]
    for path in [*DOCUMENTS, *scripts]:
        for module, verbs in COMMAND.findall(path.read_text(encoding="utf-8")):
            if module.split(".")[0] in FOREIGN:
                continue
            if not runs_as_command(module):
                wrong.add(f"{path.name}: python -m {module}")
                continue
            for verb in filter(None, verbs.split("|")):
                if not re.search(rf"\b{verb}\b", read_help(module)):
                    wrong.add(f"{path.name}: python -m {module} {verb}")
    assert not wrong


def runs_as_command(module: str) -> bool:
    """Return whether ``python -m`` finds a module."""
    path = ROOT.joinpath(*module.split("."))
    return (path / "__main__.py").is_file() or path.with_suffix(".py").is_file()


def test_the_benchmarks_that_the_script_starts_are_there():
    script = ROOT / "benchmarks" / "gpu.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    names = re.findall(r"section \"[^\"]*\" \d+ (\w+\.py)", script.read_text(encoding="utf-8"))
    assert len(names) > 10
    assert not {name for name in names if not (ROOT / "benchmarks" / name).is_file()}


def test_the_navigation_has_every_document():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(path.relative_to(ROOT / "docs")) for path in DOCUMENTS[1:]}
    assert not {page for page in pages if not re.search(rf"\b{re.escape(page)}\b", text)}


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None,
    reason="the site needs pip install -e '.[docs]'",
)
def test_the_site_builds_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="finetune.load"' in page and 'id="pretrain.load"' in page
    assert (tmp_path / "api" / "engine.config.html").is_file()
