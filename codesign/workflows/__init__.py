"""Tasks of users from start to end: compile, simulate, compare, explore."""
