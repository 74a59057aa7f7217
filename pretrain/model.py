"""The network: one encoder for both images, and a decoder.

The decoder completes the first with the help of the second.

    a, masked  --visible tokens-->  encoder  --+
                                               +-->  decoder  -->  pixels of the masked patches
    b, whole   ----all tokens---->  encoder  --+

After CroCo (arXiv 2210.10716: sine-cosine positions) and CroCo v2 (arXiv 2211.10408: rotary
positions). The encoder computes what timm's VisionTransformer or Eva without a class token does,
and its weights go and come under timm's names.
"""

import abc
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from engine.errors import UserError
from pretrain.blocks import CrossAttention, Decoder, EncoderBlock, stop_gradient, take
from pretrain.embedding import Embedding
from pretrain.geometry import VALUES
from pretrain.gradients import count_values
from pretrain.position import resample, rope_table, sincos_table

if TYPE_CHECKING:
    from pretrain.config import DecoderConfig, EncoderConfig, ModelConfig, VisionConfig


class PatchEmbed(nn.Module):
    """A convolution by its weights and name, for timm's sake.

    Computed as a matrix product of the patches that are wanted.
    """

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, images: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3, H, W) -> (B, N, C) of all patches, or (B, V, C) of those in ``keep`` (B, V)."""
        patch = self.proj.kernel_size[0]
        patches = rearrange(
            images, "b c (rows p) (columns q) -> b (rows columns) (c p q)", p=patch, q=patch
        )
        patches = patches if keep is None else take(patches, keep)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Encoder(nn.Module):
    """The ViT of a VisionConfig: no head, no layer scale.

    Its weights have timm's names and shapes. ``prefix`` holds what stands before the patches and is
    attended to, the class token and registers of others, their position vectors included.
    """

    def __init__(self, config: "VisionConfig") -> None:
        super().__init__()
        part = config.encoder
        self.rotary = config.position == "rope"
        self.patch_embed = PatchEmbed(config.patch, part.width)
        self.learnt = config.position == "learnt"
        self.grid = config.grid()
        if not self.rotary:
            vectors = table(config, part, self.grid)[None]
            if self.learnt:
                self.pos_embed = nn.Parameter(vectors)
            else:
                # A buffer: saved under timm's name, and no optimizer can move it or let it decay.
                self.register_buffer("pos_embed", vectors)
        self.register_parameter("prefix", None)
        if part.prefix:
            self.prefix = nn.Parameter(0.02 * torch.randn(1, part.prefix, part.width))
        self.blocks = nn.ModuleList(
            EncoderBlock(part.width, part.heads, config.mlp_ratio, part.epsilon)
            for _ in range(part.depth)
        )
        self.norm = nn.LayerNorm(part.width, part.epsilon)

    def forward(
        self, images: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features of the patches after the last norm.

        Args:
            images: (B, 3, H, W) normalised.  positions: table(config, config.encoder, grid of the
                images), in whose place learnt vectors are taken where there are some.
            keep: (B, V) long, the patches to encode, or None for all.
        Returns:
            (B, V or N, C).
        """
        x, rope, count = self._embed(images, positions, keep)
        for block in self.blocks:
            x = block(x, rope)
        return self.norm(x)[:, count:]

    def read_layers(
        self, images: torch.Tensor, positions: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns (features, those after each of some blocks, all after the last norm).

        Args:
            images, positions: as ``forward`` has them.  layers: numbers of blocks, from 0.
        """
        x, rope, count = self._embed(images, positions, None)
        found = {}
        for number, block in enumerate(self.blocks):
            x = block(x, rope)
            if number in layers:
                found[number] = self.norm(x)[:, count:]
        return self.norm(x)[:, count:], [found[number] for number in layers]

    def _embed(
        self, images: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        """What the first block takes, the rotations that all take, and how many stand before."""
        x = self.patch_embed(images, keep)
        # The sum that runs through the blocks stays in float32 under autocast.
        x = x.to(self.norm.weight.dtype)
        if self.learnt:
            side = self.patch_embed.proj.kernel_size
            grid = images.shape[-2] // side[0], images.shape[-1] // side[1]
            positions = resample(self.pos_embed, self.grid, grid)[0]
        positions = positions if keep is None else positions[keep]
        x = x if self.rotary else x + positions
        rope = positions if self.rotary else None
        count = 0
        if self.prefix is not None:
            count = self.prefix.shape[1]
            x = torch.cat([self.prefix.to(x.dtype).expand(len(x), -1, -1), x], 1)
            rope = None if rope is None else _keep_still(rope, count)
        return x, rope, count


def _keep_still(rope: torch.Tensor, count: int) -> torch.Tensor:
    """Rotations (..., T, C / 2, 2) of a rope table after ``count`` that rotate by nothing."""
    still = torch.zeros_like(rope[..., :1, :, :])
    still[..., 0] = 1
    shape = [-1] * rope.ndim
    shape[-3] = count
    return torch.cat([still.expand(shape), rope], -3)


def table(
    config: "VisionConfig", part: "EncoderConfig | DecoderConfig", grid: tuple[int, int]
) -> torch.Tensor:
    """Position table of a part (encoder or decoder) for a grid of (rows, columns) patches.

    See pretrain/position.py. Of learnt positions it is what they begin from.
    """
    span = config.position_span
    if config.position == "rope":
        return rope_table(grid, part.width // part.heads, config.rope_base, span)
    return sincos_table(grid, part.width, span)


class PairNetwork(nn.Module, abc.ABC):
    """What the network of every objective has.

    Attributes:
        config: its shape.  encoder.  grid: (rows, columns) of patches at the config's image_size.
        patches: as many.
    """

    config: "ModelConfig"
    encoder: Encoder
    grid: tuple[int, int]
    patches: int

    @abc.abstractmethod
    def encode(self, a: torch.Tensor) -> torch.Tensor:
        """Return (B, N, C) features of all patches of images after the encoder's last norm."""


class CrossCompletion(PairNetwork):
    """Completes masked patches of ``a`` from the rest of ``a`` and from ``b``.

    Images are (B, 3, H, W) floats, normalised; H and W are any multiples of the patch. N = rows *
    columns patches are counted row by row; P is the side of a patch in pixels; a prediction's
    values are ordered row, column, channel.

    Attributes:
        config: the ModelConfig.  grid: (rows, columns) of patches at its image_size.  patches: N
            there.
        embedding: the head that says whole images, or None.
    """

    def __init__(self, config: "ModelConfig") -> None:
        super().__init__()
        config.check()
        self.config = config
        self.grid = config.grid()
        self.patches = self.grid[0] * self.grid[1]
        self.encoder = Encoder(config)
        part = config.decoder
        self.decoder = Decoder(
            config.encoder.width,
            part.width,
            part.depth,
            part.heads,
            config.mlp_ratio,
            3 * config.patch**2,
            rotary=config.position == "rope",
            cross=part.cross,
            self_attention=part.self_attention,
            more_outputs=list_outputs(config),
        )
        # The tables of the usual size are kept on the device; they follow from the config, so they
        # are not saved.
        self.register_buffer(
            "_encoder_table", table(config, config.encoder, self.grid), persistent=False
        )
        self.register_buffer(
            "_decoder_table", table(config, config.decoder, self.grid), persistent=False
        )
        self.apply(initialise)
        nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.view(config.encoder.width, -1))
        nn.init.normal_(self.decoder.mask_token, std=0.02)
        for layer in self.decoder.blocks.modules():
            # Keys and values are one matrix here and two in CroCo: each half is drawn as a matrix
            # of its own.
            if isinstance(layer, CrossAttention):
                for half in layer.kv.weight.chunk(2):
                    nn.init.xavier_uniform_(half)
        # Last, so that the rest begins as it does without.
        self.embedding = None
        if config.embedding.points:
            self.embedding = Embedding(config.encoder.width, self.patches, config.embedding)
            self.embedding.apply(initialise)

    def forward(
        self, a: torch.Tensor, b: torch.Tensor | None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A prediction for every patch.

        Args:
            mask: (B, N) bool, true where ``a`` is masked, equally often in each row; None: nothing
                is.
        Returns:
            (B, N, P*P*3), in the order of the patches.
        Raises:
            UserError: sizes that do not fit, rows with different counts of masked patches.
        """
        grid = self._grid(a, b)
        keep, masked = _split(mask, len(a), grid[0] * grid[1], a.device)
        features = self._decode(a, b, keep, masked, grid, masked_only=False)
        back = torch.cat([keep, masked], 1).argsort(1)
        return self.decoder.head(take(features, back))

    def features(
        self, a: torch.Tensor, b: torch.Tensor | None, reference: bool = True
    ) -> torch.Tensor:
        """Return the decoder's features of ``a`` with nothing masked, after its last norm.

        (B, N, decoder width). Without ``reference`` a decoder that attends to one passes over that.
        """
        grid = self._grid(a, b)
        keep, masked = _split(None, len(a), grid[0] * grid[1], a.device)
        if not reference:
            return self._join(self._encode(a, grid), None, keep, masked, grid, False, None)
        return self._decode(a, b, keep, masked, grid, masked_only=False)

    def complete(
        self,
        a: torch.Tensor,
        b: torch.Tensor | None,
        keep: torch.Tensor,
        masked: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The training path: a prediction for the masked patches alone.

        No shape depends on data and nothing waits for the device.

        Args:
            a: (B, 3, H, W).
            b: (R, 3, H, W) with B = R * K: targets i*K to i*K + K-1 share reference i, which is
                encoded once. None where ``decoder.cross`` is false, here as elsewhere.
            keep: (B, V) long, visible patches.  masked: (B, M) long, the others; V + M = N.
            seen: (R, L) long, the patches of the references that are attended to; None: all.
        Returns:
            (B, M, P*P*3 and what ``list_outputs`` adds), in the order of ``masked``.
        """
        grid = self._masked_grid(a, b, keep, masked)
        return self.decoder.read(
            self._decode(a, b, keep, masked, grid, masked_only=True, seen=seen)
        )

    def complete_both(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        keep: torch.Tensor,
        masked: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``complete`` with the help of the references, and without: a is encoded once.

        Args:
            all: as ``complete`` has them.
        Returns:
            what ``complete`` gives, twice.
        """
        grid = self._masked_grid(a, b, keep, masked)
        visible, reference = self._encode(a, grid, keep), self._encode_reference(b, grid, seen)
        helped = self._join(visible, reference, keep, masked, grid, True, seen)
        alone = self._join(visible, None, keep, masked, grid, True, None)
        return self.decoder.read(helped), self.decoder.read(alone)

    def complete_and_embed(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        keep: torch.Tensor,
        masked: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``complete``, and both images as the head ``embedding`` says them.

        Of a its visible patches are read, of b those in ``seen``.

        Args:
            all: as ``complete`` has them; b is read without cross-attention too.
        Returns:
            (what ``complete`` gives, (B, G, 3) of a, (R, G, 3) of b).
        """
        if self.embedding is None:
            raise UserError("model.embedding.points=0: there is no head that says whole images")
        grid = self._masked_grid(a, b, keep, masked)
        visible, reference = self._encode(a, grid, keep), self._encode(b, grid, seen)
        attended = reference if self.config.decoder.cross else None
        features = self._join(visible, attended, keep, masked, grid, True, seen)
        points = self.embedding(visible, keep), self.embedding(reference, seen)
        return self.decoder.read(features), *points

    def _masked_grid(self, a, b, keep, masked):
        """The grid of images whose patches are all either visible or masked."""
        grid = self._grid(a, b)
        if keep.shape[1] + masked.shape[1] != grid[0] * grid[1]:
            raise UserError(
                f"{keep.shape[1]} visible and {masked.shape[1]} masked patches; an image has "
                f"{grid[0] * grid[1]}"
            )
        return grid

    def encode(self, a: torch.Tensor) -> torch.Tensor:
        """(B, N, C) features of all patches after the encoder's last norm."""
        return self._encode(a, self._grid(a))

    def _encode(self, images, grid, keep=None):
        return self.encoder(images, self._tables(grid)[0], keep)

    def _encode_reference(self, images, grid, keep=None):
        """``_encode``, without gradient where ``decoder.reference_gradient`` is false."""
        learns = self.config.decoder.reference_gradient
        with contextlib.nullcontext() if learns else stop_gradient():
            return self._encode(images, grid, keep)

    def _decode(self, a, b, keep, masked, grid, masked_only, seen=None):
        if b is None and self.config.decoder.cross:
            raise UserError("b is None, and model.decoder.cross=true attends to it")
        visible = self._encode(a, grid, keep)
        reference = None
        if self.config.decoder.cross:
            reference = self._encode_reference(b, grid, seen)
        return self._join(visible, reference, keep, masked, grid, masked_only, seen)

    def _join(self, visible, reference, keep, masked, grid, masked_only, seen):
        """Features of the decoder, given the tokens of a and of the reference."""
        order = torch.cat([keep, masked], 1)
        return self.decoder(visible, reference, order, self._tables(grid)[1], masked_only, seen)

    def _tables(self, grid):
        """Position tables of encoder and decoder.

        Other grids than the usual one are computed when they come.
        """
        if grid == self.grid:
            return self._encoder_table, self._decoder_table
        return [
            table(self.config, part, grid).to(self._encoder_table.device)
            for part in (self.config.encoder, self.config.decoder)
        ]

    def _grid(self, a, b=None):
        patch = self.config.patch
        height, width = a.shape[-2:]
        if a.ndim != 4 or a.shape[1] != 3:
            raise UserError(f"images of shape {tuple(a.shape)}; (B, 3, H, W) is wanted")
        if height % patch or width % patch:
            raise UserError(
                f"images of {height} x {width} px; both must be multiples of model.patch={patch}"
            )
        if b is not None and (b.shape[1:] != a.shape[1:] or len(a) % max(1, len(b))):
            raise UserError(
                f"images a {tuple(a.shape)} and references b {tuple(b.shape)} do not fit each other"
            )
        return height // patch, width // patch


def list_outputs(config: "ModelConfig") -> dict[str, int]:
    """{name: values} that are said of a masked patch beside its pixels, in their order."""
    part, out = config.decoder, {}
    if part.gradients:
        out["gradients"] = count_values(config.patch, part.gradients)
    if part.latents:
        out["latents"] = part.latents
    out |= {name: count for name, count in VALUES.items() if name in part.geometry}
    return out


def initialise(module: nn.Module) -> None:
    """Initialise a module as MAE and CroCo do.

    Xavier's uniform for matrices, zero for biases, norms left at one and zero.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _split(mask, batch, tokens, device):
    """A mask as (keep (B, V), masked (B, M)), both in ascending order."""
    if mask is None:
        mask = torch.zeros(batch, tokens, dtype=torch.bool, device=device)
    if tuple(mask.shape) != (batch, tokens):
        raise UserError(
            f"a mask of shape {tuple(mask.shape)} for {batch} images of {tokens} patches"
        )
    counts = mask.sum(1)
    least, most = int(counts.min()), int(counts.max())
    if least != most:
        raise UserError(
            f"the mask hides {least} patches of one image and {most} of another; the counts must "
            f"be equal"
        )
    order = mask.int().argsort(dim=1, stable=True)
    return order[:, : tokens - most], order[:, tokens - most :]
