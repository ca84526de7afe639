"""Weights files as they are published, recognised by what they hold."""
