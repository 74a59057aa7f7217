"""What two views of one instant tell together: a further read-out of a row's frozen weights.

Crops of one instant by two cameras, of the clips that the frozen read-out has. A ridge regression
takes both views' encoder features, side by side, to the joints of the first in its camera's frame,
and to the rotation from the first camera to the second. Where the weights have a decoder that
attends to the other view, its features of the first with the second are read in the same way.

A sum of what two views say cannot turn one orientation back by the other: that is a product. So the
rotation is read off products of the two views' features as well.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.loading.reader import BadSample, NoPair
from data.sampling.order import PAIR, numbers
from engine.distributed.process_group import Processes
from engine.geometry import matrix_to_axis_angle
from engine.pose_metrics import mpjpe, pa_mpjpe
from pretrain import probe, ridge
from pretrain.encoders import Frozen
from pretrain.model import CrossCompletion
from pretrain.probe_split import SEED, Split, open_reader, read_joints

PAIRS = 4  # of a clip at most, each in one order
COMPONENTS = 48  # of each view's features, whose products are regressed on
MIRROR = np.diag([-1.0, 1.0, 1.0])  # a left hand is seen, and its joints are read, as in a mirror

Found = dict[str, dict[str, list[float] | float | dict[str, float]]]


@dataclass
class PairSplit:
    """P pairs of crops of one instant by two cameras.

    Attributes:
        crops: each crop once, with joints.  first, second: (P,) indices of crops.
        rotation: (P, 3, 3) takes directions in the first camera's frame to the second's.
    """

    crops: Split
    first: np.ndarray
    second: np.ndarray
    rotation: np.ndarray

    @property
    def clip(self) -> np.ndarray:
        """(P,) number of the clip, as the Split that they were paired of has it."""
        return self.crops.clip[self.first]

    @property
    def chosen_by(self) -> np.ndarray:
        """(P,) whether lambda is chosen by a pair, as it is by crops of parts beside 0."""
        return self.crops.part[self.first] != 0

    @property
    def joints(self) -> np.ndarray:
        """(P, K, 3) metres about the root, of the first crop in its camera's frame."""
        return self.crops.joints[self.first]


def pair_crops(split: Split, crops: str) -> PairSplit | None:
    """Return pairs of the clips of a Split, PAIRS of each at most; None where there are none.

    All labelled crops of a clip are paired, not those of the Split alone. Which are taken depends
    on the clip's place in the Split and nothing else, so that all arms have the same.

    Args:
        crops: "body" or "hand".
    """
    reader = open_reader(crops, split.store)
    places, joints, clips, first, second, rotations = [], [], [], [], [], []
    numbers_of_clips, begins = np.unique(split.clip, return_index=True)
    for number, begin in zip(numbers_of_clips.tolist(), begins.tolist(), strict=True):
        shard, index, _ = split.places[begin].tolist()
        try:
            clip, _, labels, known = reader.usable(split.paths[shard], index)
        except (BadSample, NoPair):  # read_split found it usable a moment ago
            continue
        shown = [clip.crops[crop] for crop in known]
        candidates = [
            (i, j)
            for i, one in enumerate(shown)
            for j, other in enumerate(shown)
            if (one.time_s, one.kind) == (other.time_s, other.kind) and one.camera != other.camera
        ]
        order = numbers(SEED, PAIR, number, 4).permutation(len(candidates))[:PAIRS]
        used: dict[int, int] = {}
        for i, j in (candidates[place] for place in sorted(order.tolist())):
            for crop in (i, j):
                if crop not in used:
                    used[crop] = len(places)
                    places.append((shard, index, known[crop]))
                    joints.append(read_joints(clip, labels, known[crop]))
                    clips.append(number)
            first.append(used[i])
            second.append(used[j])
            turns = [np.asarray(shown[crop].Rt, np.float64)[:, :3] for crop in (i, j)]
            rotation = turns[1] @ turns[0].T
            if shown[i].kind == "left_hand":
                rotation = MIRROR @ rotation @ MIRROR
            rotations.append(rotation)
    if not places:
        return None
    part = dict(zip(split.clip.tolist(), split.part.tolist(), strict=True))
    every = Split(
        split.store,
        split.paths,
        np.array(clips),
        np.array(places),
        np.array(joints),
        np.array([part[clip] for clip in clips]),
        split.size,
    )
    return PairSplit(every, np.array(first), np.array(second), np.array(rotations))


