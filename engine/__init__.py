"""What every run needs and what knows nothing of people: config, processes, checkpoints, schedules,
metrics."""
