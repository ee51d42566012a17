"""Prepare data sets: validation, train and test lists, import of recordings, key frames, captions."""
