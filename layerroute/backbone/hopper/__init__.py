"""The `hopper` backend: a whole decode step in one persistent CUDA C++ kernel, for compute capability 9.0."""
