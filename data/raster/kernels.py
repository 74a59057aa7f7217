"""Warp functions of one triangle's samples, and of the depth buffer.

A depth buffer holds, per sample, the nearness' bits above the triangle's index, so that one atomic
maximum keeps the nearest triangle and the result does not depend on the order. The nearness is what
is linear on the screen and larger for what is nearer: 1 / z, or a constant less z for a camera
without perspective. 0 is a sample where nothing was drawn.
"""

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.struct
class Edges:
    """A triangle on the screen, prepared for its samples.

    x0 to x1 and y0 to y1 are the samples whose centres it may cover; ax, ay, bx, by the first two
    barycentric weights' change along x and y; cx, cy its last corner, where both are 0.
    """

    x0: int
    x1: int
    y0: int
    y1: int
    ax: float
    ay: float
    bx: float
    by: float
    cx: float
    cy: float


@wp.func
def screen_area(a: wp.vec3, b: wp.vec3, c: wp.vec3):
    """Twice a triangle's area on the screen, above 0 where its corners go from x towards y."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])


@wp.func
def prepare_edges(a: wp.vec3, b: wp.vec3, c: wp.vec3, area: float, width: int, height: int):
    """The Edges of a triangle of this ``screen_area``, which is not 0, within (width, height)."""
    e = Edges()
    # Bounded as floats: a corner far outside is not an int32.
    e.x0 = int(wp.ceil(wp.max(wp.min(a[0], wp.min(b[0], c[0])), 0.5) - 0.5))
    e.x1 = int(wp.floor(wp.min(wp.max(a[0], wp.max(b[0], c[0])), float(width) - 0.5) - 0.5))
    e.y0 = int(wp.ceil(wp.max(wp.min(a[1], wp.min(b[1], c[1])), 0.5) - 0.5))
    e.y1 = int(wp.floor(wp.min(wp.max(a[1], wp.max(b[1], c[1])), float(height) - 0.5) - 0.5))
    inverse = 1.0 / area
    e.ax = (b[1] - c[1]) * inverse
    e.bx = (c[1] - a[1]) * inverse
    e.ay = (c[0] - b[0]) * inverse
    e.by = (a[0] - c[0]) * inverse
    e.cx = c[0]
    e.cy = c[1]
    return e


@wp.func
def corner_weights(e: Edges, x: int, y: int):
    """The barycentric weights at a sample's centre; one is below 0 where it is not covered."""
    dx = float(x) + 0.5 - e.cx
    dy = float(y) + 0.5 - e.cy
    wa = e.ax * dx + e.ay * dy
    wb = e.bx * dx + e.by * dy
    return wp.vec3(wa, wb, 1.0 - wa - wb)


@wp.func
def keep_nearest(
    depth: wp.array2d(dtype=wp.uint64), n: int, i: int, nearness: float, triangle: int
):
    """Put a triangle into sample i of image n, unless a nearer one is there."""
    bits = wp.uint64(wp.cast(nearness, wp.uint32)) << wp.uint64(32)
    wp.atomic_max(depth, n, i, bits | wp.uint64(triangle))


@wp.func
def sample_face(key: wp.uint64):
    """The triangle of a sample."""
    return int(key & wp.uint64(0xFFFFFFFF))


@wp.func
def sample_nearness(key: wp.uint64):
    """The nearness of a sample, 0 where nothing was drawn."""
    return wp.cast(wp.uint32(key >> wp.uint64(32)), float)
