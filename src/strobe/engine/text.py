"""Tokens → text, a piece at a time: whole characters only, stop strings held back until they are decided."""

from __future__ import annotations

from typing import Any

UNDECIDED = "\N{REPLACEMENT CHARACTER}"  # what decoders write for the bytes of a character that is not complete


class Text:
    """The text of one answer as it grows.

    Tokens are decoded in a window that begins a few tokens back, because what a token looks like may depend on the
    one before it; the window moves on when its text ends in a whole character.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = stop
        self._tokens: list[int] = []
        self._start = 0  # the window's first token
        self._read = 0  # tokens whose text is decided
        self._held = ""  # decided text that may be the beginning of a stop string
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All that was handed out."""
        return "".join(self._parts)

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; `stopped` is true once a stop string is complete."""
        self._tokens.append(token)
        old, new = self._window()
        if len(new) <= len(old) or new.endswith(UNDECIDED):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return self._decide(new[len(old) :])

    def finish(self) -> str:
        """What was still held back, without a character that was cut off in its middle."""
        if self.stopped:
            return ""
        old, new = self._window()
        self._read = len(self._tokens)
        rest = self._decide(new[len(old) :].rstrip(UNDECIDED))
        if not self.stopped:
            rest += self._held
            self._parts.append(self._held)
            self._held = ""
        return rest

    def _window(self) -> tuple[str, str]:
        """(text decided before, text now) of the window."""
        decode = self._tokenizer.decode
        old = decode(self._tokens[self._start : self._read], skip_special_tokens=True)
        return old, decode(self._tokens[self._start :], skip_special_tokens=True)

    def _decide(self, text: str) -> str:
        """Hands out what no stop string can claim any more."""
        if self._stop:
            text = self._held + text
            found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
            if found:
                self.stopped, self._held, text = True, "", text[: min(found)]
            else:
                hold = self._beginning(text)
                text, self._held = text[: len(text) - hold], text[len(text) - hold :]
        self._parts.append(text)
        return text

    def _beginning(self, text: str) -> int:
        """How many last characters of the text may be the beginning of a stop string."""
        for length in range(min(len(text), max(map(len, self._stop)) - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
