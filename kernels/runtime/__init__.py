"""Kernels compiled by NVRTC, launched by the CUDA driver, or emulated on a CPU."""
