"""Files -> batches: layouts read as they are, samples keyed by (seed, epoch, index), loaders that resume exactly."""
