"""A tiny pre-training on synthetic humans: python examples/pretrain_tiny.py OUT [SHARDS]"""

import sys
from pathlib import Path

from data.people.make import main as make_people
from engine.config.parser import parse
from pretrain import load
from pretrain.config import PretrainConfig
from pretrain.train import train

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

out = Path(sys.argv[1])
shards = sys.argv[2] if len(sys.argv) > 2 else f"{out}/shards"
if len(sys.argv) < 3:
    made = ["clips=24", "size=64", "cameras=2", "clips_per_shard=8"]
    make_people([str(CONFIGS / "data/people_body_easy.yaml"), f"out={shards}", *made])

config = parse(
    PretrainConfig,
    [str(CONFIGS / "pretrain/demo_body.yaml"), f"run={out}/run", f"data.shards={shards}"]
    + ["data.val_clips=4", "data.workers=0", "batch=8", "steps=20", "optim.warmup=2"]
    + ["log.val_every=10", "log.val_pairs=4", "log.images_every=0", "log.wandb=off", "device=cpu"],
    "pretrain train",
)
code = train(config)  # the same command resumes a run that was stopped
if code == 0:
    model = load(config.run)
    count = sum(weight.numel() for weight in model.encoder.parameters())
    print(f"an encoder of {count} parameters: {config.run}")
sys.exit(code)
