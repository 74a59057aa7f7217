"""People who walk, sit, reach, throw and jump: motions planned over time, placed on a skeleton."""
