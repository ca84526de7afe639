"""The cycle model: when each command runs, row by row."""
