"""What users ask for, start to end: compile, simulate, compare, explore."""
