"""The keys of a study. Nothing here imports torch: a typo is reported in a fraction of a second."""

import os
from dataclasses import dataclass

from engine.config.parser import key, section
from engine.errors import UserError

# What is read out of a row on each set of test clips, and the metrics of it.
READ_OUTS = {
    "finetuned": ("px", "mpjpe", "pa_mpjpe"),
    "frozen": ("mpjpe", "pa_mpjpe"),
    "two_views": ("mpjpe", "pa_mpjpe"),
    "two_views_decoder": ("mpjpe", "pa_mpjpe"),
    "relative_rotation": ("degrees",),
    "relative_rotation_decoder": ("degrees",),
    "relative_rotation_products": ("degrees",),
    "real": ("percent", "missed"),
    "real_fitted": ("percent", "missed"),
    "real_later": ("percent", "missed"),
}
REAL = "real"  # what rows and claims call the real crops, beside the names of tests
REAL_READ_OUTS = ("real", "real_fitted", "real_later")  # those of READ_OUTS that are of them alone


@dataclass
class ArmConfig:
    """Describes an arm of a study: its pre-training, its fine-tuning and its seeds."""

    pretrain: str = key(
        "",
        "keys of python -m pretrain train that make this arm, with blanks between; TRAIN: the "
        "folder of train, REAL: real.shards; with data.sources.NAME.shards train is no source "
        "unless one of them is TRAIN",
    )
    finetune: str = key(
        "", "keys of python -m finetune train that go with them, such as another model.position"
    )
    weights: str = key(
        "", "an arm whose pre-training this one shares, to be fine-tuned in another way"
    )
    teacher: str = key(
        "", "the arm whose pre-training of the same seed teaches this one (objective.name=teacher)"
    )
    scratch: bool = key(False, "no pre-training at all")
    timm: str = key(
        "",
        "a timm model's weights in place of pre-training, NAME:FILE, such as an "
        "ImageNet-supervised ViT of the "
        "same size",
    )
    compute: bool = key(False, "as many operations as the reference arm, in place of as many steps")
    equal_compute: str = key(
        "",
        "an arm whose pre-training and fine-tuning together this one, with scratch=true, spends on "
        "fine-tuning alone: its steps are raised to as many operations",
    )
    seeds: int | None = key(None, "seeds of this arm; default: as seeds=", low=0)
    shares: list[float] = key([], "label shares of this arm; default: as shares=")
    title: str = key("", "its name in tables; default: the arm's own")
    curve: str = key(
        "", "name of a curve of error against pairs; its arms differ in their steps alone"
    )
    against: str = key("", "an arm that it is compared with in a table of its own")
    mae: str = key(
        "",
        "the masked autoencoder with the same masks and steps: how much its loss is above this "
        "arm's is what the reference gives",
    )


@dataclass
class SetConfig:
    """Describes a set of synthetic clips."""

    make: str = key("", "config of python -m data make")
    keys: str = key("", "further keys of it, with blanks between")
    clips: int = key(200, "clips", low=12)


@dataclass
class RealClipsConfig:
    """Real clips that arms may learn from without labels, and that encoders are judged on."""

    shards: str = key(
        "",
        "shards of real people with found keypoints, as python -m data pairs cuts them: folders, "
        "with commas between; empty: nothing real is read",
    )


@dataclass
class ClaimConfig:
    """One of the differences that a study is run for, named before its first run."""

    arm: str = key("", "the arm whose error is said to be another than that of minus=")
    minus: str = key("", "the arm that it is compared with; default: reference=")
    test: str = key("", "the set of test clips; default: the first that is not for choosing")
    how: str = key(
        "",
        "what is read out of both arms; default: finetuned where the study fine-tunes, else frozen",
        choices=("", *READ_OUTS),
    )
    minus_how: str = key(
        "",
        "what is read out of minus= where it is something else, such as two_views of weights whose "
        "decoder attends to no second view; default: as how=",
        choices=("", *READ_OUTS),
    )
    metric: str = key(
        "",
        "default: metric= of the study",
        choices=("", *dict.fromkeys(one for metrics in READ_OUTS.values() for one in metrics)),
    )
    share: float | None = key(None, "label share; default: the first of shares=")


