"""The CPU room: compiled C++ behind a plain C interface."""
