"""Body models behind one interface: float32 functions from pose, root and shape to vertices and
joints, in metres."""
