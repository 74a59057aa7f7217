"""A scene from its seed and number: several people, one camera, a frame an instant, labels."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg
import torch

from data.format.clip import MADE
from data.format.frame import Frame, encode_frame
from data.people import degrade, hand_looks, outfits, shots, worn
from data.people import scene as scenes
from data.people.config import PeopleConfig, population
from data.people.extras import HAIR, carry_things
from data.people.frame_labels import find_keypoints, find_sight, make_frame_labels
from data.people.framing import View, aim, draw_view
from data.people.maker import FAULTS, HAND_LOOKS, LICENCE, ClipMaker, Person
from data.people.placing import (
    Stage,
    Standing,
    fit_room,
    make_barrier,
    place_clutter,
    place_person,
)
from data.people.render import Other, World
from data.people.render_frames import FrameImages, FrameRenderer
from data.people.things import Thing, stack_things
from data.people.warp_types import MAX_BOXES, Shot, Struct, fill_struct, mat33, vec3

BODIES = 71  # purpose of random numbers: each person of a scene, 100 further each
SPARE = 5  # people who are drawn beyond those wanted, for those who find no room
# Light's maps hold who is so near to the middle; others cast no shadow.
MAP_RADIUS_M, TEXEL_M = 6.5, 0.024
MOST_SKY, MOST_SHADOW = 512, 768


class SceneMaker(ClipMaker):
    """Makes any scene of a config with kind=scene, in any order."""

    renderer_class = FrameRenderer
    others_hold = True

    def __init__(self, config: PeopleConfig, device: str = "cpu") -> None:
        super().__init__(config, device)
        self.keypoints = find_keypoints(self.body.joint_names)

    def samples(self, index: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(key, members) of each frame of a scene, as they lie in a shard."""
        for frame in self.frames(index):
            yield frame.key, encode_frame(frame)

    def frames(self, index: int) -> list[Frame]:
        """The frames of a scene, one an instant."""
        rng = self.random(index)
        self.stopwatch.start()
        scene = scenes.sample_scene(
            self.steer(rng, "scene"), np.zeros(3), self.config.domain, self.bank
        )
        view = draw_view(self.steer(rng, "view"), self.config, bool(scene.outdoors))
        stage = self._cast(rng, index, view, bool(scene.outdoors))
        world = self._build(rng, index, scene, stage)
        quality = rng.integers(
            self.config.jpeg_quality[0], self.config.jpeg_quality[1] + 1, len(world.shots)
        )
        self.stopwatch.lap("scene and cameras")
        assert isinstance(self.renderer, FrameRenderer)
        images = self.renderer.draw_frames(world, view.width, view.height)
        fault = degrade.sample_degradation(
            self.random(index, FAULTS), self.config.domain.degraded_share
        )
        jpegs = []
        for image, q in zip(images.rgb, quality, strict=True):
            image = degrade.degrade_image(image, fault)
            jpegs.append(simplejpeg.encode_jpeg(image, quality=int(q), colorspace="RGB"))
        self.stopwatch.lap("jpeg")
        out = [self._frame(index, stage, world, images, t, jpegs[t]) for t in range(len(jpegs))]
        self.stopwatch.lap("labels")
        return out

    def _cast(self, rng: np.random.Generator, index: int, view: View, outdoors: bool) -> Stage:
        """The Stage with everybody on it; the camera is aimed at who comes first."""
        low, high = self.config.scene.people
        wanted = int(self.steer(rng, "cast").integers(low, high + 1))
        level = np.array([*view.ahead, 0.0])
        stage = Stage(view, outdoors, shots.look_at(view.eye, view.eye + level, 0.0))
        for which in itertools.count():
            if len(stage.people) == wanted or (which >= wanted + SPARE and stage.people):
                break
            own = self.random(index, BODIES + 100 * which)
            person = self.make_person(own, index, which)
            make_seat = self._seats(own) if self.config.domain.seats else None
            placed = place_person(self.steer(own, "place", which), stage, person, which, make_seat)
            if placed and len(stage.people) == 1:
                points = stage.people[0].person.points[0]
                stage.rotation = aim(self.steer(rng, "aim"), view, points)
            elif not stage.people:  # too large for where the camera is
                view.distance_m *= 1.3
        return stage

    def _seats(self, rng: np.random.Generator) -> Callable[[Person], Struct | None]:
        """A function of a person to the seat below it, or None."""

        def make_seat(person: Person) -> Struct | None:
            root = person.joints[person.sits, self.index["root"]]
            points = person.points[person.sits]
            return scenes.make_seat(rng, points, root, person.heading_deg, self.bank)

        return make_seat

    def _build(self, rng: np.random.Generator, index: int, scene: Struct, stage: Stage) -> World:
        """The World of a stage; its people are drawn from far to near."""
        domain = self.config.domain
        centre, radius = _find_middle(stage)
        barriers = self.steer(rng, "barrier")
        if barriers.random() < domain.occluded_share:
            barrier = make_barrier(barriers, stage, self.bank)
            stage.boxes += [] if barrier is None else [barrier]
        fit_room(rng, scene, stage)
        clutter = scenes.sample_boxes(
            self.steer(rng, "boxes"), scene, centre, domain.boxes, self.bank
        )
        placed = len(stage.boxes)
        boxes = stage.boxes + place_clutter(stage, clutter, MAX_BOXES - placed)
        light, sky_axes, sky_colours = scenes.sample_light(
            self.steer(rng, "light"), bool(scene.outdoors), centre, radius
        )
        _sharpen_light(light, radius)
        photography = shots.Photography(self.steer(rng, "photography"), light)
        stage.people.sort(key=lambda one: -_measure_depth(one.person, stage))
        others, things = self._dress(index, stage.people)
        taken = _take(stage, photography, rng, self.config.instants)
        nobody = torch.empty(0)
        world = World(
            nobody, others[0].look, light, sky_axes, sky_colours, scene, boxes, photography, taken
        )
        world.placed, world.others = placed, others
        world.things = stack_things(things) if things else None
        self._put_photo(world, index)
        if scene.photo:  # a dome that nobody is beyond
            scene.photo_radius = float(max(scene.photo_radius, _measure_reach(stage, centre)))
        return world

    def _dress(self, index: int, people: list[Standing]) -> tuple[list[Other], list[Thing]]:
        """Everybody's looks, and what they hold, carry and have on their heads."""
        domain, others = self.config.domain, []
        things: list[Thing] = []
        for number, one in enumerate(people):
            person, further = one.person, 100 * one.which
            rng = self.random(index, BODIES + further + 1)
            look = outfits.draw_look(rng, person.female, person.child, self.bank)
            if domain.hand_detail:
                hand_looks.add_hand_look(self.random(index, HAND_LOOKS + further), look)
            rng = self.random(index, HAIR + further)
            if rng.random() < domain.hair_share:
                style, hat = worn.draw_hair(rng, person.female, person.child, self.bank.looks)
                worn.fill_look(rng, look, style, hat)
                vertices = person.vertices.cpu().numpy()
                for thing in worn.make_worn(rng, self.anchors, vertices, look, style, hat):
                    thing.label = number + 1
                    things.append(thing)
            if domain.held_share:
                things += carry_things(self, person, index, one.which)
            others.append(Other(person.vertices, look, number + 1))
        return others, things

    def _frame(
        self,
        index: int,
        stage: Stage,
        world: World,
        images: FrameImages,
        instant: int,
        jpeg: bytes,
    ) -> Frame:
        """The Frame of an instant, with labels of everybody who is in it."""
        K, Rt = shots.read_calibration(world.shots[instant])
        scene = f"{population(self.config)}-{index}"
        found, ids = [], np.zeros_like(images.ids[instant])
        for number, one in enumerate(stage.people):
            vertices = one.person.vertices[instant].cpu().numpy()[self.template.body]
            sight = find_sight(
                one.person,
                vertices,
                instant,
                number,
                (K, Rt),
                images,
                self.template.area,
                self.keypoints,
            )
            if sight is not None:
                track = str(one.which)
                found.append((f"{scene}-{track}", track, one.person, sight))
                ids[images.ids[instant] == number + 1] = len(found)
        people, labels = make_frame_labels(found, instant)
        return Frame(
            f"{scene}-{instant:02d}",
            MADE,
            LICENCE,
            stage.view.width,
            stage.view.height,
            scene,
            people,
            time_s=float(stage.people[0].person.times_s[instant]),
            K=K,
            Rt=Rt,
            jpeg=jpeg,
            ids=ids,
            labels=labels,
        )


