"""``counterpose fit``: body models fitted to 2D keypoints, as labels to learn from."""
