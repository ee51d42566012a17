"""Files on disk: how paths are named and found, and how text, images and whole files are read and written."""
