"""Does the second image help, and by how much? ``python -m benchmarks.transfer CONFIG.yaml
[key=value ...]``.

config    the keys of a study
plan      its runs, as commands that anyone could type
runner    runs them, several side by side, and goes on with what a stopped study left
measure   errors of a fine-tuned network and of a ridge regression on the frozen encoder, clip by
clip: a row, a JSON file stats     paired differences of arms with intervals, and the least
difference that so many seeds can show angles    what the reference gives, by the angle between the
cameras take      meshes on a real take with several cameras
seconds   what a step of each arm takes, side by side
rows      the rows that are there, and what they say of two arms together
tables    tables of the rows, for docs/results.md
plots     the images beside them
"""
