"""Answers that are projected into the image and mended by how far they lie from keypoints.

What a head answered is posed; where its landmarks then lie in the image, and how far that is from
keypoints that were found (finetune/prompts.py) or that its own maps show, says what to change.
A network is told more than these distances: which way each joint would have to turn to lessen them,
as the gradient of a fit does (learned gradient descent: Song et al., ECCV 2020; iterative error
feedback: Carreira et al., CVPR 2016). That needs no automatic differentiation: for a joint it is
the sum over the landmarks that hang on it of lever x error, over that of the squared levers.

So a round first goes a step of such a fit, whose length it learns for each joint, and then adds
what it has learnt of bodies: which of the poses that fit are likely. Comparisons carry no gradient:
a round learns what to add to an answer as it is.
"""

from dataclasses import dataclass

import torch
from torch import nn

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.geometry import Size
from engine.geometry import axis_angle_to_matrix
from finetune.crop_camera import to_shares
from finetune.losses import NEAREST_M, project_points
from finetune.means import Offsets, flatten_columns
from finetune.prompts import PROMPTED

GAIN = 8.0  # residuals are hundredths of the image's side
FARTHEST = 0.15  # of the image's side: an error counts as so much at most, for some are strays
LEAST_LEVER = 0.07  # more than its own squared levers, over a landmark's mean from the middle
# Shares of a step at first: a dozen joints of a chain turn for one and the same error.
TURN_SHARE, MOVE_SHARE = 0.1, 0.5
MOVED = 2e-3  # a landmark hangs on a joint whose rotation by a radian moves it so far, likewise


@dataclass(eq=False)
class Comparison:
    """How far the landmarks of B bodies are from where they should be, and what lessens it.

    Attributes:
        numbers: (B, 3 P): how far each is and how sure it is, for a network.
        turn: (B, J', 3) radians by which each joint alone would turn, in its parent's frame.
        move: (B, 2) of the image's side by which all would move.
        grow: (B,) log of the factor by which all would grow in the image.
    """

    numbers: torch.Tensor
    turn: torch.Tensor
    move: torch.Tensor
    grow: torch.Tensor

    def flatten(self) -> torch.Tensor:
        """(B, 3 P + 3 J' + 3) all of it, for a network."""
        steps = [self.turn.flatten(1), self.move, self.grow[:, None]]
        return torch.cat([self.numbers, torch.cat(steps, 1) * GAIN], 1)


