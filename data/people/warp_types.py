"""The structs that host code fills and Warp kernels read. Colours are linear RGB; lengths metres.

"Template" coordinates and fields are those of template.py.
"""

from collections.abc import Iterable
from typing import Any

import warp as wp

# An instance of one of the structs below: Warp makes their types when it reads them.
Struct = Any
MAX_BOXES = 8
PHOTO_SIDE = wp.constant(1024)  # pixels of a photograph's first level
PHOTO_LEVELS = wp.constant(4)
SKY_DIRECTIONS = 10
# What a pixel shows; the label image holds these, 0 where no person is.
MATERIALS = (
    "none",
    "skin",
    "top",
    "bottom",
    "shoe",
    "hair",
    "eye",
    "sock_or_glove",
    "underwear",
    "hat",
    "mouth",
)


@wp.struct
class Look:
    """What one person wears and looks like; wardrobe.py draws it."""

    sleeve: float  # garments end here along the arm (0 shoulder, 1 wrist) ...
    leg: float  # ... and along the leg (0 hip, 1 ankle)
    # height of the top's hem; of the trousers' waist; of the skirt's hem (0: no skirt), template
    # metres
    hem: float
    waist: float
    skirt: float
    neck_height: float  # neckline at the front, and how fast it rises to the sides
    neck_slope: float
    tucked: int
    shoe: float  # shoes and socks begin here along the leg (above 1.5: none)
    sock: float
    glove: int
    top_thickness: float
    bottom_thickness: float
    loose: float
    flare: float
    fold: float
    seed: float
    hair_on: int
    strands_from: float  # long hair shows above this height, template metres
    hairline_shift: float
    hair_thickness: float
    hat: int
    beard: float
    brow: float
    mottle: float
    oily: float
    skin: wp.vec3
    lip: wp.vec3
    nail: wp.vec3
    hair: wp.vec3
    iris: wp.vec3
    top_a: wp.vec3
    top_b: wp.vec3
    bottom_a: wp.vec3
    bottom_b: wp.vec3
    shoe_colour: wp.vec3
    sole: wp.vec3
    sock_colour: wp.vec3
    hat_colour: wp.vec3
    top_pattern: int
    top_scale: float
    top_texture: int
    bottom_pattern: int
    bottom_scale: float
    bottom_texture: int
    print_texture: int  # a print on the chest, 0 for none
    # The rest is of outfits.py, and 0 is as if it were not there. A coat's lower part is the skirt.
    coat: int
    open_front: float  # half the width of what shows between the sides of an open top, metres
    top_turn: float  # of the pattern on the cloth, radians
    bottom_turn: float
    top_detail: int  # 1 sleeves, 2 below and 5 above detail_at, 3 buttons, 4 a band, 6 cuffs
    detail_at: float
    bottom_detail: int  # 1 a stripe along the side, 2 a belt, 3 cuffs
    back_print: int  # of the print's size on the back, 0 for none
    detail_colour: wp.vec3
    # hands seen near, see hand_looks.py; with hand_detail at 0 none of it is drawn
    hand_detail: float
    hand_blood: float
    tendon: float
    vein: float
    vein_at: float
    wrinkle: float
    cuff: float  # 1: long sleeves close around the wrist, cuff_gap metres off it
    cuff_gap: float
    band: float  # half the width of a watch or bracelet, metres; 0: none
    band_at: float  # metres up the forearm from the wrist
    band_side: float  # 1 the left wrist, -1 the right
    band_colour: wp.vec3
    dial: float  # radius, metres; 0: none
    dial_colour: wp.vec3
    ring: int  # 1 the index finger to 4 the little finger; 0: none
    ring_side: float
    ring_width: float  # half of it, metres
    ring_colour: wp.vec3


@wp.struct
class Light:
    """A key light with a shadow map, and a sky.

    The sky's occlusion is gathered from SKY_DIRECTIONS small depth maps.
    """

    direction: wp.vec3
    colour: wp.vec3
    axes: wp.mat33  # rows x, y, z of the shadow map; z grows away from the light
    centre: wp.vec3  # world point in the middle of all maps
    shadow_side: int
    shadow_scale: float  # texels a metre
    sky_side: int
    sky_scale: float
    sky: wp.vec3
    horizon: wp.vec3
    ground: wp.vec3
    contact: float  # metres from the centre up to which people darken the floor below them


