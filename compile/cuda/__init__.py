"""A network becomes launches of this project's CUDA kernels in a TVM module."""
