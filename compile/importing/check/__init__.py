"""The import check: an imported graph held against the model that it came from, run by the model's own engine."""
