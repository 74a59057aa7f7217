"""One clip from its seed and number: person, scene, light, cameras, images, labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch

from data.bodies.anny_body import AnnyBody
from data.format.clip import MADE, Clip, Crop, encode
from data.people import (
    collide,
    degrade,
    gestures,
    hand_looks,
    hand_things,
    held,
    labels,
    motion,
    outfits,
    planting,
    shapes,
    shots,
    template,
    worn,
)
from data.people import scene as scenes
from data.people.acting import Actor
from data.people.actions.sampling import sample_actions
from data.people.backgrounds import Backgrounds, prepare_photo
from data.people.bank import make_bank
from data.people.config import PeopleConfig, hash_recipe, population
from data.people.extras import HELD, add_extras
from data.people.painting import paint_background
from data.people.recorded.folder import Take
from data.people.render import Renderer, World
from data.people.rig import Rig
from data.people.rng import pick_one
from data.people.warp_types import MAX_BOXES, Struct
from engine.geometry import angle_about, matrix_to_axis_angle

LICENCE = "CC0-1.0"
RIG_AGE = 0.6  # shape on which the fingers' axes are measured; they hardly depend on it
HANDS = (("L", "left_hand"), ("R", "right_hand"))
LEAST_SEEN = 0.6  # of a hand; a camera that sees less moves towards the first, which sees most
# Purposes of random numbers: the photograph behind the person, and the cameras' faults.
PHOTO, FAULTS = 1, 2
GAPS, RECORDED = 21, 22  # seconds between instants, stretches of recorded motions
GESTURES = 31  # other fingers and arms than the motion's
HAND_LOOKS = 32  # how hands look near, and what they wear
THINGS = 33  # in hands and about them
ACTIONS = 34  # what people do who act
PAINTED_PX = 512
POINT_STRIDE = 11  # every 11th vertex tells where a person is


@dataclass
class Person:
    """A person at T instants; metres, world.

    Attributes:
        female, child: bool.  heading_deg: where it faces, about the vertical.
        pose (T, B, 3), root (T, 3), phenotype (6,), face (52,), joints (T, B, 3): float32, see
        labels.py.
        vertices: (T, V, 3) float32 torch tensor on the drawing device.  points: (T, n, 3) some of
            the body's, in numpy.
        times_s: (T,) seconds, the first at 0.
        hand_points: the same (T, m, 3) of the left and of the right hand.
        sits: (T,) bool, when it is on a seat: as planned, or at all instants or none.
    """

    female: bool
    child: bool
    heading_deg: float
    pose: np.ndarray
    root: np.ndarray
    phenotype: np.ndarray
    face: np.ndarray
    joints: np.ndarray
    vertices: torch.Tensor
    points: np.ndarray
    times_s: np.ndarray
    hand_points: list[np.ndarray]
    sits: np.ndarray

    @property
    def weight(self) -> float:
        """Return the weight in the phenotype."""
        return float(self.phenotype[3])


def _find_seated(take: Take) -> np.ndarray:
    """(T,) bool, see Person.sits."""
    if take.seated is not None:
        return take.seated
    found = planting.find_sitting(take.angles)
    return np.full(len(found), found.all())


class ClipMaker:
    """Makes any clip of a config, in any order.

    Args:
        config: config.PeopleConfig.  device: "cpu" or "cuda".
    Attributes:
        stopwatch: where the time went, with the renderer's stages.
    """

    renderer_class = Renderer
    others_hold = False  # whether all people of a clip hold things, or the labelled one alone

    def __init__(self, config: PeopleConfig, device: str = "cpu") -> None:
        torch.set_num_threads(1)  # equal bytes whatever the machine, and one process a core
        self.config, self.device = config, device
        self.body = AnnyBody(clothing=True)
        self.template = template.load_template(self.body)
        self.body = self.body.to(device)
        self.bank = make_bank(config.domain.looks)
        self.renderer = self.renderer_class(
            self.template, self.bank, config.size, config.antialias, device, config.surface
        )
        self.stopwatch = self.renderer.stopwatch
        folder = config.domain.backgrounds
        self.backgrounds = None if folder is None else Backgrounds(folder, config.domain.looks)
        names = self.body.joint_names
        self.index = {name: i for i, name in enumerate(names)}
        with torch.inference_mode():
            shape = torch.full((1, 6), 0.5, device=device)
            shape[0, self.body.shape_names.index("age")] = RIG_AGE
            still = self._tensors(np.zeros((1, len(names), 3)), np.zeros((1, 3)))
            rest = self.body.joints_at(*still, self.body.rest(shape))
        body, hands = torch.from_numpy(self.template.body).long(), self.template.hands
        self.some_points = body[::POINT_STRIDE].to(device)
        self.some_hand_points = [
            body[torch.from_numpy(hand)][::POINT_STRIDE].to(device) for hand in hands
        ]
        self.anchors = worn.find_anchors(self.template)
        self.rig = Rig(names, rest[0].cpu().numpy())
        recorded = config.motion or config.domain.recorded
        self.actor = Actor(self.body, self.rig, self.template.body, recorded)

    def samples(self, index: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(key, members) of what a number makes, as they lie in a shard."""
        clip = self.clip(index)
        yield clip.key, encode(clip)

    def clip(self, index: int) -> Clip:
        """The data.format.clip.Clip of this number."""
        config, rng = self.config, self.random(index)
        self.stopwatch.start()
        person = self.make_person(rng, index)
        world, kinds, instants, cameras = self._world(rng, person)
        if config.domain.hand_detail:
            hand_looks.add_hand_look(self.random(index, HAND_LOOKS), world.look)
        if config.kind == "hand" and config.domain.things_share:
            self._put_thing(index, world, person, kinds[0])
        self._put_photo(world, index)
        add_extras(self, world, person, index)
        quality = rng.integers(config.jpeg_quality[0], config.jpeg_quality[1] + 1, len(kinds))
        self.stopwatch.lap("scene and cameras")
        images = self.renderer.draw(world)
        rgb = self._photograph(self.random(index, FAULTS), images.rgb, cameras)
        jpegs = [
            simplejpeg.encode_jpeg(image, quality=int(q), colorspace="RGB", colorsubsampling="420")
            for image, q in zip(rgb, quality, strict=True)
        ]
        self.stopwatch.lap("jpeg")
        calibrations = [shots.read_calibration(shot) for shot in world.shots]
        crops = [
            Crop(str(camera), float(person.times_s[instant]), kind, K.tolist(), Rt.tolist())
            for camera, instant, kind, (K, Rt) in zip(
                cameras, instants, kinds, calibrations, strict=True
            )
        ]
        weights = labels.surface_weights(self.template, kinds)
        name = f"{population(config)}-{index}"
        clip = Clip(
            name,
            MADE,
            LICENCE,
            name,
            config.size,
            crops,
            jpegs,
            labels.make_masks(images.label),
            labels.directed_overlap(images.seen, weights),
            labels.make_labels(person, instants, calibrations, images, weights),
            surface=images.surface,
        )
        self.stopwatch.lap("labels")
        return clip

    def _photograph(
        self, rng: np.random.Generator, images: np.ndarray, cameras: Sequence[int]
    ) -> list[np.ndarray]:
        """The images as imperfect cameras give them; the crops of one camera share its faults."""
        share = self.config.domain.degraded_share
        faults = {}
        for camera in dict.fromkeys(cameras):
            faults[camera] = degrade.sample_degradation(rng, share)
        return [
            degrade.degrade_image(image, faults[camera])
            for image, camera in zip(images, cameras, strict=True)
        ]

    def random(self, index: int, purpose: int = 0) -> np.random.Generator:
        """Return the numpy Generator that all of a clip is drawn from.

        It is of the clip's number, the seed and the recipe. What is drawn for another purpose
        leaves the rest of the clip as it is.
        """
        key = np.array([self.config.seed, hash_recipe(self.config)], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=[0, index, purpose, 0]))

    def steer(self, rng: np.random.Generator, stage: str, which: int = 0) -> np.random.Generator:
        """Return what a stage of a clip, or of others from 1, is drawn by; see steered.STAGES.

        Of scenes see steered_scene.SCENE_STAGES.
        """
        return rng

    def plan_held(self, index: int, which: int = 0) -> held.Plan | None:
        """What a person of a clip holds, None for nothing; see extras.py."""
        share = self.config.domain.held_share
        return held.draw_plan(self.random(index, HELD + 100 * which), share) if share else None

    def _put_thing(self, index: int, world: World, person: Person, kind: str) -> None:
        """Put a thing at the hand that is shown, by the config's share; it is no clutter."""
        rng, side = self.random(index, THINGS), int(kind == "right_hand")
        plan = self.plan_held(index)
        if plan is not None and (plan.both or plan.side == side):
            return  # the hand has something already
        if rng.random() >= self.config.domain.things_share:
            return
        instant = int(rng.integers(len(person.joints)))
        ends = f".{'LR'[side]}"
        joints = {
            name.removesuffix(ends): person.joints[instant, i].astype(np.float64)
            for name, i in self.index.items()
            if name.endswith(ends)
        }
        eyes = np.unique(np.array([[*shot.eye] for shot in world.shots]), axis=0)
        points = person.hand_points[side][instant].astype(np.float64)
        thing = hand_things.make_thing(rng, points, joints, eyes, self.bank)
        if thing is not None:
            world.boxes = [thing, *world.boxes][:MAX_BOXES]
            world.placed = min(world.placed + 1, MAX_BOXES)

    def _put_photo(self, world, index):
        """Put a photograph, or a painting, behind the person, by the config's shares.

        Clutter is left away, for the image has its own; seats and what hides the person stay.
        """
        domain, rng = self.config.domain, self.random(index, PHOTO)
        if self.backgrounds is not None and rng.random() < domain.backgrounds_share:
            photo = self.backgrounds.draw(rng)
        elif rng.random() < domain.painted_share:
            photo = prepare_photo(paint_background(rng, PAINTED_PX, PAINTED_PX), rng)
        else:
            return
        centre, means = np.array([*world.light.centre]), self.bank.means
        photo.fill(world.scene, world.light, centre, means)
        world.photo, world.boxes = photo.texels, world.boxes[: world.placed]

    def _clock(self, index: int) -> motion.Clock:
        """When the instants of a clip are."""
        config = self.config
        if not config.gaps_s:
            return motion.even_times(config.instants, config.gap_s)
        return motion.sample_times(self.random(index, GAPS), config.instants, config.gaps_s)

    def make_person(self, rng: np.random.Generator, index: int = 0, which: int = 0) -> Person:
        """The person of a clip, drawn by ``rng``, or one of the others beside it (from 1)."""
        config, domain = self.config, self.config.domain
        kinds = self.steer(rng, "person", which)
        child, female = kinds.random() < domain.child_share, kinds.random() < 0.5
        spread, drawn = domain.shape_spread, self.steer(rng, "shape", which)
        phenotype = shapes.draw_phenotype(drawn, female, child, spread)
        face = shapes.draw_expression(rng, self.body.face_names)
        clock = self._clock(index)
        with torch.inference_mode():
            rest = self.body.rest(*self._tensors(phenotype[None], face[None]))
        moves = self._sample_motion(rng, index, which, clock, rest)
        moves = gestures.add_gestures(self.random(index, GESTURES + 100 * which), moves, domain)
        if not which or self.others_hold:
            moves = held.grip_hand(moves, self.plan_held(index, which))
        with torch.inference_mode():
            weight = float(phenotype[3])
            recorded = self.random(index, RECORDED + 100 * which)
            take = self.actor.act(config, recorded, moves, clock, rest, weight)
            rotations, translation = take.rotations, take.root
            self.stopwatch.lap("motion")
            # Drawn from the very numbers that are stored, so that they rebuild the body without a
            # rounding between.
            pose = matrix_to_axis_angle(torch.from_numpy(rotations)).float().numpy()
            vertices, joints = self.body.posed(*self._tensors(pose, translation), rest)
            floor = vertices[:, self.body.body_vertices, 2].amin(1).cpu().numpy()
            floor = floor - take.lift_m.astype(np.float32)
            down = torch.from_numpy(floor).to(self.device)[:, None, None]
            vertices = vertices - down * vertices.new_tensor([0.0, 0.0, 1.0])
            joints = joints.cpu().numpy().copy()
            points, *hand_points = (
                vertices[:, some].cpu().numpy()
                for some in (self.some_points, *self.some_hand_points)
            )
        joints[:, :, 2] -= floor[:, None]
        translation[:, 2] -= floor
        self.stopwatch.lap("body model")
        return Person(
            female,
            child,
            take.heading_deg,
            pose,
            translation.astype(np.float32),
            phenotype,
            face,
            joints,
            vertices,
            points,
            take.times_s,
            hand_points,
            _find_seated(take),
        )

    def _sample_motion(
        self,
        rng: np.random.Generator,
        index: int,
        which: int,
        clock: motion.Clock,
        rest: dict[str, torch.Tensor],
    ) -> motion.Motion:
        """What the person does: by the config's share an action, else as ever."""
        domain = self.config.domain
        roam_m = motion.ROAM_M[self.config.kind]
        moves = motion.sample_motion(
            rng,
            clock,
            domain.posture_names(),
            domain.hand_names(),
            domain.walk_share,
            may_run=not domain.upright,
            roam_m=roam_m,
        )
        acted = self.random(index, ACTIONS + 100 * which)
        if self.config.motion or not domain.actions_share or acted.random() >= domain.actions_share:
            return moves
        return sample_actions(
            acted,
            clock,
            self.actor.find_skeleton(rest).leg_m,
            domain.action_names(),
            domain.posture_names(),
            domain.hand_names(),
            domain.walk_share,
            roam_m,
        )

    def _world(self, rng, person):
        """The World to draw, and for each shot its kind, instant and camera."""
        config, domain = self.config, self.config.domain
        flat = person.points.reshape(-1, 3)
        centre = ((flat.min(0) + flat.max(0)) / 2).astype(np.float64)
        radius = float(max(0.9, np.linalg.norm(person.points - centre, axis=-1).max()))
        steer = self.steer
        look = outfits.draw_look(steer(rng, "look"), person.female, person.child, self.bank)
        scene = scenes.sample_scene(steer(rng, "scene"), centre, domain, self.bank)
        boxes = scenes.sample_boxes(steer(rng, "boxes"), scene, centre, domain.boxes, self.bank)
        light, sky_axes, sky_colours = scenes.sample_light(
            steer(rng, "light"), scene.outdoors, centre, radius
        )
        photography = shots.Photography(steer(rng, "photography"), light)
        ways = shots.sample_azimuths(steer(rng, "azimuth"), person.heading_deg, config)
        aim = self._aim_hand if config.kind == "hand" else self._aim_body
        taken, kinds, targets = aim(rng, person, scene, boxes, centre, ways, photography)
        eyes = np.array([[*shot.eye] for shot in taken])
        boxes = scenes.keep_boxes(rng, boxes, eyes, targets, float(person.points[..., 2].max()))
        placed = self._furnish(rng, person, eyes)
        boxes = (placed + boxes)[:MAX_BOXES]
        world = World(
            person.vertices, look, light, sky_axes, sky_colours, scene, boxes, photography, taken
        )
        world.placed = len(placed)
        instants = [shot.instant for shot in taken]
        return (
            world,
            kinds,
            instants,
            np.repeat(np.arange(config.cameras), config.instants).tolist(),
        )

    def _furnish(self, rng: np.random.Generator, person: Person, eyes: np.ndarray) -> list[Struct]:
        """A seat for who sits, and things between cameras and the person."""
        domain = self.config.domain
        added = []
        if domain.seats and person.sits.any():
            root, points = (
                person.joints[person.sits, self.index["root"]],
                person.points[person.sits],
            )
            seat = scenes.make_seat(rng, points, root, person.heading_deg, self.bank)
            added += [] if seat is None else [seat]
        points = person.points.reshape(-1, 3).astype(np.float64)
        if self.config.kind == "body" and domain.occluded_share:
            rng = self.steer(rng, "occluder")
            for eye in np.unique(eyes, axis=0):
                if rng.random() < domain.occluded_share:
                    occluder = scenes.make_occluder(rng, eye, points, eyes, self.bank)
                    added += [] if occluder is None else [occluder]
        return added[:MAX_BOXES]

    def _aim_body(self, rng, person, scene, boxes, centre, ways, photography):
        """Shots camera by camera, instant by instant; their kinds; (N, 3) what each points at."""
        config, eyes, taken = self.config, [], []
        for k, way in enumerate(ways):
            spread = 0.1 if k == 1 else 0.5
            options, penalty = shots.sample_eyes(
                self.steer(rng, "eye"), scene, boxes, centre, way, config.domain, False, spread
            )
            eyes.append(self._choose(eyes, options, -penalty, centre, k))
            frame = self.steer(rng, "frame")
            margin = config.margin * frame.uniform(1.04, 1.15)
            upper = frame.random() < config.domain.part_share
            for t, points in enumerate(person.points):
                if upper:
                    points = points[points[:, 2] > np.percentile(points[:, 2], 45)]
                # The second factor is at least 1 / 1.04, so that the margin holds at every instant.
                shake = rng.uniform(1 / 1.04, 1.04)
                taken.append(
                    shots.make_shot(
                        self.steer(rng, "shot"),
                        t,
                        eyes[-1],
                        points,
                        config.size,
                        margin * shake,
                        photography,
                        config.domain,
                    )
                )
        return taken, ["body"] * len(taken), np.tile(centre, (len(taken), 1))

    def _aim_hand(self, rng, person, scene, boxes, centre, ways, photography):
        """As _aim_body, for one hand: cameras stand where the body hides least of it."""
        config, eyes, taken, targets = self.config, [], [], []
        side, kind = pick_one(rng, HANDS)
        surface = person.hand_points[[s for s, _ in HANDS].index(side)]
        middle = surface.mean((0, 1)).astype(np.float64)
        body = collide.Capsules(person.joints, self.index, person.weight)
        roots = person.joints[:, [self.index[f"finger{f}-1.{side}"] for f in "135"]]
        fingers = np.concatenate(
            [roots, collide.find_fingertips(person.joints, self.index, side)], 1
        )
        for k, way in enumerate(ways):
            if k == 1:  # the first camera may have left its azimuth to see the hand
                way += np.arctan2(*(eyes[0] - middle)[1::-1]) - ways[0]
            spread = 0.2 if k == 1 else 1.0
            options, penalty = shots.sample_eyes(
                self.steer(rng, "eye"), scene, boxes, middle, way, config.domain, True, spread
            )
            merit = (
                collide.seen_share(options, fingers, body, side)
                - penalty
                - 0.02 * np.arange(len(options))
            )
            eye = self._choose(eyes, options, merit, middle, k)
            for _ in range(4 if k else 0):
                if collide.seen_share(eye[None], fingers, body, side)[0] >= LEAST_SEEN:
                    break
                eye = (eye + eyes[0]) / 2
            # Between two cameras on both sides of a hand lies the hand.
            eye = shots.keep_away(eye, surface.reshape(-1, 3), middle)
            eyes.append(eye)
            margin = config.margin * rng.uniform(1.0, 1.35)
            for t, points in enumerate(surface):
                drawn = self.steer(rng, "shot")
                taken.append(
                    shots.make_shot(
                        drawn, t, eyes[-1], points, config.size, margin, photography, config.domain
                    )
                )
                targets.append(points.mean(0))
        return taken, [kind] * len(taken), np.array(targets)

    def _choose(self, before, options, merit, centre, k):
        """The best position for camera k; the second camera is one that is near the first."""
        if k != 1:
            return options[merit.argmax()]
        near = np.deg2rad(self.config.near_deg)
        apart = np.array([angle_about(centre, before[0], eye) for eye in options])
        return shots.near_eye(
            before[0], options[(merit - 4 * (apart > near)).argmax()], centre, near
        )

    def _tensors(self, first: np.ndarray, second: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return self._tensor(first), self._tensor(second)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, np.float32)).to(self.device)
