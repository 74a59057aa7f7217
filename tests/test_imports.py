"""Who may import whom: modules form no circles, and `slurm` reaches the other packages by no way.

The graph is read from the source, so an import inside a function counts like one at the top; only
those under ``if TYPE_CHECKING:`` do not, for they never run.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "data", "pretrain", "finetune", "slurm", "benchmarks", "studies")


def read_modules():
    """Return {module name: syntax tree} of the project."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = ast.parse(path.read_text(encoding="utf-8"))
    return modules


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def find_imports(node):
    """Yield the dotted names that a module imports when it or its functions run."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, ast.unparse(node)
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    children = node.orelse if is_type_checking(node) else ast.iter_child_nodes(node)
    for child in children:
        yield from find_imports(child)


def find_module(name, modules):
    """Return the module that a dotted name is, or is in; None of what is not the project's."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def read_graph(modules):
    """Return {module: set of the project's modules that it imports}."""
    graph = {}
    for name, tree in modules.items():
        found = {find_module(imported, modules) for imported in find_imports(tree)}
        graph[name] = found - {None, name}
    return graph


def find_circle(graph):
    """Return a shortest circle as [module, ..., the first one again]; None where there is none."""
    for first in sorted(graph):
        paths = [[first]]
        seen = {first}
        while paths:
            path = paths.pop(0)
            for following in sorted(graph[path[-1]]):
                if following == first:
                    return [*path, first]
                if following not in seen:
                    seen.add(following)
                    paths.append([*path, following])
    return None


def test_modules_form_no_circle():
    circle = find_circle(read_graph(read_modules()))
    assert circle is None, " -> ".join(circle)


@pytest.mark.parametrize(
    "sources, circle",
    [
        ({"a": "import b", "b": "import c", "c": ""}, None),
        ({"a": "import b", "b": "def f():\n    from a import x"}, ["a", "b", "a"]),
        ({"a": "from b.c import x", "b": "", "b.c": "from a import y"}, ["a", "b.c", "a"]),
        ({"a": "import b", "b": "if TYPE_CHECKING:\n    import a"}, None),
        (
            {"a": "import b", "b": "if TYPE_CHECKING:\n    pass\nelse:\n    import a"},
            ["a", "b", "a"],
        ),
    ],
)
def test_a_circle_is_found(sources, circle):
    modules = {name: ast.parse(text) for name, text in sources.items()}
    assert find_circle(read_graph(modules)) == circle


def test_slurm_reaches_no_other_package():
    """Neither by an import nor by the name of a module in a text, which importlib would take."""
    modules = read_modules()
    for name, imported in read_graph(modules).items():
        if name.split(".")[0] != "slurm":
            continue
        assert {found.split(".")[0] for found in imported} <= {"engine", "slurm"}, name
        for node in ast.walk(modules[name]):
            assert not (isinstance(node, ast.Name) and node.id == "importlib"), name
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str):
                assert not re.search(r"\b(data|pretrain|finetune)(\.\w+)+:\w", text), (name, text)


# What `pip install counterpose` brings, by the names that it is imported by: install_requires of
# setup.py, and what those are sure to bring.
CORE = {
    *("torch", "torchvision", "timm", "webdataset", "braceexpand", "fsspec", "submitit"),
    *("omegaconf", "numpy", "wandb", "einops", "av", "anny", "warp", "simplejpeg", "cv2", "PIL"),
    *("trimesh", "jinja2", "markupsafe", "matplotlib", "safetensors", "yaml", "tqdm"),
    *("tomli", "tomllib"),
}


def test_extras_are_imported_where_they_are_used_alone():
    """An import at the top of a module of an extra's package would break all who lack the extra."""
    import sys

    allowed = CORE | set(PACKAGES) | set(sys.stdlib_module_names)
    for name, tree in read_modules().items():
        if name.split(".")[0] in ("benchmarks", "studies"):
            continue
        for node in tree.body:
            for imported in (
                find_imports(node) if isinstance(node, ast.Import | ast.ImportFrom) else ()
            ):
                top = imported.split(".")[0]
                assert top in allowed, f"{name} imports {top}, which is no part of the installation"