class TwoViews:
    """The read-outs of a row's weights, fitted once to the labelled clips.

    Args:
        encoder: frozen.  network: the same weights with a decoder that attends to a second image,
            or None.  fit: the labelled clips.  crops: "body" or "hand".
    """

    def __init__(
        self,
        encoder: Frozen,
        network: CrossCompletion | None,
        fit: Split,
        crops: str,
        processes: Processes,
    ) -> None:
        self.encoder, self.network, self.crops = encoder, network, crops
        self.processes = processes
        self.fit = pair_crops(fit, crops)
        if self.fit is not None and len(set(self.fit.chosen_by.tolist())) < 2:
            self.fit = None  # nothing to choose lambda by, or nothing else
        if self.fit is not None:
            self.features = self._read_features(self.fit)

    def measure(self, test: Split) -> Found:
        """Return the errors of test clips; {} where they, or those to fit, have no two cameras.

        {"two_views": {"mpjpe", "pa_mpjpe": [mean of each clip's pairs], "lambda", "constant":
        {"mpjpe", "pa_mpjpe"}}, "relative_rotation": {"degrees", ...}, and of weights with such a
        decoder both again as NAME_decoder; "relative_rotation_products": {"degrees", ...}}. mm and
        degrees; "constant": the same answer for everybody, the mean of the labelled pairs.
        """
        pairs = pair_crops(test, self.crops)
        if self.fit is None or pairs is None:
            return {}
        found: Found = {}
        for ending, x_new in self._read_features(pairs).items():
            x = self.features[ending]
            found[f"two_views{ending}"] = read_joints_off(x, self.fit, x_new, pairs)
            found[f"relative_rotation{ending}"] = read_rotation_off(x, self.fit, x_new, pairs)
            if not ending:
                x, x_new = multiply_views(x, x_new)
                found["relative_rotation_products"] = read_rotation_off(x, self.fit, x_new, pairs)
        return found

    def _read_features(self, pairs: PairSplit) -> dict[str, torch.Tensor]:
        """{ending of a read-out's name: (P, D) float64 features}."""
        one = probe.features(self.encoder, pairs.crops, self.crops, self.processes)
        found = {"": torch.cat([one[pairs.first], one[pairs.second]], 1).double()}
        if self.network is not None:
            found["_decoder"] = self._decode(self.network, pairs).double()
        return found

    @torch.no_grad()
    def _decode(self, network: CrossCompletion, pairs: PairSplit) -> torch.Tensor:
        """(P, 16 * C) pooled features of the decoder, of first crops with the second."""
        reader, out = open_reader(self.crops, pairs.crops.store), []
        count = self.encoder.size // network.config.patch
        for start in range(0, len(pairs.first), probe.AT_ONCE):
            a, b = (
                probe.read_images(
                    reader,
                    pairs.crops,
                    rows[start : start + probe.AT_ONCE],
                    self.encoder.size,
                    self.processes.device,
                )
                for rows in (pairs.first, pairs.second)
            )
            tokens = network.features(a, b)
            out.append(probe.pooled(tokens.transpose(1, 2).unflatten(2, (count, count))))
        return torch.cat(out)


