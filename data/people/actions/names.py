"""What people who act do, and how often."""

WALKS = ("walk", "run")
# How often each of the others is, by what it takes: of the arms, head and weight alone, or of all.
STANDING = {
    "stand": 2.5,
    "look": 0.7,
    "wave": 0.8,
    "clap": 0.6,
    "reach": 2.0,
    "lift_arms": 0.7,
}
MOVING = {
    "stretch": 0.5,
    "dance": 0.8,
    "bow": 0.4,
    "sit": 1.8,
    "pick_up": 1.5,
    "squat": 0.9,
    "lunge": 0.7,
    "raise_knee": 0.6,
    "throw": 0.9,
    "kick": 0.9,
    "punch": 0.6,
    "jump": 0.9,
    "jacks": 0.6,
    "hop": 0.4,
    "turn": 0.8,
    "sidestep": 0.4,
}
ACTIONS = (*WALKS, *STANDING, *MOVING)
UPRIGHT_ACTIONS = ("walk", *STANDING)
