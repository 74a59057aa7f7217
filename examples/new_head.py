"""A head of one's own, trained for a few steps: python examples/new_head.py OUT [SHARDS]

In the checkout it would be a file, finetune/heads/NAME.py: see CONTRIBUTING.md.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from data.bodies.base import BodyModel
from data.people.make import main as make_people
from engine.config.parser import parse
from finetune.config import FinetuneConfig, HeadConfig
from finetune.heads.base import HEADS, Head, Prediction, pose_body
from finetune.means import Means, Offsets, add_offsets
from finetune.train import train
from pretrain.config import VisionConfig


@HEADS.register("two_layers")
class TwoLayers(Head):
    """The mean token, two layers, and offsets from the mean body."""

    has_parameters = True

    def __init__(self, config: VisionConfig, head: HeadConfig, body: BodyModel) -> None:
        super().__init__()
        self.counts = [6 * len(body.joint_names), len(body.shape_space.names), 3]
        self.hidden = nn.Linear(config.encoder.width, head.width)
        self.answer = nn.Linear(head.width, sum(self.counts))
        nn.init.zeros_(self.answer.weight)  # the first answers are the means
        nn.init.zeros_(self.answer.bias)

    def forward(
        self, features: torch.Tensor, K: torch.Tensor, size: int, means: Means, body: BodyModel
    ) -> Prediction:
        """Predict the people of images; see finetune.heads.base.Head."""
        hidden = nn.functional.gelu(self.hidden(features.mean(1)))
        answer = self.answer(hidden).float()
        with torch.autocast(features.device.type, enabled=False):  # bf16 would turn bodies
            offsets = Offsets(*answer.split(self.counts, 1))
            found = add_offsets(means, offsets, K, size, body.shape_space, body.name)
        return pose_body(body, found)


CONFIGS = Path(__file__).resolve().parent.parent / "configs"
out = Path(sys.argv[1])
shards = sys.argv[2] if len(sys.argv) > 2 else f"{out}/shards"
if len(sys.argv) < 3:
    made = ["clips=24", "size=64", "cameras=2", "clips_per_shard=8"]
    make_people([str(CONFIGS / "data/people_body_easy.yaml"), f"out={shards}", *made])
config = parse(
    FinetuneConfig,
    [str(CONFIGS / "finetune/demo_body.yaml"), f"run={out}/run", f"data.shards={shards}"]
    + ["head.name=two_layers", "data.val_clips=4", "data.workers=0", "batch=8", "steps=10"]
    + ["optim.warmup=2", "log.every=5", "log.val_every=5", "log.val_clips=2"]
    + ["log.images_every=0", "log.wandb=off", "device=cpu"],
    "finetune train",
)
sys.exit(train(config))
