"""Rewrites into the few operators that later stages know."""
