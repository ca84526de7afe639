"""Operators of which TVM's importers leave something out, written in operators that say all of it."""