def read_joints_off(
    x: torch.Tensor, fit: PairSplit, x_new: torch.Tensor, test: PairSplit
) -> dict[str, list[float] | float | dict[str, float]]:
    """Return errors of the joints that a ridge regression reads off features; see TwoViews.

    Args:
        x, x_new: (P, D) float64 features of the pairs ``fit`` and ``test``.
    """
    y = torch.from_numpy(fit.joints).flatten(1).to(x.device)
    shape, true = fit.joints.shape[1:], torch.from_numpy(test.joints)

    def measure(guess: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
        guess, wanted = guess.unflatten(1, shape), wanted.unflatten(1, shape)
        return {"mpjpe": mpjpe(guess, wanted, 0), "pa_mpjpe": pa_mpjpe(guess, wanted)}

    def error(guess: torch.Tensor, wanted: torch.Tensor) -> float:
        return float(mpjpe(guess.unflatten(1, shape), wanted.unflatten(1, shape), 0).mean())

    return _read_off(x, y, fit, x_new, true.flatten(1), test, measure, error)


def read_rotation_off(
    x: torch.Tensor, fit: PairSplit, x_new: torch.Tensor, test: PairSplit
) -> dict[str, list[float] | float | dict[str, float]]:
    """As read_joints_off, the degrees between rotations of cameras and those read off.

    The nine numbers of the matrix are regressed, and the nearest rotation is taken.
    """
    y = torch.from_numpy(fit.rotation).flatten(1).to(x.device)

    def measure(guess: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"degrees": turn_between(find_rotation(guess), wanted.unflatten(1, (3, 3)))}

    def error(guess: torch.Tensor, wanted: torch.Tensor) -> float:
        return float(measure(guess, wanted)["degrees"].mean())

    true = torch.from_numpy(test.rotation).flatten(1)
    return _read_off(x, y, fit, x_new, true, test, measure, error)


def multiply_views(x: torch.Tensor, x_new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the principal components of both views of each pair, and all products of theirs.

    Components are those of the standardised features of single views of ``x``, first and second
    alike, COMPONENTS of them or as many as there are.

    Args:
        x, x_new: (P, 2 * D), features of the first view and of the second.
    Returns:
        (P, 2 * C + C * C) of each.
    """
    views = torch.cat(x.chunk(2, 1))
    mean, std = views.mean(0), views.std(0).clamp(min=ridge.LEAST_STD)
    axes = torch.linalg.svd((views - mean) / std, full_matrices=False)[2][:COMPONENTS]

    def multiply(pairs: torch.Tensor) -> torch.Tensor:
        first, second = ((view - mean) / std @ axes.T for view in pairs.chunk(2, 1))
        products = first[:, :, None] * second[:, None]
        return torch.cat([first, second, products.flatten(1)], 1)

    return multiply(x), multiply(x_new)


def _read_off(x, y, fit, x_new, true, test, measure, error):
    """Choose lambda on a part of ``fit``, refit to all of it, and measure ``test`` clip by clip."""
    by = torch.from_numpy(fit.chosen_by).to(x.device)
    chosen = ridge.choose(x[~by], y[~by], x[by], lambda guess: error(guess, y[by]))
    guess = ridge.predict(x, y, x_new, chosen).cpu()
    still = measure(y.mean(0).cpu().expand_as(true), true)
    found = {name: average_clips(one, test.clip) for name, one in measure(guess, true).items()}
    constant = {
        name: round(float(np.mean(average_clips(one, test.clip))), 3) for name, one in still.items()
    }
    return {**found, "lambda": chosen, "constant": constant}


def average_clips(values: torch.Tensor, clip: np.ndarray) -> list[float]:
    """Return the mean of each clip's values, of those clips that have some, in order."""
    _, member, counts = np.unique(clip, return_inverse=True, return_counts=True)
    return np.round(np.bincount(member, values.numpy()) / counts, 3).tolist()


def find_rotation(nine: torch.Tensor) -> torch.Tensor:
    """Return the (P, 3, 3) rotations nearest to (P, 9) numbers, by singular values."""
    u, _, v = torch.linalg.svd(nine.unflatten(1, (3, 3)))
    signs = torch.ones_like(nine[:, :3])
    signs[:, 2] = torch.linalg.det(u @ v)
    return u * signs[:, None] @ v


def turn_between(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the (P,) degrees between rotations (P, 3, 3)."""
    return torch.rad2deg(matrix_to_axis_angle(one.transpose(1, 2) @ other).norm(dim=1))
