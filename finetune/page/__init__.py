"""The parts of the report page.

What lies in a folder, numbers, curves, images and meshes as text, and the page's looks.
"""
