"""How well joints in 3D are read off a frozen timm encoder.

    python examples/probe_timm.py OUT [SHARDS [NAME:FILE]]

Without a file of weights they are random; without shards synthetic humans are made.
"""

import sys
from pathlib import Path

import timm
import torch

from data.people.make import main as make_people
from data.storage.shard_store import Store
from engine.distributed.process_group import Processes
from pretrain import encoders, probe
from pretrain.probe_split import read_split

NAME = "vit_tiny_patch16_224"
CLIPS = 24
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
shards = sys.argv[2] if len(sys.argv) > 2 else f"{out}/shards"
if len(sys.argv) < 3:
    made = ["clips=24", "size=64", "cameras=2", "clips_per_shard=8"]
    make_people([str(CONFIGS / "data/people_body_easy.yaml"), f"out={shards}", *made])
weights = sys.argv[3] if len(sys.argv) > 3 else f"{NAME}:{out}/random.pth"
if len(sys.argv) < 4:
    torch.manual_seed(0)
    torch.save(timm.create_model(NAME).state_dict(), out / "random.pth")

cpu = torch.device("cpu")
split = read_split(shards, CLIPS, "body", Store(None))
found = probe.features(encoders.from_timm(weights, cpu), split, "body", Processes(0, 1, cpu))
for name, numbers in (
    ("mean pose", probe.score(split, None)),
    (weights, probe.score(split, found)),
):
    print(f"{name}: MPJPE {numbers['mpjpe'].mean():.1f} mm over {len(numbers['mpjpe'])} crops")
