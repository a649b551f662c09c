"""Kernels in Triton: every GPU that Triton compiles for."""
