"""Codesign: the cost of image networks on a GPU, and on silicon of their own."""

__version__ = "0.1.0"
