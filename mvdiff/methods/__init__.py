"""Methods: what tables compare. Each has a name and one call, `generate(batch, sampling, seed)`."""
