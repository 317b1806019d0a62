"""From a dataset to a published index."""
