"""What every run needs and what knows nothing of people.

Config, processes, checkpoints, schedules, metrics.
"""
