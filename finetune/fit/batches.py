"""Which people are fitted side by side."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from finetune.fit.observed import Stretch

BODIES_AT_ONCE = 64  # that are fitted side by side


def cut_batches(stretches: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    """Yield the stretches in batches of one joint set, one kind and one length."""

    def tell_kind(one: Stretch) -> tuple[str, str, int]:
        return one.joint_set, one.kind, len(one.times_s)

    for (_, _, length), group in groupby(sorted(stretches, key=tell_kind), tell_kind):
        same = list(group)
        most = max(1, BODIES_AT_ONCE // length)
        for first in range(0, len(same), most):
            yield same[first : first + most]
