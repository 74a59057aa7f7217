"""Cutting a square out of an image: one geometry and one border rule for all who do it.

    geometry   which pixel of the image each pixel of the crop shows, and the camera of the crop
    border     what the crop shows beyond the image's edges
    host       one uint8 image with OpenCV: for shards that are written, and for prediction
    batch      a whole float batch with torch, on its device: for training and evaluation

Two backends, because shards and predictions are cut from images of any size on the host,
undistorted in the same resampling, while a training batch is already on the device and there are no
two resamplings of it. Both take the same squares and follow the same border rule;
tests/test_border.py holds how far they may differ.
"""
