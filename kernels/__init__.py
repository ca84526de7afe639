"""CUDA kernels, and how TVM finds them."""
