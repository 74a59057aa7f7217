"""What pages about runs share: curves, pictures and numbers as text, and the looks."""
