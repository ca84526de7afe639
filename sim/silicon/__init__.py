"""The RTL in gates: counted, placed, mapped to cells, simulated, and its energy."""
