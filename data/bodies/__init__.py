"""Body models behind one interface.

Float32 functions from pose, translation and shape to vertices and joints, in metres.
"""
