"""How many attention heads an encoder of others has: no tensor's shape tells it.

It is what a config beside the file says, or the name of the network that its training wrote into
it; else nobody knows.
"""

import json
import re
from pathlib import Path
from typing import Any

from pretrain.files import Content

# Names that all take for a size: width, heads.
SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12), "large": (1024, 16)}
# MoCo v3's own small network has twice as many as everybody's (arXiv 2104.02057, its vits.py).
MOCO_HEADS = {"small": 12}


def find_heads(content: Content, path: Path) -> tuple[int, str] | None:
    """Return (heads, what says so), or None."""
    beside = path.parent / "config.json"
    card = _read(beside)
    for said in (card, card.get("model_args")):
        if not isinstance(said, dict):
            continue
        for name in ("num_attention_heads", "num_heads"):
            if isinstance(said.get(name), int) and said[name] > 0:
                return said[name], f"{name} in {beside.name}"
    architecture = card.get("architecture")
    names = [(content.arch, "its training's command line"), (architecture, beside.name)]
    for name, where in names:
        heads = _heads_of(name, content) if isinstance(name, str) else None
        if heads:
            return heads, f"'{name}' in {where}"
    return None


def _heads_of(name: str, content: Content) -> int | None:
    """Heads of a network of this name, where its tensors are as wide as it."""
    size = re.search(r"(?:vit|deit3?)_(?:conv_)?(tiny|small|base|large)(?![a-z])", name.lower())
    norms = [content.tensors.get(f"{norm}.weight") for norm in ("norm", "fc_norm", "layernorm")]
    width = next((len(norm) for norm in norms if norm is not None), 0)
    if size is None or SIZES[size[1]][0] != width:
        return None
    of_moco = content.encoder in ("base_encoder.", "momentum_encoder.")
    return MOCO_HEADS.get(size[1], SIZES[size[1]][1]) if of_moco else SIZES[size[1]][1]


def _read(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty where there is none, for others may mean anything by it."""
    try:
        card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}
