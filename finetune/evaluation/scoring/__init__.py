"""What protocols share: alignments, curves, F-scores, angles, matching, readers of their files."""
