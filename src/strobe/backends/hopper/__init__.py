"""Kernels for Hopper, sm90: warp specialised, in Gluon."""
