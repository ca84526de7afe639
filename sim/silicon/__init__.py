"""What the RTL is in gates: counted, placed, mapped to cells, switched, and its energy."""
