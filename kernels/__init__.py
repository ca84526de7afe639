"""CUDA kernels: their texts, schedules and runtime."""
