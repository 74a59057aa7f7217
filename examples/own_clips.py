"""Images of one person become a clip in a shard: python examples/own_clips.py OUT IMAGE ..."""

import os
import sys

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from data.format.clip import Clip, Crop
from data.format.shards import shard_name, write_shard
from data.sources.images import read_image

SIZE = 256
out, *paths = sys.argv[1:]

images = [Image.fromarray(read_image(path)) for path in paths]
squares = [ImageOps.fit(image, (SIZE, SIZE)) for image in images]
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
