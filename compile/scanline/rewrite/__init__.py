"""Layers are rewritten into others that the machine runs, or runs better."""
