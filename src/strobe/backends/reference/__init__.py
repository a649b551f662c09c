"""What is meant: float64 definitions, in torch, with no cleverness. Every other room is measured against it."""
