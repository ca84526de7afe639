"""Layers become cascades, strips, row orders and array steps, by cost."""
