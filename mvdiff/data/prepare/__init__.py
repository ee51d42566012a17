"""Make and check data sets: validation of a whole folder in one pass, train and test lists."""
