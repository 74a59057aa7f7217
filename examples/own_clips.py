"""Images of one person become a clip in a shard: python examples/own_clips.py OUT IMAGE ..."""

import os
import sys

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from data.format.clip import Clip, Crop
from data.format.shards import shard_name, write_shard

SIZE = 256
out, *paths = sys.argv[1:]

squares = [ImageOps.fit(Image.open(path).convert("RGB"), (SIZE, SIZE)) for path in paths]
clip = Clip(
    key="clip-0",
    source="mine",
    licence="CC-BY-4.0",
    subject="anna",  # who it is: validation is split by person
    size=SIZE,
    # One camera, an image a second. Images of one instant have one time and several cameras.
    crops=[Crop("phone", time_s=float(second)) for second in range(len(squares))],
    jpegs=[
        simplejpeg.encode_jpeg(np.ascontiguousarray(square), quality=92, colorspace="RGB")
        for square in squares
    ],
)
os.makedirs(out, exist_ok=True)
path = os.path.join(out, shard_name(0))
write_shard(path, [clip])  # any iterable of clips
print(f"wrote {len(squares)} images to {path}; look at them: counterpose data preview {out}")
