"""Synthetic humans: clips of bodies and hands whose shape, pose and cameras are known exactly.

``python -m data make`` starts in make.py. One clip goes motion -> rig -> collide -> wardrobe,
scene, light, shots -> render -> labels; template.py holds what is fixed about the body's mesh.
"""
