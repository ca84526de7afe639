"""Programs: commands, weights, memory map, and the rules they must keep."""
