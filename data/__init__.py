"""Clips of people: made, cut from video, stored in shards, drawn as pairs, batched.

Batches lie on the device.
"""