@dataclass(frozen=True)
class Claim:
    """A ClaimConfig with its defaults filled in; ``name`` is its key in the config."""

    name: str
    arm: str
    minus: str
    test: str
    how: str
    minus_how: str
    metric: str
    share: float

    @property
    def key(self) -> tuple:
        """What it compares, whichever of the two is taken from the other."""
        both = frozenset(((self.arm, self.how), (self.minus, self.minus_how)))
        return both, self.test, self.metric, self.share


@dataclass
class TakeConfig:
    """A real take, for ``python -m studies take``."""

    videos: str = key("", "folder of its videos")
    calibration: str = key("", "its calibration file (Qualisys)")
    track: str = key("", "where the person is in it (docs/real_clips.md)")
    every: int = key(1, "take every n-th frame", low=1)


@dataclass
class ExpectConfig:
    """What is thought of a row before the first are there."""

    seconds: float = key(300.0, "seconds that a row takes", low=0)
    spread: float = key(
        1.5,
        "standard deviation, over seeds, of the paired difference of two arms in metric=, mm",
        low=0,
    )


@dataclass
class StudyConfig:
    """Holds the keys of a study."""

    name: str = key("", "of the study: rows lie in ROWS/NAME")
    rows: str = key("studies/rows", "folder of the rows of all studies")
    work: str = key("runs/transfer", "folder for synthetic humans and runs")
    kind: str = key("body", "what the crops show", choices=("body", "hand"))
    train: SetConfig = section(SetConfig)
    tests: dict[str, SetConfig] = key(
        {}, "sets of other people, the first for the headline: tests.NAME.make=FILE"
    )
    pretrain: str = key("", "config of python -m pretrain train")
    pretrain_keys: str = key("", "further keys of it for all arms, with blanks between")
    finetune: str = key(
        "", "config of python -m finetune train; none: the frozen encoder alone is measured"
    )
    finetune_keys: str = key("", "further keys of it, with blanks between")
    arms: dict[str, ArmConfig] = key({}, "arms.NAME.pretrain=KEYS")
    reference: str = key(
        "both", "the arm that others are compared with, and whose operations compute=true means"
    )
    seeds: int = key(
        5, "seeds of an arm: initial weights, order, masks, and which clips are labelled", low=1
    )
    shares: list[float] = key([0.01], "shares of the training clips whose labels are used")
    metric: str = key("pa_mpjpe", "the metric of the headline", choices=("px", "mpjpe", "pa_mpjpe"))
    claims: dict[str, ClaimConfig] = key(
        {},
        "the differences that the study is run for, claims.NAME.arm=ARM: their p-values alone are "
        "corrected, all together, and they alone may be significant",
    )
    choose: list[str] = key(
        [], "tests that arms are chosen by, of other people than the rest; no claim is about them"
    )
    expect: ExpectConfig = section(ExpectConfig)
    real: RealClipsConfig = section(RealClipsConfig)
    take: TakeConfig = section(TakeConfig)
    lanes: int | None = key(
        None, "runs side by side; default: the cores, or one where there is a GPU", low=1
    )
    limit_s: float = key(
        0.0, "stop after so many seconds, with all saved; the same command resumes; 0: never", low=0
    )
    device: str = key(
        "auto", "auto takes a GPU where there is one", choices=("auto", "cpu", "cuda")
    )
    arm: str = key("", "of these arms alone, with commas between")

    @property
    def how(self) -> str:
        """What the headline is measured on: "finetuned" or "frozen"."""
        return "finetuned" if self.finetune else "frozen"

    @property
    def chosen(self) -> list[str]:
        """Names of the arms that arm= asks for, or all."""
        return [name for name in self.arms if not self.arm or name in self.arm.split(",")]

    @property
    def reads_real(self) -> bool:
        """Whether anything of the study is about real crops; where they are is the machine's."""
        return bool(
            self.real.shards
            or any("REAL" in arm.pretrain for arm in self.arms.values())
            or any(claim.test == REAL for claim in self.list_claims())
        )

    def list_claims(self) -> list[Claim]:
        """Return the claims, with their defaults filled in."""
        usual = next((name for name in self.tests if name not in self.choose), "")
        out = []
        for name, one in self.claims.items():
            how = one.how or self.how
            out.append(
                Claim(
                    name,
                    one.arm,
                    one.minus or self.reference,
                    one.test or (REAL if how in REAL_READ_OUTS else usual),
                    how,
                    one.minus_how or how,
                    one.metric or self._usual_metric(how),
                    self.shares[0] if one.share is None else one.share,
                )
            )
        return out

    def _usual_metric(self, how: str) -> str:
        """The metric of the headline, where a read-out has it; else the first that it has."""
        return self.metric if self.metric in READ_OUTS[how] else READ_OUTS[how][0]

    def count_seeds(self, name: str) -> int:
        """Return how many seeds an arm has."""
        own = self.arms[name].seeds
        return self.seeds if own is None else own

    def _lends(self, name: str) -> bool:
        """Whether an arm has a pre-training of its own, which others may share."""
        arm = self.arms.get(name)
        return arm is not None and not (arm.weights or arm.scratch or arm.timm)

    def check(self) -> None:
        """Raise UserError where keys do not fit together."""
        if not self.name or not self.arms or not self.tests:
            raise UserError(
                "a study wants name=, arms.NAME... and tests.NAME...: see studies/pilot.yaml"
            )
        if REAL in self.tests:
            raise UserError(f"tests.{REAL}: that is what rows call real crops; name it otherwise")
        if self.real.shards and self.kind != "body":
            raise UserError(
                f"real.shards={self.real.shards} and kind={self.kind}: keypoints of real crops are "
                f"read out of bodies alone"
            )
        for name, arm in self.arms.items():
            if arm.timm and not os.path.isfile(arm.timm.rpartition(":")[2]):
                raise UserError(
                    f"arms.{name}.timm={arm.timm} is not NAME:FILE with a file that is there"
                )
        for name in (
            self.reference,
            *(part for part in self.arm.split(",") if part),
            *(arm.against for arm in self.arms.values() if arm.against),
            *(arm.mae for arm in self.arms.values() if arm.mae),
        ):
            if name not in self.arms:
                raise UserError(f"'{name}' is none of the arms {', '.join(self.arms)}")
        for name, arm in self.arms.items():
            if arm.teacher and not self._lends(arm.teacher):
                raise UserError(
                    f"arms.{name}.teacher={arm.teacher} wants an arm with a pre-training of its own"
                )
            if arm.teacher and self.count_seeds(name) > self.count_seeds(arm.teacher):
                raise UserError(
                    f"arms.{name} has {self.count_seeds(name)} seeds and its teacher "
                    f"arms.{arm.teacher} {self.count_seeds(arm.teacher)}: each seed has one of its "
                    f"own"
                )
            if arm.teacher and arm.compute:
                raise UserError(
                    f"arms.{name} has teacher= and compute=true: how many operations its teacher "
                    f"takes is not known before it is trained; set its steps"
                )
            if arm.weights and (
                arm.pretrain
                or arm.scratch
                or arm.timm
                or arm.compute
                or not self._lends(arm.weights)
            ):
                raise UserError(
                    f"arms.{name}.weights={arm.weights} wants an arm with a pre-training of its "
                    f"own, and no "
                    f"pretrain=, scratch=true, timm= or compute=true beside it"
                )
        self._check_claims()
        self._check_compute()
        if len(set(self.shares)) < len(self.shares):
            raise UserError(
                f"shares={','.join(f'{share:g}' for share in self.shares)} names a share twice"
            )
        if not any(self.count_seeds(name) for name in self.chosen):
            raise UserError(f"arm={self.arm}: none of these arms has a seed")
        if not self.finetune and self.metric == "px":
            raise UserError("metric=px is of fine-tuned networks, and finetune= names no config")
        base = self.arms[self.reference]
        if base.scratch or base.timm or base.compute or base.weights:
            raise UserError(
                f"reference={self.reference} has scratch=true, timm=, weights= or compute=true: "
                f"those are for "
                f"arms that are compared with it"
            )
        for name, path in (
            ("pretrain", self.pretrain),
            ("finetune", self.finetune),
            ("train.make", self.train.make),
            *((f"tests.{name}.make", test.make) for name, test in self.tests.items()),
        ):
            if not os.path.isfile(path) and (path or name != "finetune"):
                raise UserError(f"{name}={path} is no file; paths count from the repository's root")
        for share in (*self.shares, *(share for arm in self.arms.values() for share in arm.shares)):
            if not 0 < share <= 1:
                raise UserError(f"a label share of {share} is not above 0 and at most 1")

    def _check_compute(self) -> None:
        """UserError where arms are to cost what another does, and it cannot be counted."""
        base = self.arms[self.reference]
        for name, arm in self.arms.items():
            if arm.compute and base.teacher:
                raise UserError(
                    f"arms.{name}.compute=true, and reference={self.reference} has "
                    f"teacher={base.teacher}: how many operations that takes in all is not known"
                )
            if not arm.equal_compute:
                continue
            key_name = f"arms.{name}.equal_compute={arm.equal_compute}"
            other = self.arms.get(arm.equal_compute)
            if other is None:
                raise UserError(f"{key_name} is none of the arms {', '.join(self.arms)}")
            if not arm.scratch:
                raise UserError(f"{key_name} is for an arm with scratch=true, and this has false")
            if not self.finetune:
                raise UserError(f"{key_name} raises fine-tuning steps, and finetune= is not set")
            if other.scratch or other.timm or other.teacher:
                raise UserError(
                    f"{key_name}: arms.{arm.equal_compute} has scratch=true, timm= or teacher=, so "
                    f"there is no pre-training of known cost to match"
                )
            for word in arm.finetune.split():
                if word.startswith("steps="):
                    raise UserError(f"{key_name} sets the steps, and arms.{name}.finetune {word}")

    def _check_claims(self) -> None:
        """UserError where a claim is about what the study has not, or chooses by."""
        for name in self.choose:
            if name not in self.tests:
                raise UserError(f"choose={name} is none of the tests {', '.join(self.tests)}")
        seen: dict[tuple, str] = {}
        for claim in self.list_claims():
            key_name = f"claims.{claim.name}"
            for word, arm in (("arm", claim.arm), ("minus", claim.minus)):
                if arm not in self.arms:
                    raise UserError(
                        f"{key_name}.{word}={arm} is none of the arms {', '.join(self.arms)}"
                    )
                shares = self.arms[arm].shares or self.shares
                if claim.share not in shares:
                    raise UserError(
                        f"{key_name}.share={claim.share:g}, and arms.{arm} has the label shares "
                        f"{', '.join(f'{share:g}' for share in shares)}"
                    )
            if (claim.arm, claim.how) == (claim.minus, claim.minus_how):
                raise UserError(f"{key_name} compares {claim.arm} with itself; set {key_name}.arm")
            if claim.test in self.choose:
                raise UserError(
                    f"{key_name}.test={claim.test}, and choose={','.join(self.choose)}: what arms "
                    f"are chosen by supports no claim; name a test of other people"
                )
            if claim.test != REAL and claim.test not in self.tests:
                raise UserError(
                    f"{key_name}.test={claim.test} is none of the tests {', '.join(self.tests)}, "
                    f"or all of them are in choose={','.join(self.choose)}"
                )
            self._check_read_outs(claim)
            if claim.key in seen:
                raise UserError(
                    f"{key_name} and claims.{seen[claim.key]} are the same difference; it counts "
                    f"once"
                )
            seen[claim.key] = claim.name

    def _check_read_outs(self, claim: Claim) -> None:
        """UserError where a claim is about a read-out that one of its arms will never have."""
        key_name = f"claims.{claim.name}"
        for word, arm, how in (
            ("how", claim.arm, claim.how),
            ("minus_how", claim.minus, claim.minus_how),
        ):
            if (claim.test == REAL) != (how in REAL_READ_OUTS):
                raise UserError(
                    f"{key_name}.{word}={how}, and {key_name}.test={claim.test}: "
                    f"{', '.join(REAL_READ_OUTS)} are of the test {REAL}, all others of tests="
                )
            if claim.metric not in READ_OUTS[how]:
                raise UserError(
                    f"{key_name}.metric={claim.metric}, and {key_name}.{word}={how} has "
                    f"{', '.join(READ_OUTS[how])}"
                )
            if how == "finetuned" and not self.finetune:
                raise UserError(f"{key_name}.{word}=finetuned, and finetune= names no config")
            spec = self.arms[arm]
            if how.endswith("_decoder") and (spec.scratch or spec.timm):
                raise UserError(
                    f"{key_name}.{word}={how}, and arms.{arm} has scratch=true or timm=: it has no "
                    f"decoder"
                )
