"""Schedules searched, measured and remembered."""
