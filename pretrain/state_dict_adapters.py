"""Names and orders that others give to the same weights: CroCo's checkpoints, timm's modules.

Ours: ``encoder.`` and then timm's names; ``decoder.`` and then those of pretrain/blocks.py. Tensors
are plain dicts here.
"""

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from data.cropping.geometry import word_size
from engine.errors import UserError
from pretrain.blocks import EPSILON
from pretrain.config import DecoderConfig, EncoderConfig, ModelConfig, VisionConfig
from pretrain.foreign import DINOV3_EPSILON, DINOV3_SPAN
from pretrain.position import sincos_table

Tensors = Mapping[str, torch.Tensor]
Order = Callable[[int], torch.Tensor]  # of a head's channels

# CroCo's name, ours. Beside these, projk and projv become the halves of one matrix.
CROCO_NAMES = (
    ("patch_embed.", "encoder.patch_embed."),
    ("enc_blocks.", "encoder.blocks."),
    ("enc_norm.", "encoder.norm."),
    ("decoder_embed.", "decoder.embed."),
    ("mask_token", "decoder.mask_token"),
    ("dec_blocks.", "decoder.blocks."),
    ("dec_norm.", "decoder.norm."),
    ("prediction_head.", "decoder.head."),
)
CROCO_CROSS = (("cross_attn.projq.", "cross.q."), ("cross_attn.proj.", "cross.proj."))

# The first CroCo's sizes, which its checkpoint does not state.
CROCO_ENCODER = (("enc_embed_dim", 768), ("enc_depth", 12), ("enc_num_heads", 12))
CROCO_DECODER = (("dec_embed_dim", 512), ("dec_depth", 8), ("dec_num_heads", 16))

# All that CroCoNet is called with; the first CroCo's values of what neither a file nor its tensors
# say.
CROCO_CALL = {
    "img_size": 224,
    "patch_size": 16,
    "mask_ratio": 0.9,
    **dict(CROCO_ENCODER),
    **dict(CROCO_DECODER),
    "mlp_ratio": 4,
    "norm_im2_in_dec": True,
    "pos_embed": "cosine",
}

# (width, depth, heads) -> size in the names of timm's registered models.
TIMM_SIZES = {
    (192, 12, 3): "tiny",
    (384, 12, 6): "small",
    (768, 12, 12): "base",
    (1024, 24, 16): "large",
}


