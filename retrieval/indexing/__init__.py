"""Build indexes from datasets."""
