"""Measuring, for users and for us: the doctor, the benchmarks, and the file their results lie in."""
