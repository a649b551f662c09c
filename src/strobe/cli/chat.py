"""`strobe chat`: a conversation in the terminal; what was said stays in the cache, so each turn computes only what is new."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strobe.cli.generate import Answered, answer, sampling_of
from strobe.cli.opening import Spoken, cache_of, device_of, open_model, readable, weights_of
from strobe.errors import Invalid, StrobeError

if TYPE_CHECKING:
    from strobe.engine.engine import Engine
    from strobe.engine.request import Sampling

HELP = "/reset forgets the conversation, /stats shows the cache and the speed, /quit ends"


@dataclass
class Chat:
    """A conversation, and whether every turn of it went well."""

    engine: Engine
    sampling: Sampling
    spoken: Spoken
    failed: bool = False

    def says(self, said: str) -> None:
        """One turn: the user's text, the model's answer. After Control-C what was said so far stays."""
        text, tokens = self.spoken.asked(said)
        answered = Answered(said, tokens)
        try:
            answer(self.engine, self.sampling, answered, loud=True)
        except StrobeError as error:
            self.failed = True
            print(f"strobe: {error}; /reset begins anew", file=sys.stderr)
            return
        self.spoken.answered(said, text, tokens, answered.text, answered.tokens)

    def obeys(self, command: str) -> bool:
        """Does a command; False for the one that ends."""
        if command == "/quit":
            return False
        if command == "/reset":
            self.spoken = Spoken(self.engine.tokenizer)
            print("the conversation is forgotten", file=sys.stderr)
        elif command == "/stats":
            print(self.stats())
        else:
            print(f"there is no {command}; {HELP}", file=sys.stderr)
        return True

    def stats(self) -> str:
        """What the engine counted."""
        s = self.engine.stats
        remembered = (s.pages_remembered_now + s.pages_used_now) * s.cache_bytes // s.cache_pages
        return "\n".join(
            (
                f"  turns          {len(self.spoken.messages) // 2}",
                f"  prompt tokens  {s.prompt_tokens}, {s.prompt_tokens_reused} of them found in the cache",
                f"  generated      {s.generated_tokens} tokens, {s.tokens_per_s:.1f} a second of work",
                f"  first token    after {s.first_token_s:.2f} s on average",
                f"  cache          {remembered / 2**20:.2f} MiB in use of {s.cache_bytes / 2**20:.0f} MiB, pages of {s.page_tokens} tokens",
            )
        )


def run(arguments: argparse.Namespace) -> int:
    """Talks until `/quit`, the end of the input, or Control-C at the prompt."""
    sampling = sampling_of(arguments)
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] — so it is where the shell closed it
        raise Invalid("chat reads what is said from the standard input, which is closed; type, or pipe lines into it")
    opened = open_model(arguments.model, arguments.dtype, device_of(arguments.device))
    from strobe.engine.engine import Engine

    engine = Engine(opened.model, opened.tokenizer, weights=weights_of(arguments.weights), cache=cache_of(arguments.cache))
    chat = Chat(engine, sampling, Spoken(opened.tokenizer))
    if sys.stdin.isatty():
        print(HELP, file=sys.stderr)
    for line in lines():
        try:
            text = readable(line, "the line") if line.strip() else ""
        except Invalid as error:
            print(f"strobe: {error}", file=sys.stderr)
            chat.failed = True
            continue
        if text.startswith("/"):
            if not chat.obeys(text.strip()):
                break
        elif text:
            chat.says(text)
    # a script that pipes a conversation learns that a turn failed; a person has seen it
    return 2 if chat.failed and not sys.stdin.isatty() else 0


def lines() -> Iterator[str]:
    """What is typed, with a prompt in a terminal; what is piped, without."""
    if not sys.stdin.isatty():
        for raw in sys.stdin.buffer:
            yield raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
        return
    while True:
        try:
            yield input("\n> ")
        except EOFError:
            print()
            return
