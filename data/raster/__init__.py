"""Meshes into pixels with Warp: what both software rasterisers share.

data.people.render draws synthetic humans for training, a hundred thousand clips: garments cut at
each sample, shadow maps, no near plane. finetune.viz.raster draws recovered meshes for people to
view and for silhouettes: any camera, both sides of a triangle, cut at a near plane. Their loops
over triangles differ in that; the arithmetic of a triangle's samples and of the depth buffer is
here.
"""
