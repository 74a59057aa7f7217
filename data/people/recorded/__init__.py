"""Recorded motions of the user's own, put onto the rig of synthetic humans.

``track`` says what a recording is, ``bvh``, ``amass`` and ``mimic`` read files, ``retarget`` turns
the recorded skeleton's rotations into those of the rig, ``folder`` draws stretches.
"""