def _measure_depth(person: Person, stage: Stage) -> float:
    """Metres along the optical axis to a person's middle at the first instant."""
    return float((person.points[0].mean(0) - stage.view.eye) @ stage.axis)


def _measure_reach(stage: Stage, centre: np.ndarray) -> float:
    """Metres from the middle within which everybody and the camera are, and some more."""
    places = [one.person.points.reshape(-1, 3) for one in stage.people] + [stage.view.eye[None]]
    every = np.concatenate(places)[:, :2] - centre[:2]
    return float(np.linalg.norm(every, axis=1).max()) + 2.0


def _find_middle(stage: Stage) -> tuple[np.ndarray, float]:
    """(3,) the middle of those who are near each other before the camera, and their radius."""
    people = [one.person for one in stage.people]
    depths = np.array([_measure_depth(person, stage) for person in people])
    near = [p for p, d in zip(people, depths, strict=True) if d < depths.min() + MAP_RADIUS_M]
    points = np.concatenate([person.points.reshape(-1, 3) for person in near]).astype(np.float64)
    centre = (points.min(0) + points.max(0)) / 2
    radius = float(np.linalg.norm(points - centre, axis=1).max())
    return centre, float(np.clip(radius, 0.9, MAP_RADIUS_M))


def _sharpen_light(light: Struct, radius: float) -> None:
    """Give a Light's maps texels of one size whatever they hold; see scene.sample_light."""
    sky = int(np.clip(round(2.3 * radius / TEXEL_M), scenes.SKY_SIDE, MOST_SKY))
    shadow = 2.15 * radius / TEXEL_M * 2
    shadow = int(np.clip(8 * round(shadow / 8), scenes.SHADOW_SIDE, MOST_SHADOW))
    light.sky_scale *= sky / light.sky_side
    light.shadow_scale *= shadow / light.shadow_side
    light.sky_side, light.shadow_side, light.contact = sky, shadow, float(radius + 1.0)


def _take(
    stage: Stage,
    photography: shots.Photography,
    rng: np.random.Generator,
    instants: int,
) -> list[Struct]:
    """The Shot of each instant, by one camera."""
    gain, view, rotation = vec3(photography.gain), stage.view, stage.rotation
    return [
        fill_struct(
            Shot,
            instant=instant,
            rotation=mat33(rotation),
            translation=vec3(-rotation @ view.eye),
            focal=view.focal,
            cx=view.width / 2,
            cy=view.height / 2,
            eye=vec3(view.eye),
            gain=gain,
            # It darkens towards the corners of a square, which these frames are not.
            vignette=0.0,
            noise=photography.noise,
            noise_x=rng.integers(256),
            noise_y=rng.integers(256),
        )
        for instant in range(instants)
    ]
