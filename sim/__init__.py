"""Run the machine's RTL: Verilator builds, the memory around it, test benches, traces."""
