"""Warp functions of hands seen near: blood, tendons, veins and creases, and what hands wear.

Places are those of anny's template body (template.py), in metres: it is symmetric, so those of the
left hand serve both, at the absolute value of x. ``look`` is an array of one Look, as in
kernels_cloth.py.
"""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018

import warp as wp

from data.people.warp_types import Look

wp.set_module_options({"enable_backward": False})

WRIST = wp.constant(wp.vec3(0.4929, -0.1869, 1.0830))
ALONG = wp.constant(wp.vec3(0.5153, -0.6840, -0.5164))  # of the forearm, towards the hand
BACK = wp.constant(wp.vec3(0.7774, -0.0447, 0.6274))  # out of the back of the hand
# Roots and middle joints of index, middle, ring and little finger: a column each.
ROOTS = wp.constant(
    wp.types.matrix((3, 4), float)(
        [0.5224, 0.5394, 0.5477, 0.5497]
        + [-0.2895, -0.2704, -0.2519, -0.2311]
        + [1.0391, 1.0268, 1.0186, 1.0094]
    )
)
MIDDLES = wp.constant(
    wp.types.matrix((3, 4), float)(
        [0.5261, 0.5476, 0.5581, 0.5562]
        + [-0.3121, -0.2928, -0.2674, -0.2396]
        + [1.0231, 0.9993, 0.9926, 0.9889]
    )
)
# Where the last phalanges of all five, the thumb first, are half way.
TIPS = wp.constant(
    wp.types.matrix((3, 5), float)(
        [0.4517, 0.5254, 0.5521, 0.5652, 0.5592]
        + [-0.3083, -0.3390, -0.3209, -0.2881, -0.2491]
        + [1.0426, 0.9970, 0.9651, 0.9589, 0.9658]
    )
)
RING_M = wp.constant(0.013)  # a finger's skin is that near to its bone, and its neighbour's is not


@wp.func
def bump(distance: float, width: float):
    """Return 1 at no distance, falling off as a normal distribution does."""
    x = distance / width
    return wp.exp(-x * x)


@wp.func
def mark_skin(
    c: wp.vec3,
    q: wp.vec3,
    arm: float,
    detail: wp.vec4,
    blotch: float,
    look: wp.array(dtype=Look),
):
    """Skin ``c`` with blood in knuckles and tips, tendons, veins and wrinkles over the joints.

    ``q`` is the template point mirrored to the left hand; ``blotch`` slow noise there.
    """
    back = 1.0 - wp.clamp(detail[0] * 1.6, 0.0, 1.0)
    blood = look[0].hand_blood * bump(detail[1], 0.006) * (0.35 + 0.65 * back)
    light = float(1.0)
    for k in range(4):
        root = wp.vec3(ROOTS[0, k], ROOTS[1, k], ROOTS[2, k])
        blood = wp.max(blood, look[0].hand_blood * 0.8 * back * bump(wp.length(q - root), 0.011))
        way = root - WRIST
        length = wp.length(way)
        way = way / length
        u = wp.dot(q - WRIST, way)
        off = wp.length(q - WRIST - way * u - BACK * wp.dot(q - WRIST - way * u, BACK))
        on = wp.clamp(u / length * 2.2 - 0.6, 0.0, 1.0) * wp.clamp(
            (length * 1.15 - u) * 60.0, 0.0, 1.0
        )
        light += look[0].tendon * back * on * (bump(off, 0.0032) - 0.45 * bump(off - 0.0085, 0.004))
        if k < 3:  # between two knuckles the skin lies deeper
            valley = (
                root + wp.vec3(ROOTS[0, k + 1], ROOTS[1, k + 1], ROOTS[2, k + 1])
            ) * 0.5 + ALONG * 0.006
            light -= look[0].tendon * 1.2 * back * bump(wp.length(q - valley), 0.0075)
    for k in range(5):
        tip = wp.vec3(TIPS[0, k], TIPS[1, k], TIPS[2, k])
        blood = wp.max(blood, look[0].hand_blood * bump(wp.length(q - tip), 0.012))
    c = c * light
    c = wp.cw_mul(c, wp.vec3(1.0, 1.0, 1.0) * (1.0 - blood) + wp.vec3(1.16, 0.74, 0.72) * blood)
    vein = bump(blotch - look[0].vein_at, 0.012) * look[0].vein * (0.3 + 0.7 * back)
    c = wp.cw_mul(c, wp.vec3(1.0 - 0.20 * vein, 1.0 - 0.10 * vein, 1.0 - 0.05 * vein))
    # Three wrinkles over each joint's back, one in its fold.
    wave = 0.5 + 0.5 * wp.cos(detail[1] * 2400.0)
    wrinkle = bump(detail[1], 0.0045) * back * wave * wp.clamp((arm - 1.02) * 20.0, 0.0, 1.0)
    fold = bump(detail[1], 0.0014) * (1.0 - back)
    return c * (1.0 - look[0].wrinkle * (0.5 * wrinkle + 0.7 * fold))


@wp.func
def wear_band(c: wp.vec3, p: wp.vec3, q: wp.vec3, look: wp.array(dtype=Look)):
    """Skin ``c``, or the watch or bracelet over it."""
    centre = WRIST - ALONG * look[0].band_at
    off = q - centre
    height = wp.dot(off, ALONG)
    around = wp.normalize(off - ALONG * height)
    if p[0] * look[0].band_side > 0.0:
        if wp.abs(height) < look[0].band:
            edge = wp.abs(height) / look[0].band
            c = look[0].band_colour * (1.1 - 0.5 * edge * edge)
        if look[0].dial > 0.0 and wp.dot(around, BACK) > 0.0:
            across = wp.length(wp.cross(around, BACK)) * 0.024
            far = wp.sqrt(across * across + height * height) / look[0].dial
            if far < 1.0:
                c = look[0].dial_colour
                if far > 0.84:
                    c = look[0].band_colour * 0.4 + wp.vec3(0.25, 0.25, 0.25)
    return c


@wp.func
def wear_ring(c: wp.vec3, p: wp.vec3, q: wp.vec3, look: wp.array(dtype=Look)):
    """Skin ``c``, or the ring over it."""
    k = look[0].ring - 1
    root = wp.vec3(ROOTS[0, k], ROOTS[1, k], ROOTS[2, k])
    way = wp.vec3(MIDDLES[0, k], MIDDLES[1, k], MIDDLES[2, k]) - root
    length = wp.length(way)
    way = way / length
    u = wp.dot(q - root, way)
    off = wp.length(q - root - way * u)
    edge = wp.abs(u - 0.62 * length) / look[0].ring_width
    if p[0] * look[0].ring_side > 0.0 and off < RING_M and edge < 1.0:
        c = look[0].ring_colour * (1.15 - 0.6 * edge * edge)
    return c


@wp.func
def paint_hand(
    c: wp.vec3,
    p: wp.vec3,
    limb: wp.vec4,
    detail: wp.vec4,
    blotch: float,
    look: wp.array(dtype=Look),
):
    """Skin ``c`` of a hand or a wrist at a template point, in detail."""
    q = wp.vec3(wp.abs(p[0]), p[1], p[2])
    if limb[0] > 0.97 and limb[3] < 0.4:
        c = mark_skin(c, q, limb[0], detail, blotch, look)
    if look[0].band > 0.0:
        c = wear_band(c, p, q, look)
    if look[0].ring > 0:
        c = wear_ring(c, p, q, look)
    return c
