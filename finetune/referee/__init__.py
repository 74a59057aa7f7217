"""``python -m finetune referee RUN``: how well a run does on real images and videos.

Nobody has measured the people in them, so the truth is made of what networks find in the images
(data/find): 2D keypoints and outlines, and where calibrated cameras see one person at one instant,
3D joints from several of them. Its own error is measured and shown beside the results.
"""