class Mending(nn.Module):
    """From an answer and keypoints to a better answer, and to what queries are changed by.

    Args:
        body: the full body model; a model of its landmarks alone is kept, outside of the state.
        width: channels of a query.  answers: numbers that each query answers with.
        prompted: keypoints that are given, the last of PROMPTED; 0: none are.
        maps: whether the head has maps of the body's keypoints.
        vertices: how many of them are projected too, spread over the body.
    """

    hangs: torch.Tensor

    def __init__(
        self,
        body: BodyModel,
        width: int,
        answers: list[int],
        prompted: int,
        maps: bool,
        vertices: int = 1,
    ) -> None:
        super().__init__()
        self._points = [body.lean(vertices)]
        self.projected = len(self._points[0].vertex_ids)
        self.parents = body.parents
        names = body.landmark_names
        wanted = PROMPTED[body.kind][-prompted:] if prompted else ()
        # Rows of landmarks that are compared with prompts, and with maps.
        self.compared = [[names.index(name) if name in names else 0 for name in wanted]]
        self.compared.append(list(range(len(body.keypoint_names))) if maps else [])
        hangs, spread = _find_hanging(self._points[0], len(body.joint_names))
        self.least_lever = LEAST_LEVER * spread
        self.turned = torch.where(hangs.any(1))[0].tolist()
        # Of each joint after a step: its row among those that are turned, before all that were.
        places = {joint: row for row, joint in enumerate(self.turned)}
        count = len(self.turned)
        every = range(len(body.joint_names))
        self.rows_after = [places.get(joint, count + joint) for joint in every]
        self.register_buffer("hangs", hangs[self.turned].float(), persistent=False)
        self.queries = len(answers)
        joints = len(self.turned)
        numbers = 3 * len(names) + sum(answers)
        numbers += sum(3 * len(rows) + 3 * joints + 3 for rows in self.compared if rows)
        last = nn.Linear(2 * width, self.queries * width)
        self.read = nn.Sequential(nn.Linear(numbers, 2 * width), nn.GELU(), last)
        # Steps towards prompts begin at once, those towards maps once training finds them true.
        begun = torch.tensor([1.0, 0.0])
        self.turn_share = nn.Parameter(begun[:, None].repeat(1, joints) * TURN_SHARE)
        self.move_share = nn.Parameter(begun[:, None].repeat(1, 3) * MOVE_SHARE)

    @torch.no_grad()
    def compare(
        self, found: BodyParameters, K: torch.Tensor, size: Size, wanted: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, list[Comparison], torch.Tensor]:
        """Project bodies and compare their landmarks with prompts and maps.

        Args:
            found: the bodies.
            K: (B, 3, 3) intrinsics of images of ``size`` px.
            wanted: (B, P, 3) of finetune.prompts, and (B, K, 3) of KeypointMaps.read; None where
                there are none.
        Returns:
            (B, 3 L) where landmarks are in the image, and log of their depth over the root's;
            a Comparison with each of what the head takes; and (B, V, 2) where vertices are.
        """
        points = self._points[0].to(K.device)
        # bf16 would project to a hundredth of the image.
        with torch.autocast(K.device.type, enabled=False):
            vertices, joints = points(found.pose, found.translation, found.shape)
            landmarks = points.landmarks(vertices, joints)
            shown = to_shares(project_points(landmarks, K), size)
            depth = landmarks[..., 2:].clamp_min(NEAREST_M)
            depth = depth / joints[:, :1, 2:].clamp_min(NEAREST_M)
            frames = self._find_frames(found.pose)
            compared = [
                self._compare(rows, points_2d, shown, landmarks, joints, frames)
                for rows, points_2d in zip(self.compared, wanted, strict=True)
                if rows
            ]
            told = torch.cat([shown.clamp(-2, 2), depth.log()], -1).flatten(1)
            return told, compared, to_shares(project_points(vertices, K), size)

    def step(
        self,
        found: BodyParameters,
        offsets: Offsets,
        mean_pose: torch.Tensor,
        compared: list[Comparison],
        rotation: torch.Tensor,
    ) -> Offsets:
        """Returns offsets after a step that lessens the distances.

        Args:
            found: the bodies that ``offsets`` stand for.
            mean_pose: (J, 3, 3) that offsets are from.
            compared: of ``compare``.
            rotation: (B, 3, 3) of finetune.crop_camera.find_ray_rotation.
        """
        shares = [row for row, rows in enumerate(self.compared) if rows]
        with torch.autocast(rotation.device.type, enabled=False):
            turn = found.pose.new_zeros(len(found.pose), len(self.turned), 3)
            move = torch.zeros_like(offsets.translation)
            for row, one in zip(shares, compared, strict=True):
                turn = turn + one.turn * self.turn_share[row][:, None]
                steps = torch.cat([one.move, -one.grow[:, None]], 1)
                move = move + steps * self.move_share[row]
            pose = axis_angle_to_matrix(turn) @ found.pose[:, self.turned]
            root = rotation.transpose(1, 2) @ pose[:, 0]
            pose = torch.cat([root[:, None], pose[:, 1:]], 1)
            six = flatten_columns(pose) - flatten_columns(mean_pose[self.turned])
            # Chosen and not assigned, which would fix the number of people where it is exported.
            both = torch.cat([six, offsets.pose.unflatten(1, (-1, 6))], 1)
            pose = both[:, self.rows_after].flatten(1)
            return Offsets(pose, offsets.shape, offsets.translation + move)

    def change_queries(
        self, shown: torch.Tensor, offsets: Offsets, compared: list[Comparison]
    ) -> torch.Tensor:
        """(B, queries, width) to be added to the queries, by what ``compare`` returned."""
        numbers = [shown, offsets.pose, offsets.shape, offsets.translation]
        numbers += [one.flatten() for one in compared]
        return self.read(torch.cat(numbers, 1)).unflatten(1, (self.queries, -1))

    def _find_frames(self, pose: torch.Tensor) -> torch.Tensor:
        """(B, J', 3, 3) rotations of the parents of the joints that are turned."""
        rotated: list[torch.Tensor] = []
        for joint, parent in enumerate(self.parents):
            own = pose[:, joint]
            rotated.append(own if parent < 0 else rotated[parent] @ own)
        still = torch.eye(3, device=pose.device).expand_as(pose[:, 0])
        frames = [
            still if self.parents[joint] < 0 else rotated[self.parents[joint]]
            for joint in self.turned
        ]
        return torch.stack(frames, 1)

    def _compare(
        self,
        rows: list[int],
        wanted: torch.Tensor | None,
        shown: torch.Tensor,
        landmarks: torch.Tensor,
        joints: torch.Tensor,
        frames: torch.Tensor,
    ) -> Comparison:
        """Returns how far ``rows`` of the landmarks are from where they should be."""
        if wanted is None:
            wanted = shown.new_zeros(len(shown), len(rows), 3)
        sure, here = wanted[..., 2:], shown[:, rows]
        away = (wanted[..., :2] - here) * (sure > 0)
        pulled = away.clamp(-FARTHEST, FARTHEST) * sure
        at = landmarks[:, rows]
        slope = at[..., :2] / at[..., 2:].clamp_min(NEAREST_M)
        # An error in the image pulls at its point across the ray; in metres there.
        pull = torch.cat([pulled, -(pulled * slope).sum(-1, keepdim=True)], -1)
        pull = pull * (self._width(landmarks, shown))[:, None, None]
        hangs, own = self.hangs[:, rows], joints[:, self.turned]
        turn = hangs @ torch.linalg.cross(at, pull)
        turn = turn - torch.linalg.cross(own, hangs @ pull)
        levers = (at[:, None] - own[:, :, None]).square().sum(-1) * sure[..., 0][:, None]
        levers = (levers * hangs).sum(-1, keepdim=True)
        turn = (frames.transpose(2, 3) @ (turn / (levers + self.least_lever))[..., None])[..., 0]
        total = sure.sum(1) + 1e-3
        move = pulled.sum(1) / total
        spread = (here - (here * sure).sum(1, keepdim=True) / total[:, None]) * sure
        grow = (spread * pulled).sum((1, 2)) / (spread.square().sum((1, 2)) + 0.01)
        numbers = torch.cat([(away * GAIN).flatten(1), sure.flatten(1)], 1)
        return Comparison(numbers, turn.clamp(-1, 1), move, grow.clamp(-0.5, 0.5))

    @staticmethod
    def _width(landmarks: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """(B,) metres across the image at the body: of the landmarks' spread there and here."""
        metres = (landmarks[..., :2] - landmarks[..., :2].mean(1, keepdim=True)).square()
        sides = (shown - shown.mean(1, keepdim=True)).square()
        return (metres.sum((1, 2)) / sides.sum((1, 2)).clamp_min(1e-4)).sqrt().clamp(0.05, 20)


@torch.no_grad()
def _find_hanging(points: BodyModel, joints: int) -> tuple[torch.Tensor, float]:
    """(J, L) bool, which landmarks each joint's rotation moves; their mean square spread, m^2."""
    space = points.shape_space
    rest = torch.zeros(joints + 1, joints, 3)
    still = torch.zeros(joints + 1, 3)
    shape = torch.full((1, len(space.names)), float(space.mean))
    # About an axis that no bone lies along.
    rest[torch.arange(joints), torch.arange(joints)] = torch.tensor([0.5, 0.6, 0.7])
    vertices, found = points(rest, still, shape)
    landmarks = points.landmarks(vertices, found)
    spread = (landmarks[-1] - landmarks[-1].mean(0)).square().sum(-1).mean()
    moved = (landmarks[:-1] - landmarks[-1]).norm(dim=-1)
    return moved > MOVED * spread.sqrt(), float(spread)
