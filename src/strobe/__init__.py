"""Strobe: exact attention in tiles, on every machine, and a generation engine on it."""

from strobe.api import append, attention, attention_state, explain, merge, run, using
from strobe.appending import Rotary
from strobe.errors import Broken, CacheFull, Invalid, StrobeError, Unsupported
from strobe.layouts import Packed, Paged, Ranged
from strobe.machine import Machine
from strobe.masks import Blocks, Causal, Dense, Documents, Full, Mask, Prefix, Tree, Window
from strobe.plan import Plan
from strobe.state import State
from strobe.terms import Alibi, Dropout, Scaled, Sink, SoftCap

__version__ = "0.1.0"

__all__ = [
    "Alibi", "Blocks", "Broken", "CacheFull", "Causal", "Dense", "Documents", "Dropout", "Full", "Invalid", "Machine",
    "Mask", "Packed", "Paged", "Plan", "Prefix", "Ranged", "Rotary", "Scaled", "Sink", "SoftCap", "State", "StrobeError", "Tree",
    "Unsupported", "Window", "append", "attention", "attention_state", "explain", "merge", "run", "using",
]  # fmt: skip