@wp.struct
class Scene:
    """A room (outdoors = 0) or the open air (1) around the person."""

    outdoors: int
    half_x: float
    half_y: float
    height: float
    centre_x: float
    centre_y: float
    boxes: int
    ground_texture: int
    ground_scale: float
    ground_colour: wp.vec3
    wall_scale: float
    wall_texture: int
    wall_colour: wp.vec3
    wall2_texture: int  # walls across y; outdoors the skyline
    wall2_colour: wp.vec3
    ceiling: wp.vec3
    zenith: wp.vec3
    haze: wp.vec3
    rotation: float
    photo: int  # 1: a photograph on a dome, in place of walls and sky
    photo_centre: wp.vec3  # it is laid out as seen from here
    photo_radius: float  # of the dome, metres
    photo_scale: float  # heights of the photograph a radian
    photo_middle: float  # elevation of its middle
    photo_colour: wp.vec3


@wp.struct
class Box:
    """A box in the scene: centre and half sides in metres, rotated about the vertical."""

    centre: wp.vec3
    half: wp.vec3
    cos: float
    sin: float
    texture: int
    scale: float
    colour: wp.vec3


@wp.struct
class Shot:
    """One image: which instant, the pinhole, and the camera's manners.

    The pinhole has OpenCV axes and pixel centres at +0.5.
    """

    instant: int
    rotation: wp.mat33
    translation: wp.vec3
    focal: float  # pixels
    cx: float
    cy: float
    eye: wp.vec3
    gain: wp.vec3
    vignette: float
    noise: float
    noise_x: int
    noise_y: int


@wp.struct
class Surface:
    """What never changes about the mesh: see template.Template."""

    faces: wp.array(dtype=wp.vec3i)
    layer: wp.array(dtype=int)
    kind: wp.array(dtype=int)
    rest: wp.array(dtype=wp.vec3)
    limb: wp.array(dtype=wp.vec4)
    detail: wp.array(dtype=wp.vec4)


@wp.struct
class Textures:
    """The bank of textures.py: square roots of linear RGB, all mip levels of a texture in a row.

    And a photograph of PHOTO_SIDE in the same way, where a scene has one.
    """

    colour: wp.array(dtype=wp.vec3ub)
    grey: wp.array(dtype=wp.uint8)
    photo: wp.array(dtype=wp.vec3ub)


@wp.struct
class Dressed:
    """The person at all T instants, dressed.

    (T, V) positions, unit normals and light from the sky.
    """

    position: wp.array2d(dtype=wp.vec3)
    normal: wp.array2d(dtype=wp.vec3)
    ambient: wp.array2d(dtype=wp.vec3)


@wp.struct
class Part:
    """The surface of a thing: a colour times a texture of the bank (0: none).

    ``scale`` is in tiles a metre; the label is an index into MATERIALS, 0 for nothing of the
    person's.
    """

    texture: int
    scale: float
    colour: wp.vec3
    shine: float
    label: int


@wp.struct
class Things:
    """All things of a clip: (T, P) positions and normals, (P,) texture coordinates in metres.

    (F,) triangles, and which Part each is of.
    """

    position: wp.array2d(dtype=wp.vec3)
    normal: wp.array2d(dtype=wp.vec3)
    uv: wp.array(dtype=wp.vec2)
    faces: wp.array(dtype=wp.vec3i)
    part: wp.array(dtype=int)


@wp.struct
class Layers:
    """What is drawn apart from the person, (N, size, size), where ``used`` is 1.

    The colour is multiplied by the cover already; ``near`` is the nearest inverse depth, and
    ``label`` is that of what is nearest.
    """

    used: int
    colour: wp.array3d(dtype=wp.vec3)
    cover: wp.array3d(dtype=float)
    near: wp.array3d(dtype=float)
    label: wp.array3d(dtype=wp.uint8)


@wp.struct
class LightMaps:
    """Depths from the lights, larger is nearer.

    Sky (T, SKY_DIRECTIONS, side^2), key (T, side, side) and its blocks.
    """

    sky_axes: wp.array(dtype=wp.mat33)
    sky_colour: wp.array(dtype=wp.vec3)
    sky: wp.array3d(dtype=float)
    key: wp.array3d(dtype=float)
    blocks: wp.array3d(dtype=wp.vec2)


def vec3(values: Iterable[float]) -> wp.vec3:
    """wp.vec3 of three numbers."""
    return wp.vec3(*(float(v) for v in values))


def mat33(rows: Iterable[Iterable[float]]) -> wp.mat33:
    """wp.mat33 of a (3, 3) array."""
    return wp.mat33(*(float(v) for row in rows for v in row))


def fill_struct(kind: Any, **values: object) -> Struct:
    """A struct of this kind with its fields set.

    Warp takes Python's own numbers only, not numpy's.
    """
    struct = kind()
    for name, value in values.items():
        declared = kind.vars[name].type
        number = {wp.int32: int, wp.float32: float}.get(declared)
        setattr(struct, name, number(value) if number else value)
    return struct
