"""A network becomes a program for the machine, or a CUDA module."""
