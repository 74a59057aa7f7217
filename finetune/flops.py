"""What a fine-tuning step costs, counted as pre-training counts its own."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from finetune.config import DEFAULT_TASK, FinetuneConfig


@torch.no_grad()
def count_crop_flops(config: FinetuneConfig) -> float | None:
    """Return the floating-point operations of a crop's training step, or None: not known.

    Matrix products alone, a multiply-add counted as two, and backward as twice forward, as
    pretrain.model.flops has it: of the encoder, the head and the coarse body model that it poses.
    The encoder has no backward where it is frozen. They are counted as torch computes one image;
    no data are read.

    Not known are other tasks than mesh recovery, and runs whose steps differ or do more than one
    pass: head_first_steps, robust.share, fit_every.
    """
    more = config.head_first_steps or config.robust.share or config.fit_every
    if config.task != DEFAULT_TASK or more:
        return None
    body = config.open_body()
    with torch.random.fork_rng(devices=[]):  # first values are drawn, and are of no use
        model = config.make_network(body).eval()
    rows, columns = (side * config.model.patch for side in config.model.grid())
    image = torch.zeros(1, 3, rows, columns)
    side = float(max(rows, columns))
    K = torch.tensor([[[side, 0.0, columns / 2], [0.0, side, rows / 2], [0.0, 0.0, 1.0]]])
    with FlopCounterMode(display=False) as encoded:
        model.make_tokens(image, K)
    with FlopCounterMode(display=False) as whole:
        model(image, K, body.coarse(config.coarse_vertices))
    encoder, everything = encoded.get_total_flops(), whole.get_total_flops()
    return float(3 * (everything - encoder) + (3 if config.encoder_lr_mult else 1) * encoder)
