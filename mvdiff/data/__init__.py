"""Files -> batches: panorama layouts read as they are, samples keyed by (seed, epoch, index), resumable loaders."""
