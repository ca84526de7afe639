"""Rewrites of a float graph before it is cut into GPU operations."""
