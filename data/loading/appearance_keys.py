"""The keys of strong appearance augmentation, and how many random numbers a slot draws for it.

Workers of the loader read these; what the numbers do is in data/loading/appearance.py.
"""

from dataclasses import dataclass

from engine.config.parser import key
from engine.errors import UserError

# Uniform numbers of a slot, where any key is on: columns of the array "look".
BACKGROUND = slice(0, 16)
OCCLUDER = slice(16, 52)
TRUNCATE = slice(52, 56)
DEGRADE = slice(56, 76)
TONE = slice(76, 84)
DRAWS = 84
PROMPT = slice(DRAWS, DRAWS + 3 + 4 * 21)  # where keypoints are given: three, and four a keypoint
# Of a person who is given as keypoints alone: thirteen for the pose and the crop, then as PROMPT.
LIFT = 13
LIFT_DRAWS = LIFT + PROMPT.stop - PROMPT.start
MASK_DRAWS = 13  # where outlines are given: the last ones; see finetune/masks.py


@dataclass
class BackgroundKeys:
    """Sets how often what is behind a person is replaced, and by what."""

    background_share: float = key(
        0.0,
        "share of images whose background is replaced behind the person's mask; images whose "
        "person is not known stay as they are",
        low=0,
        high=1,
    )
    backgrounds: str = key(
        "",
        "folder of photographs that half of the replaced backgrounds are cut from; without it they "
        "are pieces of the batch's other images, and drawn ones",
        path="one",
    )

    def check(self) -> None:
        """Raise UserError for photographs that nobody would be put before."""
        if self.backgrounds and not self.background_share:
            raise UserError(
                f"data.augment.backgrounds={self.backgrounds}, but "
                "data.augment.background_share=0: set the share of images whose "
                "background is replaced"
            )

    @property
    def draws(self) -> int:
        """Uniform numbers that a slot draws for these keys: 0 where all are off."""
        return DRAWS if self.background_share else 0


@dataclass
class AppearanceKeys(BackgroundKeys):
    """Adds what hides parts of a person, and what spoils an image."""

    occluder_share: float = key(
        0.0,
        "share of crops with one to three shapes over them, which hide at most half of the person",
        low=0,
        high=1,
    )
    truncate_share: float = key(
        0.0,
        "share of crops of which a band along one or two sides is black, as beyond an image's edge",
        low=0,
        high=1,
    )
    degrade_share: float = key(
        0.0,
        "share of crops that are blurred, that are made small and large again, that get noise, and "
        "that get blocks as of a strong compression; each is drawn by itself",
        low=0,
        high=1,
    )
    tone: float = key(
        0.0,
        "red, green and blue are multiplied by 1 - tone to 1 + tone each, and mid-tones are raised "
        "or lowered by up to half of it",
        low=0,
        high=0.5,
    )
    hue_deg: float = key(0.0, "largest rotation of hues either way", low=0, high=180)
    grey_share: float = key(0.0, "share of crops without colour", low=0, high=1)
    prompt_share: float = key(
        0.0,
        "share of crops whose head is given keypoints, as a detector finds them (head.prompts)",
        low=0,
        high=1,
    )
    mask_share: float = key(
        0.0,
        "share of crops whose head is given the person's outline, as a detector finds it "
        "(head.prompt_mask)",
        low=0,
        high=1,
    )
    lifted: int = key(
        0,
        "people more a crop that the head learns from by their keypoints alone, without an image: "
        "poses of the shards' labels, turned anyhow",
        low=0,
        high=64,
    )
    lifted_clips: int = key(20000, "clips whose labels they are drawn from", low=1)

    def check(self) -> None:
        """Raise UserError for people of keypoints alone and a head that is given none."""
        super().check()
        if self.lifted and not self.prompt_share:
            raise UserError(
                f"data.augment.lifted={self.lifted} people are keypoints alone, and "
                "data.augment.prompt_share=0 gives the head none"
            )

    @property
    def draws(self) -> int:
        """Uniform numbers that a slot draws for these keys: 0 where all are off."""
        on = (
            self.background_share,
            self.occluder_share,
            self.truncate_share,
            self.degrade_share,
            self.tone,
            self.hue_deg,
            self.grey_share,
        )
        count = DRAWS if any(on) else 0
        if self.prompt_share:
            count = self.stop_lifted
        return max(count, DRAWS) + MASK_DRAWS if self.mask_share else count

    @property
    def stop_lifted(self) -> int:
        """Where the numbers of people without an image end, which begin at PROMPT.stop."""
        return PROMPT.stop + self.lifted * LIFT_DRAWS
