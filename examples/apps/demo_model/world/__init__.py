"""A small simulated world that tells stories, and knows what is true in them."""

from .questions import Question, ask, is_right
from .simulation import Fact, Story, Wish, simulate
from .talk import Talker, Turn, conversation, document, what
from .teller import tell
from .things import Stock

__all__ = [
    "Fact",
    "Question",
    "Stock",
    "Story",
    "Talker",
    "Turn",
    "Wish",
    "ask",
    "conversation",
    "document",
    "is_right",
    "simulate",
    "tell",
    "what",
]
