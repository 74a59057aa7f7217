"""People of a video as they move: tracks, rigs, and the files that other programs open."""
