"""Images of recovered meshes."""
