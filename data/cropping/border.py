"""What a crop shows beyond the edges of its image: black, wherever a square is cut out of it.

The one rule of data.cropping.host, of data.cropping.batch and of small crops among large ones
(data.loading.reader): a network that is trained on one kind of border and asked about another errs
on everybody who stands at the edge. Black, because repeated border pixels look like content, and a
network learns to paint streaks. Between the outermost pixels' centres and the edge, interpolation
mixes with that black.

Clips (``border`` in their JSON), runs (``data.border``) and weights (``input`` in their header) say
which rule they follow.
"""

from engine.errors import UserError

BORDER = "black"  # how clips, runs and weights call the rule
BLACK = 0  # of uint8 and of floats in [0, 1], so before normalisation
PADDING = "zeros"  # how torch's grid_sample calls it


def check_border(border: object, where: object) -> None:
    """Raise UserError where crops follow another border rule than this software's.

    Args:
        border: what a clip, a run or weights say.
        where: who says it, for the message.
    """
    if border != BORDER:
        raise UserError(
            f"{where}: its crops show border={border} beyond their images' edges, this software's "
            f"show {BORDER}; cut them again with this version"
        )
