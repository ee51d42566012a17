"""Train, run and score multi-view diffusion models with correspondence-aware attention."""

__version__ = "0.1.0"
