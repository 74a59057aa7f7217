"""The keys of ``python -m finetune train``. Nothing here imports torch: a typo is told in a fraction of a second."""

from dataclasses import dataclass

from data.config import CropDataConfig
from engine.config import key, section
from engine.errors import UserError
from engine.options import LogConfig, TrainConfig
from pretrain.config import VisionConfig

BODY_MODELS = {"body": "anny", "hand": "anny_hand"}  # what is recovered from crops of a kind


@dataclass
class HeadConfig:
    width: int = key(256, "channels of a query", low=8)
    depth: int = key(2, "decoder layers in which queries look at tokens; 0: the read-out alone", low=0)
    heads: int = key(4, "attention heads", low=1)
    readout: int = key(16, "channels of a token in the read-out", low=1)

    def check(self):
        if self.width % self.heads or self.width % 4:
            raise UserError(f"head.width={self.width} is not a multiple of 4 and of head.heads={self.heads}")


@dataclass
class LossConfig:
    rotation: float = key(0.5, "weight of rotation matrices, squared", low=0)
    shape: float = key(0.5, "weight of shape parameters, squared", low=0)
    joints: float = key(5.0, "weight of joints about the root, metres", low=0)
    vertices: float = key(5.0, "weight of vertices about the root, metres", low=0)
    projected: float = key(5.0, "weight of keypoints in the picture, over its side", low=0)
    place: float = key(1.0, "weight of the root's offset in the picture and of the log of its depth", low=0)
    mesh: int = key(256, "vertices of the coarse mesh that is compared in training", low=16)

    def check(self):
        if not any((self.rotation, self.shape, self.joints, self.vertices, self.projected, self.place)):
            raise UserError("all weights of loss. are 0: one of them must be above")


@dataclass
class FinetuneLogConfig(LogConfig):
    held_out_clips: int = key(32, "held-out clips whose errors are followed", low=1)
    pictures: int = key(6, "held-out crops that are drawn", low=1)


@dataclass
class FinetuneConfig(TrainConfig):
    model: VisionConfig = section(VisionConfig)
    head: HeadConfig = section(HeadConfig)
    loss: LossConfig = section(LossConfig)
    data: CropDataConfig = section(CropDataConfig)
    log: FinetuneLogConfig = section(FinetuneLogConfig)
    margin: float = key(1.35, "for predict: side of a crop over the longer side of the box, as in the shards", low=1, high=4)
    encoder_lr: float = key(1.0, "the encoder's learning rate over the head's; 0 leaves it as it is", low=0)

    def evaluation(self, checkpoint):
        # Without shards of their own the run's are read, and who trains on a command's output may evaluate on it.
        shards = [f"data.shards={self.evaluate.shards}"] if self.evaluate.shards else ["allow_commands=true"]
        return ["finetune", "evaluate", f"run={checkpoint}", *shards, f"device={self.device}", *self.evaluate.keys, "log=true"]

    @property
    def body_model(self):
        return BODY_MODELS[self.data.rules.crops]
