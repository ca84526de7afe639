"""The machine as run: Verilator builds, the memory around it, test benches, traces."""
