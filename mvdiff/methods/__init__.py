"""Methods: the rows of comparison tables. Each has a name and a `generate(batch, sampling, seed)`."""
