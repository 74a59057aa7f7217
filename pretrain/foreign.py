"""Encoders as others have them, under our names: what their files hold and what of it we take.

A file's names become timm's first (those of Meta's DINOv2 and DINOv3 and of HuggingFace's ViT,
DINOv2 and DINOv3 are known), and these become ours. What our encoder has no place for is folded
into what it has where that computes the same, and refused by name where it does not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt, pi

import torch

from engine.errors import UserError
from pretrain.config import VisionConfig
from pretrain.position import resample, sincos_table

Tensors = Mapping[str, torch.Tensor]

# Parts of timm-style checkpoints (MAE's among them) that this encoder has no use for.
LEFT = (
    "mask_token",
    "head",
    "fc.",
    "pre_logits",
    "rope.",
    "rope_embed.",
    "attn_pool.",
    "pooler.",
    "decoder",
    "projectors.",
)
# Tokens before the patches, in their order.
BEFORE = ("cls_token", "dist_token", "reg_token")
DINOV3_EPSILON = 1e-5  # added to variances by its norms
DINOV3_SPAN = 4 * pi  # two units across the image, each a whole turn at the first frequency
SAME = 1e-4  # as in state_dict_adapters.check_positions

# A pattern of names that tells of a part no encoder here has, and what it is.
UNKNOWN_PARTS = (
    (r"blocks\.\d+\.(attn\.)?[qk]_norm\.", "normalised queries and keys"),
    (r"blocks\.\d+\.attn\.(norm|inner_attn_ln)\.", "a norm inside its attention"),
    (r"blocks\.\d+\.mlp\.(w12|w1|w3|fc1_g|gate_proj|norm|ffn_ln)\b", "a gated MLP (SwiGLU)"),
    (r"norm_pre\.|pre_layrnorm\.", "a norm before its blocks"),
    (r".*(relative_position|rel_pos)", "relative positions"),
    (r"rope\.freqs", "learnt rotary frequencies"),
    (r"blocks\.\d+\.attn\.gate\.", "gated attention"),
)

# HuggingFace's name, timm's; of all its ViTs, whatever stands before.
HUGGINGFACE = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"(?:model\.)?(?:encoder\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"(?<=\.)attention\.attention\.(query|key|value)\.", r"attn.\1."),
    (r"(?<=\.)attention\.output\.dense\.", "attn.proj."),
    (r"(?<=\.)attention\.([qkv])_proj\.", r"attn.\1_proj."),
    (r"(?<=\.)attention\.o_proj\.", "attn.proj."),
    (r"(?<=\.)layernorm_before\.", "norm1."),
    (r"(?<=\.)layernorm_after\.", "norm2."),
    (r"(?<=\d\.)intermediate\.dense\.", "mlp.fc1."),
    (r"(?<=\d\.)output\.dense\.", "mlp.fc2."),
    (r"(?<=\.)mlp\.up_proj\.", "mlp.fc1."),
    (r"(?<=\.)mlp\.down_proj\.", "mlp.fc2."),
    (r"(?<=\.)layer_scale([12])\.lambda1", r"ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
# DINOv2's training cuts its blocks into chunks.
CHUNKS = ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),)
META = (("register_tokens", "reg_token"), ("storage_tokens", "reg_token"))
QUERIES = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))


@dataclass
class Foreign:
    """An encoder of others.

    Attributes:
        tensors: of what is taken as it is, under our names, queries and keys in our order.
        prefix: (1, P, C) tokens before the patches, their positions added; None: there are none.
        positions: (1, N, C) vectors of the patches, or None where they are rotary.
        grid: (rows, columns) of these, (0, 0) where there are none.
        halves: whether rotating channels are the two halves of a head, as in DINOv3.
        left: names of what has no use here.
    """

    tensors: dict[str, torch.Tensor]
    prefix: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    grid: tuple[int, int] = (0, 0)
    halves: bool = False
    left: list[str] = field(default_factory=list)


def to_timm_names(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return an encoder's tensors under timm's names, with queries, keys and values in one matrix.

    Names of others than are known stay as they are.
    """
    huggingface = any(name.startswith("embeddings.patch_embeddings.") for name in tensors)
    out = {}
    for name, value in tensors.items():
        for old, new in META:
            name = new if name == old else name
        for old, new in HUGGINGFACE if huggingface else CHUNKS:
            name = re.sub(old, new, name)
        out[name] = value
    for start in {
        match[0] for match in (re.match(r"blocks\.\d+\.attn\.", n) for n in out) if match
    }:
        _join_queries(out, start)
    return out


