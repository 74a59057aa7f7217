"""The house: who may import whom, how large its pieces are, and that what is public is typed."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["engine", "data", "pretrain", "finetune"]
LINES_A_MODULE = 500
LINES_A_FUNCTION = 100
# Packages whose public functions all have types.
TYPED = [*ORDER, "slurm", "studies", "benchmarks"]
# Kernels of warp: their annotations are warp's own language.
KERNELS = ("kernels_", "kernels.py", "warp_types.py", "raster_kernels.py", "clay_kernels.py")
# engine/run/run_folder.py alone spells them.
FILES_OF_A_RUN = (
    "config.yaml",
    "environment.json",
    "lease.json",
    "saved.json",
    "manifest.json",
    "metrics.json",
    "log.jsonl",
    "log.cut.jsonl",
    "bad_samples.jsonl",
    "bad_samples.json",
    "bad_shards.json",
    "wandb_id.txt",
    "report.html",
    "model.safetensors",
)
FOLDERS_OF_A_RUN = (
    "checkpoints",
    "captures",
    "images",
    "evaluations",
    "wandb",
    "code",
    "slurm",
)
# Folders of the same name that lie elsewhere: of an evaluation, of an installation.
OF_OTHERS = {
    ("benchmarks/runs.py", "images"),
    ("engine/training/eval_jobs.py", "slurm"),
    ("finetune/evaluation/results.py", "images"),
    ("slurm/supervisor/eval_supervisor.py", "slurm"),
    ("slurm/submit/cli_args.py", "slurm"),
    ("studies/tables.py", "images"),
}


def sources(*places: str) -> Iterator[tuple[str, Path, ast.Module]]:
    """Yield (place, path, tree) of the modules in folders, or of modules themselves."""
    for place in places:
        found = ROOT / place
        for path in [found] if found.is_file() else sorted(found.rglob("*.py")):
            yield place, path, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the packages that a module imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def public_functions(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield (name, function) of a module's or class's functions that others may call."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body, f"{inside}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            special = node.name.startswith("__") and node.name.endswith("__")
            if special or not node.name.startswith("_"):
                yield f"{inside}{node.name}", node


def lacking(function: ast.FunctionDef) -> list[str]:
    """What of a function has no type: names of parameters, and "return"."""
    listed = function.args
    every = [*listed.posonlyargs, *listed.args, *listed.kwonlyargs, listed.vararg, listed.kwarg]
    named = [one for one in every if one is not None and one.arg not in ("self", "cls")]
    out = [one.arg for one in named if one.annotation is None]
    return out if function.returns is not None else [*out, "return"]


def test_nothing_imports_back():
    for package, path, tree in sources(*ORDER):
        for name in imported(tree):
            assert name not in ORDER[ORDER.index(package) + 1 :], (
                f"{path.relative_to(ROOT)} imports {name}"
            )
            assert name not in ("benchmarks", "studies", "tests", "slurm"), (
                f"{path.relative_to(ROOT)} imports {name}"
            )
    for _, path, tree in sources("studies"):
        assert not {"slurm", "benchmarks", "tests"} & set(imported(tree)), path
    for _, path, tree in sources("slurm"):
        assert not {"data", "pretrain", "finetune", "studies"} & set(imported(tree)), path


def test_pieces_are_small():
    for _, path, tree in sources(*ORDER, "slurm", "studies", "benchmarks"):
        name = path.relative_to(ROOT).as_posix()
        count = len(path.read_text().splitlines())
        assert count <= LINES_A_MODULE, f"{name} has {count} lines"
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno < LINES_A_FUNCTION, f"{name}: {node.name}"


def test_public_functions_have_types():
    found = []
    for _, path, tree in sources(*TYPED):
        if path.name.startswith(KERNELS):
            continue
        for name, function in public_functions(tree.body):
            if names := lacking(function):
                found.append(f"{path.relative_to(ROOT)}: {name}: {', '.join(names)}")
    assert not found, "\n".join(found)


def test_paths_of_a_run_are_spelled_once():
    found = []
    for _, path, tree in sources(*ORDER, "slurm", "studies", "benchmarks"):
        name = path.relative_to(ROOT).as_posix()
        if name == "engine/run/run_folder.py":
            continue
        for node in ast.walk(tree):
            # Messages and docstrings tell of them; a path is the name alone.
            if isinstance(node, ast.Constant) and node.value in FILES_OF_A_RUN:
                found.append(f"{name}:{node.lineno}: {node.value}")
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                right = node.right.value if isinstance(node.right, ast.Constant) else None
                if right in FOLDERS_OF_A_RUN and (name, right) not in OF_OTHERS:
                    found.append(f"{name}:{node.lineno}: {right}")
    assert not found, "\n".join(found)


def test_importing_says_nothing_but_warnings():
    """A program hears warnings of the library, and what a command tells besides only if it asks."""
    code = """
        import data.storage.catalogue, engine.run.folder, pretrain.weights
        from engine.logging.console import configure_console, follow_console, get_logger
        log = get_logger("place")
        follow_console()
        log.info("note: one")
        log.warning("two")
        configure_console()
        log.info("note: three")
        log.warning("four")
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=_without("COUNTERPOSE_LOG"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "two\nnote: three\nwarning: four\n" and not done.stdout


def _without(name: str) -> dict[str, str]:
    return {variable: value for variable, value in os.environ.items() if variable != name}


def test_loader_workers_start_without_torch():
    code = (
        "import sys, data.loading.loader, data.loading.reader; "
        "sys.exit(', '.join({'torch', 'webdataset', 'cv2'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
