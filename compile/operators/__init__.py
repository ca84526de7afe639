"""Operators that exporters spell as many: how each is recognised."""
