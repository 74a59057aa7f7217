"""Clips of people from synchronised, calibrated cameras: ``reader=multicam``."""

from data.sources.multicam.plan import plan_clips

__all__ = ["plan_clips"]
