"""A mesh from an image with a fine-tuned run: python examples/mesh_from_image.py RUN IMAGE [OUT]"""

import sys
from pathlib import Path

from PIL import Image

from finetune import export, load
from finetune.inference.images import read_image
from finetune.viz import draw

run, path = sys.argv[1:3]
out = Path(sys.argv[3] if len(sys.argv) > 3 else "runs/examples/mesh")
out.mkdir(parents=True, exist_ok=True)

image = read_image(path)
people = load(run, "cpu")(image)  # boxes=[[x0, y0, x1, y1], ...] where the person is not all of it
export.save_glb(out / "mesh.glb", people)  # opens in Blender and in browsers
Image.fromarray(draw.overlay(image, people)).save(out / "overlay.png")
for person in people:
    x, y, z = person.translation
    print(f"{person.kind}: {len(person.vertices)} vertices at {x:.2f}, {y:.2f}, {z:.2f} m: {out}")
