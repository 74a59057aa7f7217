"""A local page where one drops a photograph or a clip and turns the meshes of its people."""
