"""Hooks of the documentation site: a page for each package, from its docstrings, and links to files
outside docs/ as plain paths."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("finetune", "pretrain", "data", "engine", "slurm")
# The command line, and kernels in warp's own language: nothing that is called from Python.
HIDDEN = re.compile(r"(^|\.)(__main__|kernels_\w+|\w*kernels|warp_types)$")
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./(?!\w+\.md)([^)]+)\)")


def list_modules(package: str) -> dict[str, list[str]]:
    """Return {package or sub-package: its modules}, by name, of one top-level package."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        folder = ".".join(parts[:-1])
        name = folder if parts[-1] == "__init__" else ".".join(parts)
        if not HIDDEN.search(".".join(parts)):
            found.setdefault(folder, []).append(name)
    return found


def write_page(folder: str, modules: list[str]) -> str:
    """Return the Markdown of a package's page."""
    blocks = [f"# {folder}"]
    for module in modules:
        # A package's own page says what it is; its modules follow one by one.
        extra = "\n    options: {show_submodules: false}" if module == folder else ""
        blocks.append(f"::: {module}{extra}")
    return "\n\n".join(blocks) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the packages' pages to the navigation."""
    entries = next(entry["API"] for entry in config.nav if "API" in entry)
    for package in PACKAGES:
        pages = [{folder: f"api/{folder}.md"} for folder in list_modules(package)]
        entries.append({package: pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the packages' pages."""
    for package in PACKAGES:
        for folder, modules in list_modules(package).items():
            content = write_page(folder, modules)
            files.append(File.generated(config, f"api/{folder}.md", content=content))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **_) -> str:
    """Return a page whose links to files outside docs/ are their paths: the site has no such
    files."""
    return OUTSIDE.sub(lambda match: f"{match[1]} (`{match[2]}`)", markdown)
