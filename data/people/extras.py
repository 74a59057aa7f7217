"""Puts other people, hair, hats and things into a World; off where the domain's shares are 0."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from data.people import company, held, outfits, worn
from data.people.render import Other, World
from data.people.scene import SHADOW_SIDE
from data.people.things import Thing, stack_things
from data.people.warp_types import Struct

if TYPE_CHECKING:
    from data.people.maker import ClipMaker, Person

# Purposes of random numbers: see maker.ClipMaker.random.
OTHERS, HELD, PACKS, HAIR = 61, 62, 63, 64
SECOND_SHARE = 0.3  # of clips with another person that have two
PACK_SHARE = 0.4  # of held_share: those with something on their backs
_SHADOW_PART = 2.15  # scene.sample_light
_FARTHEST_M = 2.6


def add_extras(maker: "ClipMaker", world: World, person: "Person", index: int) -> None:
    """Put into the World of clip ``index`` what the maker's domain asks for around the person."""
    domain = maker.config.domain
    things: list[Thing] = []
    if domain.others_share:
        _add_others(maker, world, person, index)
    if domain.hair_share:
        things += _dress_heads(maker, world, person, index)
    if domain.held_share:
        things += carry_things(maker, person, index)
    if things:
        world.things = stack_things(things)


def carry_things(maker: "ClipMaker", person: "Person", index: int, which: int = 0) -> list[Thing]:
    """What a person of a clip holds, and what is on the back; ``which`` as in make_person."""
    share, things = maker.config.domain.held_share, []
    rng = maker.random(index, HELD + 100 * which)
    plan = held.draw_plan(rng, share)
    if plan is not None:
        palms = held.find_palms(person.joints, maker.index)
        points = person.points.astype(np.float64)
        things += held.make_held(rng, plan, palms, points, maker.bank)
    rng = maker.random(index, PACKS + 100 * which)
    if rng.random() < share * PACK_SHARE:
        vertices = person.vertices.cpu().numpy()
        things += worn.make_backpack(rng, maker.anchors, vertices, maker.bank)
    return things


def _dress_heads(maker: "ClipMaker", world: World, person: "Person", index: int) -> list[Thing]:
    """Hair and hats of everybody by ``hair_share``; sets their looks, and returns the meshes."""
    rng = maker.random(index, HAIR)
    things = []
    everybody = [(person.vertices, world.look, person.female, person.child)]
    everybody += [(o.vertices, o.look, bool(rng.random() < 0.5), False) for o in world.others]
    for number, (vertices, look, female, child) in enumerate(everybody):
        if rng.random() >= maker.config.domain.hair_share:
            continue
        style, hat = worn.draw_hair(rng, female, child, maker.bank.looks)
        worn.fill_look(rng, look, style, hat)
        added = worn.make_worn(rng, maker.anchors, vertices.cpu().numpy(), look, style, hat)
        for thing in added:
            thing.label = 0 if number else thing.label
        things += added
    return things


def _add_others(maker: "ClipMaker", world: World, person: "Person", index: int) -> None:
    """One or two people around the person, where there is room for them."""
    rng, config = maker.random(index, OTHERS), maker.config
    if rng.random() >= config.domain.others_share:
        return
    points = person.points.astype(np.float64)
    eyes = np.unique(np.array([[*shot.eye] for shot in world.shots]), axis=0)
    target, most = points, company.MOST_HIDDEN
    if config.kind == "hand":
        target, most = np.concatenate(person.hand_points, 1).astype(np.float64), 0.0
    for which in range(1, 2 + (rng.random() < SECOND_SHARE)):
        other = maker.make_person(rng, index, which)
        own = other.points.astype(np.float64)
        moved = (
            None if other.sits.any() else company.place_other(rng, points, target, own, eyes, most)
        )
        if moved is None:
            continue
        place = own.mean((0, 1))[:2] + moved
        if not company.is_inside(place, world.scene):
            continue
        if not company.is_free(place, world.boxes[: world.placed]):
            continue
        clutter = world.boxes[world.placed :]
        free = [box for box in clutter if company.is_free(place, [box])]
        world.boxes = world.boxes[: world.placed] + free
        step = torch.from_numpy(np.array([*moved, 0.0], np.float32)).to(other.vertices.device)
        look = outfits.draw_look(rng, other.female, other.child, maker.bank)
        world.others.append(Other(other.vertices + step, look))
        points = np.concatenate([points, own + [*moved, 0.0]], 1)
    _widen_light(world.light, points)


def _widen_light(light: Struct, points: np.ndarray) -> None:
    """Let the maps of a Light hold points (T, n, 3) too, up to 2.6 m from its middle."""
    far = float(np.linalg.norm(points - np.array([*light.centre]), axis=-1).max())
    radius = SHADOW_SIDE / (_SHADOW_PART * light.shadow_scale)
    wider = min(far, _FARTHEST_M) / radius
    if wider > 1:
        light.shadow_scale /= wider
        light.sky_scale /= wider
