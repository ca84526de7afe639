"""The golden model: programs executed in numpy. It defines the machine."""