def _join_queries(tensors: dict[str, torch.Tensor], start: str) -> None:
    """Make one matrix and one bias of what an attention's queries, keys and values have; in place.

    A bias that is missing is zero: DINOv3 has none, EVA and BEiT none of keys.
    """
    for names in QUERIES:
        if f"{start}{names[0]}.weight" not in tensors:
            continue
        parts = [tensors.pop(f"{start}{name}.weight") for name in names]
        tensors[f"{start}qkv.weight"] = torch.cat(parts)
        biases = [tensors.pop(f"{start}{name}.bias", None) for name in names]
        tensors[f"{start}qkv.bias"] = _join_biases(biases, parts[0])
    weight = tensors.get(f"{start}qkv.weight")
    if weight is None:
        return
    biases = [tensors.pop(f"{start}{name}_bias", None) for name in "qkv"]
    mask = tensors.pop(f"{start}qkv.bias_mask", None)
    if f"{start}qkv.bias" not in tensors:
        tensors[f"{start}qkv.bias"] = _join_biases(biases, weight[: len(weight) // 3])
    elif mask is not None:
        tensors[f"{start}qkv.bias"] = tensors[f"{start}qkv.bias"] * mask


def _join_biases(biases: list[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor:
    """(3 width,) of three biases, zero where one is missing."""
    zero = like.new_zeros(len(like))
    return torch.cat([zero if bias is None else bias for bias in biases])


def is_encoder(tensors: Tensors) -> bool:
    """Return whether these are tensors of a ViT, under timm's names or others that are known."""
    wanted = r"blocks\.0\.(\d+\.)?norm1\.weight$|embeddings\.patch_embeddings\."
    return any(re.match(wanted, name) for name in tensors)


def read_encoder(tensors: Tensors, where: object, ours: VisionConfig | None = None) -> Foreign:
    """Return an encoder of timm's names, or of what ``to_timm_names`` knows, under ours.

    Layer scales are multiplied into the matrix before them, which computes the same.

    Args:
        ours: its config where this software exported it, with queries and keys in its order.
    Raises:
        UserError: it has a part that no encoder here has.
    """
    tensors = to_timm_names(tensors)
    _refuse_unknown(tensors, where)
    found, scales = Foreign({}), {}
    found.halves = ours is None and ("rope_embed.periods" in tensors or _is_dinov3(tensors))
    for name, value in tensors.items():
        if scale := re.fullmatch(r"(blocks\.\d+\.)(?:ls([12])\.gamma|gamma_([12]))", name):
            target = "attn.proj." if "1" in (scale[2], scale[3]) else "mlp.fc2."
            scales[f"encoder.{scale[1]}{target}"] = value
        elif name.startswith(LEFT) or (name.startswith("norm.") and "fc_norm.weight" in tensors):
            found.left.append(name)
        elif name not in (*BEFORE, "pos_embed"):
            found.tensors["encoder." + re.sub(r"^fc_norm\.", "norm.", name)] = value
    for name, scale in scales.items():
        for kind in (f"{name}weight", f"{name}bias"):
            if kind not in found.tensors:
                raise UserError(
                    f"{where} has a layer scale, but no {kind.removeprefix('encoder.')}"
                )
        found.tensors[name + "weight"] = found.tensors[name + "weight"] * scale[:, None]
        found.tensors[name + "bias"] = found.tensors[name + "bias"] * scale
    _read_places(tensors, found, where, None if ours is None else ours.grid())
    return found


def _is_dinov3(tensors: Tensors) -> bool:
    """Whether tensors under timm's names are DINOv3's: its files do not say it in words."""
    return "pos_embed" not in tensors and "reg_token" in tensors and "cls_token" in tensors


def _refuse_unknown(tensors: Tensors, where: object) -> None:
    """UserError that names the first tensor of a part that no encoder here has."""
    for pattern, words in UNKNOWN_PARTS:
        name = next((name for name in tensors if re.match(pattern, name)), None)
        if name:
            raise UserError(
                f"{where} has {words} ({name}), which this software's encoder has not: it would "
                f"compute something else"
            )
    first, second = (tensors.get(f"blocks.0.mlp.fc{i}.weight") for i in (1, 2))
    if first is not None and second is not None and first.shape[0] != second.shape[1]:
        raise UserError(
            f"{where} has a gated MLP (SwiGLU: blocks.0.mlp.fc1 gives {first.shape[0]} channels, "
            f"fc2 takes {second.shape[1]}), which this software's encoder has not"
        )
    kernel = tensors.get("patch_embed.proj.weight")
    if kernel is not None and (kernel.ndim != 4 or kernel.shape[1] != 3):
        raise UserError(
            f"{where}: its patch_embed.proj.weight is {tuple(kernel.shape)}, no (width, 3, rows, "
            f"columns) of RGB images"
        )
    if kernel is not None and kernel.shape[2] != kernel.shape[3]:
        raise UserError(
            f"{where} has patches of {kernel.shape[2]} x {kernel.shape[3]} px; model.patch is the "
            f"side of square ones"
        )


def _read_places(
    tensors: Tensors, found: Foreign, where: object, grid: tuple[int, int] | None
) -> None:
    """Split tokens before the patches, and position vectors, off a file's tensors.

    Args:
        grid: of the patches; None: they are a square.
    """
    before = [(name, tensors[name]) for name in BEFORE if name in tensors]
    tokens = [value.reshape(1, -1, value.shape[-1]) for _, value in before]
    if tokens:
        found.prefix = torch.cat(tokens, 1)
    vectors = tensors.get("pos_embed")
    if vectors is None:
        return
    vectors = vectors.reshape(1, -1, vectors.shape[-1])
    count = vectors.shape[1]
    if grid is not None:
        found.positions, found.grid = vectors, grid
        return
    # All tokens have a vector, or all but the registers, or patches alone.
    every = sum(token.shape[1] for token in tokens)
    plain = every - sum(value.shape[1] for name, value in before if name == "reg_token")
    fits = [n for n in (every, plain, 0) if isqrt(count - n) ** 2 == count - n > 0]
    extra, rows = (fits[0], isqrt(count - fits[0])) if fits else (0, 0)
    if not rows:
        raise UserError(
            f"{where}: its pos_embed has {count} vectors, which is no square of patches"
            + (f" and the {', '.join(name for name, _ in before)} before them" if before else "")
        )
    found.positions, found.grid = vectors[:, extra:], (rows, rows)
    if found.prefix is not None and extra:
        moved = found.prefix[:, :extra] + vectors[:, :extra]
        found.prefix = torch.cat([moved, found.prefix[:, extra:]], 1)


def place(
    found: Foreign, config: VisionConfig, where: object
) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """Return what a run's encoder takes of a foreign one.

    Returns:
        ({our name: tensor}, [names left], [sentences on what is not as it was])
    Raises:
        UserError: the run has other positions or tokens before its patches.
    """
    notes: list[str] = []
    left = [*found.left]
    out = _order_channels(found, config, where)
    _place_positions(found, config, out, left, notes, where)
    given = 0 if found.prefix is None else found.prefix.shape[1]
    if config.encoder.prefix == 0 and given:
        left.append("cls_token")
        notes.append(
            f"its {given} tokens before the patches are left out, which its features were trained "
            f"with; model.encoder.prefix={given} keeps them"
        )
    elif config.encoder.prefix != given:
        raise UserError(
            f"init={where} has {given} tokens before its patches (class token, registers), this "
            f"run has model.encoder.prefix={config.encoder.prefix}"
        )
    elif found.prefix is not None:
        out["encoder.prefix"] = found.prefix
    if found.halves and config.encoder.epsilon != DINOV3_EPSILON:
        notes.append(
            f"DINOv3's norms add {DINOV3_EPSILON:g} to variances, here they add "
            f"{config.encoder.epsilon:g}; model.encoder.epsilon={DINOV3_EPSILON:g} is theirs"
        )
    return out, left, notes


def _place_positions(found, config, out, left, notes, where):
    fixed = found.positions is not None
    if fixed != (config.position != "rope"):
        has = "has no pos_embed: its positions are rotary"
        if fixed:
            has = "has pos_embed: its positions are added"
        raise UserError(f"init={where} {has}; this run has model.position={config.position}")
    if not fixed:
        return
    if config.position == "learnt":
        out["encoder.pos_embed"] = resample(found.positions, found.grid, config.grid())
        if found.grid != config.grid():
            notes.append(
                f"its position vectors, of {found.grid[0]} x {found.grid[1]} patches, are "
                f"resampled to {config.grid()[0]} x {config.grid()[1]}"
            )
        return
    usual = sincos_table(found.grid, found.positions.shape[-1])
    if float((found.positions[0].float() - usual).abs().max()) > SAME:
        left.append("pos_embed")
        notes.append(
            "its position vectors are learnt ones and are left out for sine-cosine ones; "
            "model.position=learnt keeps them"
        )


def _order_channels(found: Foreign, config: VisionConfig, where: object) -> dict[str, torch.Tensor]:
    """Tensors whose queries and keys rotate as ours do; UserError where they would by others."""
    if not found.halves or found.positions is not None or config.position != "rope":
        return dict(found.tensors)
    if abs(config.position_span - DINOV3_SPAN) > 1e-6:
        raise UserError(
            f"init={where} is of DINOv3, whose rotary positions run across the whole image: "
            f"model.position_span={DINOV3_SPAN!r}, this run has "
            f"model.position_span={config.position_span:g}"
        )
    out, heads = dict(found.tensors), config.encoder.heads
    for name, value in found.tensors.items():
        if ".attn.qkv." in name and not value.shape[0] % (3 * heads):
            q, k, v = value.chunk(3)
            out[name] = torch.cat([_pair(q, heads), _pair(k, heads), v])
    return out


def _pair(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """(width, ...) rows of queries or keys with the halves of each head as neighbours."""
    channels = len(rows) // heads
    order = torch.arange(channels).view(2, -1).T.reshape(-1)
    return rows.unflatten(0, (heads, -1))[:, order].flatten(0, 1)


def suggest_keys(found: Foreign, heads: int | None) -> str:
    """Return the keys of a run that takes an encoder as it is, as words of a command line.

    Args:
        heads: None where nobody knows; what such widths usually have is then said.
    """
    kernel = found.tensors["encoder.patch_embed.proj.weight"]
    blocks = [re.match(r"encoder\.blocks\.(\d+)\.", name) for name in found.tensors]
    depth = 1 + max(int(block[1]) for block in blocks if block)
    hidden = found.tensors["encoder.blocks.0.mlp.fc1.weight"].shape[0]
    width = kernel.shape[0]
    words = [f"width={width}", f"depth={depth}", f"heads={heads or max(1, width // 64)}"]
    if found.prefix is not None:
        words.append(f"prefix={found.prefix.shape[1]}")
    if found.halves:
        words.append("epsilon=1e-5")
    keys = [f"model.encoder.{word}" for word in words] + [f"model.patch={kernel.shape[-1]}"]
    if hidden != 4 * width:
        keys.append(f"model.mlp_ratio={hidden / width:g}")
    if found.positions is None:
        keys.append("model.position=rope")
        if found.halves:
            keys.append(f"model.position_span={DINOV3_SPAN!r}")
    else:
        usual = sincos_table(found.grid, width) if not width % 4 else found.positions[0] + 1
        same = float((found.positions[0].float() - usual).abs().max()) <= SAME
        keys.append(f"model.position={'cosine' if same else 'learnt'}")
    return " ".join(keys)
