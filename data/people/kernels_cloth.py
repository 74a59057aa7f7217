"""Warp functions: where garments, hair and skin are on the body, and what colour they have there.

All decisions are thresholds on template fields, taken per pixel. ``look`` is an array of one Look:
a struct of this size passed by value into every function costs more than the lookup.
"""

# In a Warp kernel float(0.0) declares a variable; a bare 0.0 is a constant that a loop cannot
# change.
# ruff: noqa: UP018, SIM102

import warp as wp

from data.people.kernels_hand import paint_hand
from data.people.warp_types import Look, Textures

wp.set_module_options({"enable_backward": False})

Looks = wp.array(dtype=Look)
TEXTURE_STRIDE = wp.constant(
    87296
)  # texels of one texture with its 5 mip levels, 256^2 + 128^2 + ... + 16^2
INVERSE_255 = wp.constant(1.0 / 255.0)  # a product costs a fifth of a division, here once a texel
MIP_START = wp.constant(wp.types.vector(5, int)(0, 65536, 81920, 86016, 87040))


@wp.func
def ramp(a: float, b: float, x: float):
    """Smooth step: 0 at a, 1 at b (which may be the smaller)."""
    t = wp.clamp((x - a) / (b - a), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def log2_above_1(x: float):
    """log2 of x >= 1 from the float's bits: a mip level needs no more than one decimal."""
    bits = wp.cast(wp.max(x, 1.0), wp.uint32)
    return float(int(bits >> wp.uint32(23)) - 127) + float(bits & wp.uint32(0x7FFFFF)) * (
        1.0 / 8388608.0
    )


@wp.func
def texture(bank: wp.array(dtype=wp.vec3ub), which: int, u: float, v: float, lod: float):
    """Linear RGB, bilinear in the nearest mip level; u, v in tiles."""
    level = wp.clamp(int(lod + 0.5), 0, 4)
    side = 256 >> level
    start = which * TEXTURE_STRIDE + MIP_START[level]
    x = (u - wp.floor(u)) * float(side) - 0.5
    y = (v - wp.floor(v)) * float(side) - 0.5
    fx = wp.floor(x)
    fy = wp.floor(y)
    x0 = (int(fx) + side) & (side - 1)
    y0 = (int(fy) + side) & (side - 1)
    x1 = (x0 + 1) & (side - 1)
    y1 = (y0 + 1) & (side - 1)
    dx = x - fx
    dy = y - fy
    a = bank[start + y0 * side + x0]
    b = bank[start + y0 * side + x1]
    c = bank[start + y1 * side + x0]
    d = bank[start + y1 * side + x1]
    wa = (1.0 - dx) * (1.0 - dy)
    wb = dx * (1.0 - dy)
    wc = (1.0 - dx) * dy
    wd = dx * dy
    red = (wa * float(a[0]) + wb * float(b[0]) + wc * float(c[0]) + wd * float(d[0])) * INVERSE_255
    green = (
        wa * float(a[1]) + wb * float(b[1]) + wc * float(c[1]) + wd * float(d[1])
    ) * INVERSE_255
    blue = (wa * float(a[2]) + wb * float(b[2]) + wc * float(c[2]) + wd * float(d[2])) * INVERSE_255
    return wp.vec3(red * red, green * green, blue * blue)


@wp.func
def grey(bank: wp.array(dtype=wp.uint8), which: int, u: float, v: float, lod: float):
    """As ``texture``, one channel of the first four, which are noise."""
    level = wp.clamp(int(lod + 0.5), 0, 4)
    side = 256 >> level
    start = which * TEXTURE_STRIDE + MIP_START[level]
    x = (u - wp.floor(u)) * float(side) - 0.5
    y = (v - wp.floor(v)) * float(side) - 0.5
    fx = wp.floor(x)
    fy = wp.floor(y)
    x0 = (int(fx) + side) & (side - 1)
    x1 = (x0 + 1) & (side - 1)
    row0 = start + ((int(fy) + side) & (side - 1)) * side
    row1 = start + ((int(fy) + side + 1) & (side - 1)) * side
    dx = x - fx
    dy = y - fy
    t = (1.0 - dy) * ((1.0 - dx) * float(bank[row0 + x0]) + dx * float(bank[row0 + x1]))
    t += dy * ((1.0 - dx) * float(bank[row1 + x0]) + dx * float(bank[row1 + x1]))
    t *= INVERSE_255
    return t * t


@wp.func
def above_hairline(p: wp.vec3, shift: float):
    """Return the height above the hairline, positive where scalp hair grows.

    Forehead, temples, ears, nape by depth y.
    """
    y = p[1]
    line = float(0.0)
    if y < -0.092:
        line = 1.733 - shift - 0.25 * wp.max(0.0, wp.abs(p[0]) - 0.045)
    elif y < -0.058:
        line = wp.lerp(1.733 - shift, 1.662, (y + 0.092) / 0.034)
    elif y < -0.006:
        line = wp.lerp(1.662, 1.672, (y + 0.058) / 0.052)
    else:
        line = wp.max(1.575, wp.lerp(1.672, 1.578, (y + 0.006) / 0.030))
    return p[2] - line


@wp.func
def in_top(p: wp.vec3, arm: float, look: Looks):
    """Return whether a point of the rest pose, metres, lies under the top."""
    back = ramp(-0.10, 0.03, p[1])
    front = look[0].neck_height + look[0].neck_slope * wp.abs(p[0])
    neck = (1.0 - back) * front + back * 1.512 + 1.2 * wp.max(0.0, wp.abs(p[0]) - 0.07)
    if look[0].neck_height > 1.53:  # a turtleneck closes level all round
        neck = look[0].neck_height
    return arm < look[0].sleeve and p[2] > look[0].hem and (p[2] < neck or arm > 0.05)


@wp.func
def in_bottom(p: wp.vec3, arm: float, leg: float, look: Looks):
    """Return whether a point of the rest pose, metres, lies under the trousers or shorts."""
    if look[0].skirt > 0.001 and look[0].coat == 0:
        return False
    return arm < -0.5 and p[2] < look[0].waist and leg < look[0].leg


@wp.func
def material(layer: int, p: wp.vec3, limb: wp.vec4, detail: wp.vec4, look: Looks):
    """Index into MATERIALS less one; -1 where a garment's suit has no cloth."""
    if layer == 1:
        return 5
    if layer == 3:
        if look[0].coat > 0:
            return 1
        return 2
    if layer == 4:
        return 4
    arm = limb[0]
    leg = limb[1]
    if layer == 0:
        if detail[2] > 1.5:
            return 9
        if arm < -0.5 and p[2] > 1.52:
            if above_hairline(p, look[0].hairline_shift) > 0.0 and (
                detail[2] < 0.75 or p[2] > 1.69
            ):
                if look[0].hat > 0 and above_hairline(p, -0.005) > 0.006:
                    return 8
                if look[0].hair_on > 0:
                    return 4
            if look[0].neck_height < 1.53:
                return 0
        if leg > look[0].shoe:
            return 3
    # The body below a garment is painted like it, so that skin poking through the cloth does not
    # show.
    top = in_top(p, arm, look)
    bottom = in_bottom(p, arm, leg, look)
    if top and (look[0].tucked == 0 or not bottom):
        return 1
    if bottom:
        return 2
    if top:
        return 1
    if layer == 2:
        return -1
    if leg > look[0].sock:
        return 6
    if arm < -0.5 and leg < 0.06 and p[2] < 1.0:
        return 7
    if look[0].glove > 0 and arm > 0.985:
        return 6
    return 0


@wp.func
def worn(layer: int, p: wp.vec3, limb: wp.vec4, look: Looks):
    """Whether the helper geometry exists at this point of the template."""
    if layer == 2:
        return in_top(p, limb[0], look) or in_bottom(p, limb[0], limb[1], look)
    if layer == 3:
        if look[0].coat > 0 and p[1] < 0.0 and wp.abs(p[0]) < look[0].open_front:
            return False
        return look[0].skirt > 0.001 and p[2] > look[0].skirt and p[2] < look[0].waist + 0.03
    if layer == 4:
        if p[2] < look[0].strands_from:
            return False
        over_face = p[1] < -0.075 and p[2] < 1.72 - 0.35 * wp.abs(p[0]) and wp.abs(p[0]) < 0.085
        return not over_face and (p[1] > -0.055 or p[2] > 1.50)
    return True


@wp.func
def stripe(x: float, soft: float):
    """Return 0 to 1 across one period of stripes; x counts periods, soft blurs the edges."""
    return ramp(0.5 - soft, 0.5 + soft, wp.abs(2.0 * (x - wp.floor(x)) - 1.0))


@wp.func
def pattern(
    kind: int,
    scale: float,
    which: int,
    a: wp.vec3,
    b: wp.vec3,
    u: float,
    v: float,
    lod: float,
    bank: Textures,
):
    """Cloth: 0 plain, 1 and 2 stripes, 3 plaid, 4 a texture of the bank, 5 denim.

    6 is a texture whose light parts take one colour and whose dark parts take the other.
    """
    worn_out = 0.88 + 0.28 * grey(bank.grey, 0, u * 3.1 + v * 0.2, v * 3.3, lod)
    if kind == 0:
        return a * worn_out
    if kind == 1:
        w = stripe(v * scale, 0.04)
        return (a * w + b * (1.0 - w)) * worn_out
    if kind == 2:
        w = stripe(u * scale, 0.04)
        return (a * w + b * (1.0 - w)) * worn_out
    if kind == 3:
        w = 0.5 * stripe(v * scale, 0.1) + 0.5 * stripe(u * scale, 0.1)
        return (a * w + b * (1.0 - w)) * worn_out
    if kind == 4:
        t = texture(bank.colour, which, u * scale * 0.25, v * scale * 0.25, lod)
        return wp.cw_mul(t, a * 1.2 + wp.vec3(0.1, 0.1, 0.1)) * worn_out
    if kind == 6:
        t = texture(bank.colour, which, u * scale * 0.25, v * scale * 0.25, lod)
        rest = wp.vec3(1.0, 1.0, 1.0) - t
        return (wp.cw_mul(t, a) + wp.cw_mul(rest, b)) * worn_out
    thread = grey(bank.grey, 1, u * scale, v * scale * 0.35, lod)
    return a * (0.62 + 0.75 * thread) * worn_out


@wp.func
def turned(u: float, v: float, turn: float):
    """A point of cloth in the axes of a pattern that is turned on it."""
    if turn == 0.0:
        return u, v
    c = wp.cos(turn)
    s = wp.sin(turn)
    return c * u - s * v, s * u + c * v


@wp.func
def trim_top(c: wp.vec3, p: wp.vec3, arm: float, look: Looks):
    """The colour ``c`` of the upper garment, or of what is sewn to it or shows within it."""
    front = p[1] < 0.0 and arm < 0.02
    if front and wp.abs(p[0]) < look[0].open_front:
        return look[0].detail_colour
    kind = look[0].top_detail
    if kind == 0:
        return c
    at = look[0].detail_at
    trim = kind == 1 and arm > 0.06
    trim = trim or (kind == 2 and p[2] < at and arm < 0.06)
    trim = trim or (kind == 5 and p[2] > at and arm < 0.06)
    trim = trim or (kind == 4 and wp.abs(p[2] - at) < 0.03 and arm < 0.06)
    trim = trim or (kind == 6 and (arm > look[0].sleeve - 0.09 or p[2] < look[0].hem + 0.045))
    if kind == 3 and front:
        row = p[2] * 11.0
        off = wp.vec2(p[0], (row - wp.floor(row) - 0.5) / 11.0)
        trim = wp.length(off) < 0.008
        if wp.abs(wp.abs(p[0]) - 0.02) < 0.0025:
            return c * 0.7
    if trim:
        return look[0].detail_colour
    return c


@wp.func
def trim_bottom(c: wp.vec3, p: wp.vec3, leg: float, axis: float, look: Looks):
    """The colour ``c`` of the lower garment, or of its stripe, belt or cuffs."""
    kind = look[0].bottom_detail
    if kind == 0:
        return c
    trim = kind == 1 and wp.abs(p[1] - 0.01) < 0.014 and (p[0] - axis) * axis > 0.0
    trim = trim or (kind == 2 and p[2] > look[0].waist - 0.04)
    trim = trim or (kind == 3 and leg > look[0].leg - 0.05)
    if trim:
        return look[0].detail_colour
    return c


@wp.func
def face_paint(c: wp.vec3, p: wp.vec3, limb: wp.vec4, detail: wp.vec4, grain: float, look: Looks):
    """Lips, brows, eyelids and beard on the skin colour ``c`` of the head."""
    side = wp.abs(p[0])
    if p[1] < -0.085:
        c = wp.lerp(c, look[0].lip, wp.clamp(limb[2], 0.0, 1.0) * 0.85)
        along = (side - 0.011) / 0.043
        if along > 0.0 and along < 1.0:
            middle = 1.6815 + 0.0075 * wp.sin(along * 2.3 + 0.25)
            off = wp.abs(p[2] - middle) / (0.0058 * (1.0 - 0.55 * along))
            c = wp.lerp(
                c, look[0].hair * 0.8, look[0].brow * ramp(1.15, 0.55, off) * (0.7 + 0.5 * grain)
            )
        c = c * (1.0 - 0.25 * ramp(0.3, 0.9, detail[3]))
    jaw = ramp(1.614, 1.604, p[2] + 0.12 * wp.max(0.0, side - 0.035))
    beard = jaw * ramp(-0.045, -0.075, p[1]) * ramp(1.535, 1.552, p[2])
    if side < 0.03 and p[2] > 1.612:
        beard = 0.0
    return wp.lerp(
        c, look[0].hair * 0.9, look[0].beard * beard * (1.0 - limb[2]) * (0.55 + 0.7 * grain)
    )


@wp.func
def skin_colour(
    p: wp.vec3, limb: wp.vec4, detail: wp.vec4, lod: float, look: Looks, bank: Textures
):
    """Return the linear RGB of skin at a template point.

    Mottling, redness, nails, lips, brows, beard, creases.
    """
    arm = limb[0]
    leg = limb[1]
    blotch = grey(bank.grey, 0, p[0] * 2.3 + p[1] * 1.7 + look[0].seed, p[2] * 2.1, lod)
    grain = grey(bank.grey, 2, p[0] * 14.0 + p[1] * 9.0, p[2] * 13.0 + look[0].seed, lod)
    c = look[0].skin * (
        1.0 + look[0].mottle * (blotch - 0.35) * 1.2 + look[0].mottle * 0.7 * (grain - 0.3)
    )
    # Blood shows in face and ears, elbows, knees and fingers.
    red = 0.35 * detail[2] * (1.0 - ramp(1.0, 1.5, detail[2]))
    red = wp.max(red, 0.5 * ramp(0.05, 0.0, wp.abs(arm - 0.5)))
    red = wp.max(red, 0.5 * ramp(0.05, 0.0, wp.abs(leg - 0.52)))
    if arm > 1.0:
        red = wp.max(red, 0.35)
    c = wp.cw_mul(c, wp.vec3(1.0, 1.0, 1.0) * (1.0 - red) + wp.vec3(1.12, 0.86, 0.84) * red)
    c = wp.lerp(c, look[0].nail, wp.clamp(limb[3] * 1.3, 0.0, 1.0) * 0.75)
    if detail[0] > 0.01:
        c = wp.lerp(c, look[0].skin * 0.55 + wp.vec3(0.36, 0.22, 0.18), detail[0] * 0.75)
    if arm > 0.98:
        c = c * (1.0 - (0.08 + 0.16 * detail[0]) * wp.exp(-detail[1] * detail[1] * 390625.0))
    if look[0].hand_detail > 0.0 and arm > 0.8:
        c = paint_hand(c, p, limb, detail, blotch, look)
    if p[2] > 1.52 and arm < -0.5:
        c = face_paint(c, p, limb, detail, grain, look)
    return c


@wp.func
def top_colour(p: wp.vec3, arm: float, lod: float, look: Looks, bank: Textures):
    """Return the linear RGB of the upper garment at a template point.

    Its pattern, a print on the chest, a darker hem.
    """
    u = wp.atan2(p[0], -p[1]) * 0.14
    v = p[2]
    if arm > 0.02:
        u = (p[1] + p[2] * 0.6) * 0.9
        v = arm * 0.52
    u, v = turned(u, v, look[0].top_turn)
    c = pattern(
        look[0].top_pattern,
        look[0].top_scale,
        look[0].top_texture,
        look[0].top_a,
        look[0].top_b,
        u,
        v,
        lod,
        bank,
    )
    if look[0].print_texture > 0 and p[1] < -0.02 and arm < 0.02:
        x = (p[0] + 0.085) / 0.17
        y = (p[2] - 1.20) / 0.17
        if x > 0.0 and x < 1.0 and y > 0.0 and y < 1.0:
            c = wp.lerp(c, texture(bank.colour, look[0].print_texture, x, y, lod), 0.85)
    if look[0].back_print > 0 and p[1] > 0.02 and arm < 0.02:
        x = 0.5 - p[0] / 0.26
        y = (1.40 - p[2]) / 0.26
        if x > 0.0 and x < 1.0 and y > 0.0 and y < 1.0:
            c = wp.lerp(c, texture(bank.colour, look[0].print_texture, x, y, lod), 0.85)
    c = trim_top(c, p, arm, look)
    edge = wp.min(wp.abs(arm - look[0].sleeve) * 0.5, wp.abs(p[2] - look[0].hem))
    return c * (1.0 - 0.25 * ramp(0.012, 0.006, edge))


@wp.func
def bottom_colour(layer: int, p: wp.vec3, leg: float, lod: float, look: Looks, bank: Textures):
    """Return the RGB of trousers or a skirt (layer 3) at a point of the rest pose, metres."""
    axis = float(0.145)
    if p[0] < 0.0:
        axis = -0.145
    u = wp.atan2(p[0] - axis, -p[1]) * 0.075
    if layer == 3:
        u = wp.atan2(p[0], -p[1]) * 0.16
    u, v = turned(u, p[2], look[0].bottom_turn)
    c = pattern(
        look[0].bottom_pattern,
        look[0].bottom_scale,
        look[0].bottom_texture,
        look[0].bottom_a,
        look[0].bottom_b,
        u,
        v,
        lod,
        bank,
    )
    c = trim_bottom(c, p, leg, axis, look)
    if look[0].bottom_pattern == 5:  # denim wears pale over the thighs
        c = c * (1.0 + 0.35 * ramp(0.16, 0.03, wp.abs(p[2] - 0.68)) * ramp(0.0, -0.07, p[1]))
    return c


@wp.func
def eye_colour(p: wp.vec3, look: Looks):
    """Return the RGB of an eye at a point of the rest pose, metres: pupil, iris or white."""
    x = float(0.03088)
    if p[0] < 0.0:
        x = -0.03088
    way = wp.normalize(wp.vec3(p[0] - x, p[1] + 0.1144, p[2] - 1.6639))
    angle = wp.acos(wp.clamp(-way[1], -1.0, 1.0))
    if angle < 0.17:
        return wp.vec3(0.012, 0.01, 0.01)
    if angle < 0.50:
        rays = 0.7 + 0.6 * wp.abs(wp.sin(wp.atan2(way[2], way[0]) * 13.0))
        return look[0].iris * rays * (1.0 - 0.5 * ramp(0.42, 0.5, angle))
    return wp.vec3(0.72, 0.68, 0.65) * (1.0 - 0.25 * ramp(0.5, 1.2, angle))


@wp.func
def albedo(
    mat: int,
    layer: int,
    p: wp.vec3,
    limb: wp.vec4,
    detail: wp.vec4,
    lod: float,
    look: Looks,
    bank: Textures,
):
    """Linear RGB of the surface."""
    if mat == 0:
        return skin_colour(p, limb, detail, lod, look, bank)
    if mat == 1:
        return top_colour(p, limb[0], lod, look, bank)
    if mat == 2:
        return bottom_colour(layer, p, limb[1], lod, look, bank)
    if mat == 3:
        c = look[0].shoe_colour
        lace = p[2] > 0.05 and p[1] < -0.02 and p[1] > -0.12 and wp.abs(wp.sin(p[1] * 260.0)) > 0.8
        if p[2] < 0.022 or lace:
            c = look[0].sole
        return c
    if mat == 4:
        strand = grey(
            bank.grey, 3, p[0] * 9.0 + p[1] * 7.0, p[2] * 1.3 + p[1] * 0.9 + look[0].seed, lod
        )
        return look[0].hair * (0.5 + 1.05 * strand)
    if mat == 5:
        return eye_colour(p, look)
    if mat == 7:
        return look[0].bottom_a * 0.9 + wp.vec3(0.02, 0.02, 0.02)
    if mat == 8:
        cloth = pattern(
            0,
            8.0,
            0,
            look[0].hat_colour,
            look[0].hat_colour,
            wp.atan2(p[0], -p[1]) * 0.1,
            p[2],
            lod,
            bank,
        )
        return cloth * (0.75 + 0.25 * wp.abs(wp.sin(wp.atan2(p[0], -p[1] - 0.03) * 30.0)))
    if mat == 9:
        return wp.vec3(0.25, 0.06, 0.06)
    return look[0].sock_colour
