"""Make and check data sets: validation in one pass, train and test lists, recordings, key frames, captions."""