def parse_croco_call(text: str, where: object) -> dict[str, Any]:
    """Read the arguments of "CroCoNet(enc_depth=24, pos_embed='RoPE100')".

    That is the ``args.model`` of CroCo's training checkpoints. Literals are read, nothing is run.

    Raises:
        UserError: it is another call, or holds anything else than names and literals.
    """
    said = f"{where}: its args.model={text!r}"
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{said} is no call of CroCoNet") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise UserError(f"{said} is no call of CroCoNet")
    if call.func.id != "CroCoNet":
        raise UserError(f"{said} is no call of CroCoNet")
    if call.args:
        raise UserError(f"{said} has arguments without names, which are not read")
    out = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg not in CROCO_CALL:
            raise UserError(
                f"{said} has {keyword.arg or '**'}, which is none of {', '.join(CROCO_CALL)}"
            )
        try:
            out[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise UserError(f"{said}: the value of {keyword.arg} is no literal") from None
    return out


def croco_arguments(
    kwargs: dict[str, Any] | None, args_model: str | None, tensors: Tensors, where: object
) -> dict[str, Any]:
    """Find what CroCoNet was called with, from all that a file says.

    That is its ``croco_kwargs``, its command line and its tensors.

    Raises:
        UserError: two of them disagree, or a size or position cannot be known.
    """
    if args_model is not None:
        said = parse_croco_call(args_model, where)
        for name, usual in CROCO_CALL.items():
            other = said.get(name, usual)
            one = other if kwargs is None else kwargs.get(name, usual)
            if one != other and name != "mask_ratio":
                raise UserError(
                    f"{where}: its croco_kwargs have {name}={one}, its args.model has "
                    f"{name}={other}"
                )
        kwargs = said if kwargs is None else kwargs
    if kwargs is not None:
        return kwargs
    if "enc_pos_embed" not in tensors:
        raise UserError(
            f"{where} has neither croco_kwargs nor args.model, and no enc_pos_embed, which files "
            f"with sine-cosine positions carry: its positions cannot be known"
        )
    widths = {"enc_embed_dim": "enc_norm.weight", "dec_embed_dim": "dec_norm.weight"}
    for name, tensor in widths.items():
        found = len(tensors[tensor]) if tensor in tensors else "missing"
        if found != CROCO_CALL[name]:
            raise UserError(
                f"{where} has neither croco_kwargs nor args.model, so it is read as the first "
                f"CroCo, of {name}={CROCO_CALL[name]}; its {tensor} is {found}, and its heads "
                f"cannot be known"
            )
    return {}


def check_croco_positions(config: ModelConfig, tensors: Tensors, where: object) -> None:
    """Check the fixed position vectors in a file.

    Raises:
        UserError: they are missing, too much, or others than are computed here.
    """
    for name, part in (("enc_pos_embed", config.encoder), ("dec_pos_embed", config.decoder)):
        if name in tensors and config.position == "rope":
            raise UserError(
                f"{where} says pos_embed=RoPE{config.rope_base:g}, but it carries {name}, as files "
                f"with pos_embed=cosine do"
            )
        if name in tensors:
            check_positions(config, part.width, tensors[name], name, where)
    if config.position == "cosine" and "enc_pos_embed" not in tensors:
        raise UserError(
            f"{where} says pos_embed=cosine, but it carries no enc_pos_embed, which such files do"
        )


def check_positions(
    config: ModelConfig, width: int, found: torch.Tensor, name: str, where: object
) -> None:
    """Check that position vectors are the sine-cosine ones, which are computed and not taken.

    Raises:
        UserError: they are others.
    """
    wanted = sincos_table(config.grid(), width, config.position_span)
    found = found.squeeze(0) if found.ndim == 3 else found
    if found.shape != wanted.shape:
        size = word_size(config.size)
        raise UserError(
            f"{where}: its {name} is {tuple(found.shape)}; images of {size} px in patches of "
            f"{config.patch} px give {tuple(wanted.shape)}"
        )
    off = float((found.double() - wanted.double()).abs().max())
    rounding = torch.finfo(found.dtype).eps if found.is_floating_point() else 0
    if not off <= 1e-4 + rounding:
        raise UserError(
            f"{where}: its {name} is off by up to {off:.2g} from the sine-cosine vectors, which "
            f"this software computes in its place: the file is of another network"
        )


def config_from_croco(kwargs: Mapping[str, Any] | None, where: object) -> ModelConfig:
    """Return the config of a checkpoint's ``croco_kwargs``.

    What they leave out is as in the first CroCo.

    Raises:
        UserError: they name something that is not understood here.
    """
    kwargs = dict(kwargs or {})
    sides = kwargs.get("img_size", 224)
    sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
    if not kwargs.get("norm_im2_in_dec", True):
        raise UserError(
            f"{where}: norm_im2_in_dec=False; only decoders that normalise the second image are "
            f"understood"
        )
    position = str(kwargs.get("pos_embed", "cosine"))
    rotary = re.fullmatch(r"RoPE([0-9.]+)", position)
    if position != "cosine" and not rotary:
        raise UserError(
            f"{where}: pos_embed={position}; 'cosine' and 'RoPE100' and the like are understood"
        )
    config = ModelConfig(
        image_size=sides[0] if sides[0] == sides[-1] else list(sides),
        patch=kwargs.get("patch_size", 16),
        position="rope" if rotary else "cosine",
        rope_base=float(rotary[1]) if rotary else 100.0,
        mlp_ratio=float(kwargs.get("mlp_ratio", 4)),
        encoder=EncoderConfig(*(kwargs.get(name, usual) for name, usual in CROCO_ENCODER)),
        decoder=DecoderConfig(*(kwargs.get(name, usual) for name, usual in CROCO_DECODER)),
    )
    config.check()
    return config


def from_croco(config: ModelConfig, tensors: Tensors, where: object) -> dict[str, torch.Tensor]:
    """Return CroCo's state dict under our names.

    Fixed position vectors, which follow from the config, are left out.

    Raises:
        UserError: keys of cross-attention without values, or values without keys.
    """
    out = {}
    for name in tensors:
        for half, other in (("projk", "projv"), ("projv", "projk")):
            if f".cross_attn.{half}." in name and name.replace(half, other) not in tensors:
                raise UserError(f"{where} has no tensor {name.replace(half, other)}, but {name}")
    for name, value in tensors.items():
        if name in ("enc_pos_embed", "dec_pos_embed") or ".cross_attn.projv." in name:
            continue
        if ".cross_attn.projk." in name:
            keys = _reorder(config, "decoder", value, pairs_together)
            out[_renamed(name).replace("cross_attn.projk.", "cross.kv.")] = torch.cat(
                [keys, tensors[name.replace("projk", "projv")]]
            )
            continue
        out[_renamed(name)] = _convert(config, _renamed(name), value, pairs_together)
    return out


def to_croco(
    config: ModelConfig, tensors: Tensors
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return (state dict, croco_kwargs) of our tensors: the exact inverse of from_croco.

    Raises:
        UserError: CroCo's code has no words for this network.
    """
    usual = EncoderConfig()
    for key, value, known in (
        ("decoder.cross", config.decoder.cross, True),
        ("decoder.self_attention", config.decoder.self_attention, True),
        ("decoder.gradients", config.decoder.gradients, 0),
        ("decoder.latents", config.decoder.latents, 0),
        ("decoder.geometry", config.decoder.geometry, []),
        ("embedding.points", config.embedding.points, 0),
        ("encoder.prefix", config.encoder.prefix, usual.prefix),
        ("encoder.epsilon", config.encoder.epsilon, usual.epsilon),
        ("position_span", config.position_span, 0),
        ("position", config.position, "cosine" if config.position == "learnt" else config.position),
    ):
        if value != known:
            raise UserError(
                f"model.{key}={str(value).lower()}, which CroCo's code does not know; layout=timm "
                f"writes the encoder"
            )
    out = {}
    for name, value in tensors.items():
        old = _renamed(name, back=True)
        if name == "encoder.pos_embed":
            continue
        if ".cross.kv." in name:
            keys, values = value.chunk(2)
            out[old.replace("cross.kv.", "cross_attn.projk.")] = _reorder(
                config, "decoder", keys, pairs_apart
            )
            out[old.replace("cross.kv.", "cross_attn.projv.")] = values
            continue
        out[old] = _convert(config, name, value, pairs_apart)
    if config.position == "cosine":
        out["enc_pos_embed"] = sincos_table(config.grid(), config.encoder.width)
        out["dec_pos_embed"] = sincos_table(config.grid(), config.decoder.width)
    e, d = config.encoder, config.decoder
    return out, {
        "img_size": config.size,
        "patch_size": config.patch,
        "mlp_ratio": config.mlp_ratio,
        "pos_embed": "cosine" if config.position == "cosine" else f"RoPE{config.rope_base:g}",
        "enc_embed_dim": e.width,
        "enc_depth": e.depth,
        "enc_num_heads": e.heads,
        "dec_embed_dim": d.width,
        "dec_depth": d.depth,
        "dec_num_heads": d.heads,
    }


def name_in(layout: str, name: str) -> str:
    """Return our name of a tensor as a file of a layout has it, for messages.

    Args:
        layout: "ours", "croco" or "timm".
    """
    if layout == "croco":
        return _renamed(name, back=True).replace("cross.kv.", "cross_attn.projk.")
    return name.removeprefix("encoder.") if layout == "timm" else name


def timm_geometry(tensors: Tensors) -> dict[str, float]:
    """Return {key of a VisionConfig: value} that a timm-style encoder's tensors determine.

    Heads and rotary bases they do not.
    """
    kernel = tensors.get("patch_embed.proj.weight")
    hidden = tensors.get("blocks.0.mlp.fc1.weight")
    of_blocks = [name for name in tensors if re.match(r"blocks\.\d+\.", name)]
    last = max(int(name.split(".")[1]) for name in of_blocks)
    out: dict[str, float] = {"encoder.depth": last + 1}
    if kernel is not None and kernel.ndim == 4:
        out |= {"encoder.width": kernel.shape[0], "patch": kernel.shape[3]}
    if hidden is not None and hidden.ndim == 2:
        out["mlp_ratio"] = hidden.shape[0] / hidden.shape[1]
    return out


def pairs_together(channels: int) -> torch.Tensor:
    """Return which of CroCo's channels of a head stands where in ours.

    A half of a head rotates by the row, the other by the column. In CroCo channel i of a half
    rotates with i + channels/4; in timm neighbours do. Scores q.k stay the same when q and k are
    permuted alike.
    """
    half = torch.arange(channels // 2).view(2, -1).T.reshape(-1)
    return torch.cat([half, half + channels // 2])


def pairs_apart(channels: int) -> torch.Tensor:
    """Return the inverse of pairs_together."""
    return pairs_together(channels).argsort()


def to_timm(config: VisionConfig, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return our encoder's weights for ``timm.create_model(*timm_call(config))``, strictly."""
    out = {}
    for name, value in tensors.items():
        if name == "encoder.prefix":
            out["cls_token"] = value[:, :1]
            if value.shape[1] > 1:
                out["reg_token"] = value[:, 1:]
        elif name.startswith("encoder."):
            out[re.sub(r"^norm\.", "fc_norm.", name.removeprefix("encoder."))] = value
    if config.position == "rope":
        # timm's registered rotary models keep a layer scale; ones leave things as they are.
        for i in range(config.encoder.depth):
            out[f"blocks.{i}.gamma_1"] = torch.ones(config.encoder.width)
            out[f"blocks.{i}.gamma_2"] = torch.ones(config.encoder.width)
    return out


def timm_call(config: VisionConfig) -> tuple[str, dict[str, Any]]:
    """Return (model name, arguments) for timm.create_model.

    They build this encoder with average pooling.

    Raises:
        UserError: no model of timm computes what this encoder does.
    """
    e = config.encoder
    turns = config.position == "rope" and config.position_span != 0
    if turns and abs(config.position_span - DINOV3_SPAN) > 1e-6:
        raise UserError(
            f"model.position_span={config.position_span:g} is known to no model of timm, whose "
            f"rotary positions run by patches or, as DINOv3's, by {DINOV3_SPAN!r}"
        )
    as_dinov3 = turns and e.epsilon == DINOV3_EPSILON
    if e.epsilon != EPSILON and not as_dinov3:
        raise UserError(
            f"model.encoder.epsilon={e.epsilon:g}: timm's create_model makes its norms with "
            f"{EPSILON:g}, and DINOv3's with {DINOV3_EPSILON:g}"
        )
    sizes = dict(TIMM_SIZES)
    if config.position == "rope":
        del sizes[192, 12, 3]  # timm registers no tiny one
    size = sizes.get((e.width, e.depth, e.heads))
    arguments: dict[str, Any] = {"class_token": False, "global_pool": "avg", "num_classes": 0}
    if e.prefix:
        arguments["class_token"] = True
        registers = "num_reg_tokens" if config.position == "rope" else "reg_tokens"
        arguments |= {registers: e.prefix - 1} if e.prefix > 1 else {}
        # Their position vectors are in the tokens.
        arguments |= {} if config.position == "rope" else {"no_embed_class": True}
    if config.position == "rope":
        name = f"vit_{size or 'base'}_patch16_rope_224"
        arguments |= {
            "use_fc_norm": True,
            "rope_grid_indexing": "ij",
            "rope_temperature": config.rope_base,
        }
        arguments |= {"rope_type": "dinov3"} if turns else {}
        if as_dinov3:
            # By name the network whose norms have this epsilon, with our order of channels, biases
            # of keys, and as many registers.
            name = f"vit_{size or 'base'}_patch16_dinov3_qkvb"
            arguments |= {"rope_rotate_half": False, "attn_type": "rope"}
            arguments["num_reg_tokens"] = max(0, e.prefix - 1)
    else:
        name = f"vit_{size or 'base'}_patch16_224"
    usual = {"img_size": 224, "patch_size": 16, "mlp_ratio": 4.0}
    own: dict[str, Any] = {
        "img_size": config.size,
        "patch_size": config.patch,
        "mlp_ratio": config.mlp_ratio,
    }
    if size is None:
        own |= {"embed_dim": e.width, "depth": e.depth, "num_heads": e.heads}
    unusual = {key: value for key, value in own.items() if value != usual.get(key)}
    return name, arguments | unusual


def _renamed(name: str, back: bool = False) -> str:
    for croco, ours in CROCO_NAMES:
        old, new = (ours, croco) if back else (croco, ours)
        if name.startswith(old):
            name = new + name[len(old) :]
            break
    for croco, ours in CROCO_CROSS:
        name = name.replace(ours, croco) if back else name.replace(croco, ours)
    return name


def _convert(config: ModelConfig, name: str, value: torch.Tensor, order: Order) -> torch.Tensor:
    """A tensor under our name with the rows of its queries and keys reordered, where it has any."""
    part = name.split(".", 1)[0]
    if ".attn.qkv." in name:
        q, k, v = value.chunk(3)
        return torch.cat([_reorder(config, part, q, order), _reorder(config, part, k, order), v])
    return _reorder(config, part, value, order) if ".cross.q." in name else value


def _reorder(config: ModelConfig, part: str, rows: torch.Tensor, order: Order) -> torch.Tensor:
    """(width, ...) rows of a query or key projection, each head's reordered.

    As they are where positions are not rotary.
    """
    if config.position != "rope":
        return rows
    heads = getattr(config, part).heads
    return rows.unflatten(0, (heads, -1))[:, order(rows.shape[0] // heads)].flatten(0, 1)
