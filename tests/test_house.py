"""The house: who may import whom, and how large a room's pieces may be."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["engine", "data", "pretrain", "finetune"]


def sources(*rooms):
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield room, path, ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def test_nothing_imports_back():
    for room, path, tree in sources(*ORDER):
        for name in imported(tree):
            assert name not in ORDER[ORDER.index(room) + 1 :], (
                f"{path.relative_to(ROOT)} imports {name}"
            )
            assert name not in ("benchmarks", "tests", "slurm"), (
                f"{path.relative_to(ROOT)} imports {name}"
            )
    for _, path, tree in sources("slurm"):
        assert not {"data", "pretrain", "finetune"} & set(imported(tree)), path


def test_pieces_are_small():
    for _, path, tree in sources(*ORDER, "slurm", "benchmarks"):
        assert len(path.read_text().splitlines()) <= 600, path
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno < 100, f"{path.relative_to(ROOT)}: {node.name}"


def test_loader_workers_start_without_torch():
    code = (
        "import sys, data.loading.loader, data.loading.reader; "
        "sys.exit(', '.join({'torch', 'webdataset', 'cv2'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
