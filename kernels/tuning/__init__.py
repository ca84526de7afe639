"""Schedules: searched, measured and recorded."""
