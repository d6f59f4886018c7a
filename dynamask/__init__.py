"""dynamask: instance segmentation where every object gets the mask resolution it needs."""

__version__ = "0.1.0"
