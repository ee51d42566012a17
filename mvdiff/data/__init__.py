"""Data sets in their original layouts, samples keyed by (seed, epoch, index), and loaders that resume exactly."""
