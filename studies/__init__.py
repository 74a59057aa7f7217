"""Does the second image help, and by how much?

``python -m studies run CONFIG.yaml [key=value ...]``.

config       the keys of a study
plan         its runs, as commands that anyone could type
operations   how many floating-point operations they take
runner       runs them, several side by side, and resumes what a stopped study left
measure      errors of a fine-tuned network and of a ridge regression on the frozen encoder, clip by
             clip: a row
real_crops   crops of real people with found keypoints, told apart by scene
keypoint_read_outs   what a frozen encoder tells of them
two_views    a further read-out of the frozen weights, of two views of one instant
row_table    the measurements of a study as one table of JSON lines
rows         the rows that are there, and what they say of two arms together
protocol     what a study fixes before its first run
claims       the differences that it is run for, corrected together
angles       reference gain by the angle between the cameras
take         meshes on a real take with several cameras; real and silhouettes measure them
seconds      what a step of each arm takes, side by side
tables       tables of the rows, for docs/results.md
plots        the figures beside them

Studies may import every other package, and none imports them. They need
``pip install -e '.[studies]'``.
"""
