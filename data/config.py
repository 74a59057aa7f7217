"""The ``data.`` keys of a training run."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data.cropping.border import BORDER, check_border
from data.format.index import PAIR_KINDS
from data.format.names import decode_text, normalise
from data.loading.appearance_keys import BackgroundKeys
from data.loading.crop_pairs import CropPairRules
from data.loading.crops import CropAugmentConfig, CropRules
from data.loading.frames import FrameAugmentConfig, FrameRules
from data.sampling.pairs import PairRules
from data.storage.cache import CacheConfig
from engine.config.parser import key, section
from engine.config.train_config import TrainConfig
from engine.errors import UserError, explain, failure_of


def read_excluded(path: str, name: str) -> frozenset[str]:
    """The subjects in a file, one a line, each as data.format.names.normalise gives it.

    Args:
        name: the key that names the file, for messages.
    Raises:
        UserError: the file is missing or no text, or names nobody.
        EnvironmentFault: reading it failed.
    """
    try:
        with open(path, "rb") as file:
            text = decode_text(file.read())
    except OSError as error:
        raise failure_of(error, f"{name}={path} cannot be read: {explain(error)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}={path} is not a text file in UTF-8 or UTF-16: {error}") from None
    lines = map(normalise, text.splitlines())
    subjects = frozenset(line for line in lines if line and not line.startswith("#"))
    if not subjects:
        raise UserError(f"{name}={path} names no subject; one a line is wanted")
    return subjects


@dataclass
class SourceConfig:
    """Names one source of clips and its share in the mix."""

    shards: str = key(
        "",
        "folder, tar, glob, URL (docs/data.md), or several with commas between",
        path="several",
        resumable=True,
    )
    weight: float = key(
        1.0,
        "share in the mix, relative to the other sources that offer the same kind of pair",
        low=0,
    )


@dataclass
class KindShares:
    """Gives the share of each kind of pair in a batch."""

    cross_view: float = key(0.5, "share of cross-view pairs in every batch", low=0)
    cross_pose: float = key(0.5, "share of cross-pose pairs in every batch", low=0)

    def check(self) -> None:
        """Raise UserError where all shares are 0."""
        if not sum(self.shares()):
            raise UserError(
                "data.kinds.cross_view=0 and data.kinds.cross_pose=0: one of them must be above 0"
            )

    def shares(self) -> list[float]:
        """Return the shares, one for each of PAIR_KINDS, in that order."""
        return [getattr(self, kind) for kind in PAIR_KINDS]


@dataclass
class AugmentConfig(BackgroundKeys):
    """Sets how images are cropped, and how colours and backgrounds vary in pre-training."""

    crop_min: float = key(
        0.875, "smallest side of the random square crop, as a share of the image", low=0.1, high=1
    )
    crop_max: float = key(0.875, "largest side of it", low=0.1, high=1)
    colour: float = key(
        0.4,
        "brightness, contrast, saturation are multiplied by 1 - colour to 1 + colour",
        low=0,
        high=1,
    )
    share_colour: bool = key(
        False, "images of a pair get the same factors: colour does not tell them apart"
    )

    def check(self) -> None:
        """Raise UserError where crop_min is above crop_max; see BackgroundKeys.check."""
        super().check()
        if self.crop_min > self.crop_max:
            raise UserError(
                f"data.augment.crop_min={self.crop_min} is above "
                f"data.augment.crop_max={self.crop_max}"
            )


@dataclass
class ReadingConfig:
    """Where samples come from and how they are read: what pre-training and fine-tuning share."""

    shards: str = key(
        "",
        "shards of the only source: folder, tar, glob, URL, or several with commas between",
        path="several",
        resumable=True,
    )
    sources: dict[str, SourceConfig] = key({}, "several named sources in place of data.shards")
    val_clips: int = key(
        64,
        "validation clips: the last of each source, never trained on (at most a tenth of it)",
        low=0,
        renamed_from="held_out",
    )
    lanes: int | None = key(
        None,
        "slices of an epoch read side by side; default: batch's largest divisor up to 256",
        low=1,
    )
    pool_shards: float = key(4.0, "samples are shuffled in pools of about so many shards", low=0.01)
    workers: int | None = key(
        None,
        "processes that decode, per rank; 0: none; default: its cores less one, up to 16",
        low=0,
        high=256,
        resumable=True,
    )
    prefetch: int = key(4, "batches decoded ahead", low=1, high=64, resumable=True)
    cache: CacheConfig = section(CacheConfig, resumable=True)
    retries: int = key(
        100,
        "draws tried for a slot whose samples are bad or hold nothing that the rules want",
        low=1,
    )
    patience_s: float = key(
        120.0,
        "seconds for which a read that fails, or a server that is away, is tried again before "
        "the run stops",
        low=0,
        resumable=True,
    )
    bad_max: float = key(
        0.01,
        "share of samples with bad bytes, since the last line of the log and since the run began, "
        "at "
        "which the run stops; 1: never",
        low=0,
        high=1,
        resumable=True,
    )
    exclude: str = key(
        "",
        "file of subjects, one a line, whose clips are never read: for people who withdraw their "
        "consent",
        path="one",
    )
    border: str = key(
        BORDER, "what crops show beyond their images' edges; kept with the run, black is the only"
    )

    def check(self) -> None:
        """Raise UserError where keys do not fit each other; see engine.config.parser.parse."""
        check_border(self.border, "data.border")
        if bool(self.shards) == bool(self.sources):
            given = "both are set" if self.shards else "neither is set"
            raise UserError(
                f"set data.shards=DIR, or data.sources.NAME.shards=DIR for several; {given}"
            )
        for name, source in self.sources.items():
            if not source.shards:
                raise UserError(f"data.sources.{name}.shards is not set")

    def excluded(self) -> frozenset[str]:
        """Return the frozenset of the subjects that are left out.

        Raises:
            UserError: the file cannot be read, or names nobody.
        """
        return read_excluded(self.exclude, "data.exclude") if self.exclude else frozenset()

    def named(self) -> dict[str, SourceConfig]:
        """{name: SourceConfig}, also where data.shards names the only one."""
        return self.sources or {"all": SourceConfig(self.shards)}


@dataclass
class WidenConfig:
    """Sets how pairs get harder: from near views and short gaps to all that data.pairs takes."""

    steps: int = key(
        0,
        "steps over which the largest angle and gap grow to data.pairs'; 0: from the first",
        low=0,
    )
    angle_deg: float = key(
        30.0, "largest angle of the first step, where data.pairs.angle_max_deg is larger", low=0
    )
    gap_s: float = key(
        0.2, "largest gap of the first step, where data.pairs.gap_max_s is larger", low=0
    )

    def narrow(self, rules: PairRules, step: int) -> PairRules:
        """The rules of a step: their largest angle and gap grow linearly with the steps."""
        if step >= self.steps:
            return rules
        share = step / self.steps
        angle, gap = min(self.angle_deg, rules.angle_max_deg), min(self.gap_s, rules.gap_max_s)
        return replace(
            rules,
            angle_max_deg=angle + share * (rules.angle_max_deg - angle),
            gap_max_s=gap + share * (rules.gap_max_s - gap),
        )


@dataclass
class DataConfig(ReadingConfig):
    """Pairs, for pre-training."""

    kinds: KindShares = section(KindShares)
    pairs: PairRules = section(PairRules)
    augment: AugmentConfig = section(AugmentConfig)
    widen: WidenConfig = section(WidenConfig)

    def check(self) -> None:
        """Raise UserError where the first steps would have no pair by the rules."""
        super().check()
        usual = WidenConfig(steps=self.widen.steps)
        if not self.widen.steps and self.widen != usual:
            raise UserError(
                f"data.widen.angle_deg={self.widen.angle_deg:g} and "
                f"data.widen.gap_s={self.widen.gap_s:g}, but data.widen.steps=0: pairs do not widen"
            )
        for name, first, least in (
            ("angle_deg", self.widen.angle_deg, self.pairs.angle_min_deg),
            ("gap_s", self.widen.gap_s, self.pairs.gap_min_s),
        ):
            if self.widen.steps and first < least:
                raise UserError(
                    f"data.widen.{name}={first:g} is below data.pairs."
                    f"{name.replace('_', '_min_')}={least:g}: the first steps would have no pair"
                )


@dataclass
class CropDataConfig(ReadingConfig):
    """Labelled crops, for fine-tuning."""

    rules: CropRules = section(CropRules)
    augment: CropAugmentConfig = section(CropAugmentConfig)


@dataclass
class CropPairDataConfig(CropDataConfig):
    """Pairs of labelled crops, for fine-tuning on two views."""

    pairs: CropPairRules = section(CropPairRules)


@dataclass
class FrameDataConfig(ReadingConfig):
    """Whole frames with everybody in them, for fine-tuning."""

    rules: FrameRules = section(FrameRules)
    augment: FrameAugmentConfig = section(FrameAugmentConfig)


@dataclass
class ClipTrainConfig(TrainConfig):
    """Keys of a training on clips; a subclass has the section ``data``, of what it reads."""

    if TYPE_CHECKING:
        data: ReadingConfig = section(ReadingConfig)
