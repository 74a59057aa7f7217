"""A crop's look as 64 bits: near-duplicates differ in a few of them, other images in about 32.

Source: the perceptual hash by the discrete cosine transform, Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010.
"""

import numpy as np

SIDE, KEPT = 32, 8
FLAT = 2.0  # grey levels: of an image that varies less, the hash would be that of its noise


def hash_look(image: np.ndarray) -> str | None:
    """16 hex digits of an image's look; None for one that shows next to nothing.

    Args:
        image: (H, W, 3) uint8.
    """
    import cv2  # readers of clips start without it

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < FLAT:
        return None
    low = cv2.dct(small)[:KEPT, :KEPT].ravel()
    # The first coefficient is the mean brightness: it says nothing of the look.
    bits = low > np.median(low[1:])
    return f"{int.from_bytes(np.packbits(bits).tobytes(), 'big'):016x}"


def is_look(text: object) -> bool:
    """Whether a value is what ``hash_look`` returns."""
    return text is None or (
        isinstance(text, str) and len(text) == 16 and not text.strip("0123456789abcdef")
    )


def count_bits(values: np.ndarray) -> np.ndarray:
    """How many bits are set in each of uint64 values."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    bytes_of = np.ascontiguousarray(values)[..., None].view(np.uint8)
    return _SET[bytes_of].sum(-1, dtype=np.uint8)


_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
