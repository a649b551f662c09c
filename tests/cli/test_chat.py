"""`strobe chat`, piped and typed: commands, history in the cache, mistakes that do not end the conversation."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from strobe.cli import main
from strobe.cli.opening import Spoken

pytestmark = pytest.mark.models


class _Piped:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        return False


def _chat(content: bytes, tiny: Path, monkeypatch: pytest.MonkeyPatch, tokens: int = 10) -> int:
    monkeypatch.setattr(sys, "stdin", _Piped(content))
    return main(["chat", "--model", str(tiny), "--max-tokens", str(tokens)])


def _reused(stats: str) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in re.findall(r"prompt tokens  (\d+), (\d+) of them", stats)]


def test_a_later_turn_finds_the_earlier_ones_in_the_cache(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _chat(b"first thing I say\n/stats\nsecond\n/stats\n", tiny, monkeypatch) == 0
    out, err = capsys.readouterr()
    (first, nothing), (both, found) = _reused(out)
    assert nothing == 0 and 16 <= found <= both - first
    assert err.count("10 tokens (length)") == 2 and "> " not in out


def test_reset_forgets_and_quit_ends(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _chat(b"hello\n/reset\n/stats\n/quit\nnever read\n", tiny, monkeypatch) == 0
    out, err = capsys.readouterr()
    assert "turns          0" in out and "the conversation is forgotten" in err and err.count("tokens (") == 1


def test_mistakes_are_named_and_the_conversation_goes_on(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    content = b"/dance\n\nbroken \xff\n" + b"x" * 600 + b"\nhello\n/stats\n"
    assert _chat(content, tiny, monkeypatch) == 2, "a script learns that turns failed"
    out, err = capsys.readouterr()
    assert "there is no /dance; /reset" in err and "the line is not UTF-8" in err and "/reset begins anew" in err
    assert "turns          1" in out and "Traceback" not in err


def test_generated_tokens_stay_as_they_were(tiny: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    spoken = Spoken(tokenizer)
    text, tokens = spoken.asked("hi")
    odd = tokenizer.encode("\u00e9", add_special_tokens=False)[:1]  # half of a character: its text reads back as another token
    spoken.answered("hi", text, tokens, tokenizer.decode(odd), [*odd, tokenizer.eos_token_id])
    _, again = spoken.asked("and?")
    assert again[: len(tokens) + 1] == [*tokens, *odd]
    assert tokenizer.decode(again[len(tokens) + 1 :]) == "<|end|><|user|>and?<|end|><|assistant|>"
