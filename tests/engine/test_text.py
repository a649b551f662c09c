"""Text as it streams: whole characters, and stop strings that are never half shown."""

from __future__ import annotations

import pytest

from strobe.engine.text import Text

from .tiny import words

SAMPLES = ["the cat sat", "naïve café – ja", "日本語のテキスト", "👩‍👩‍👧‍👦 and 🏳️‍🌈!", "a\u0301e\u0308", "\ttabs\nand  spaces "]


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_pieces_are_the_text_and_each_is_whole(sample: str) -> None:
    text = Text(words())
    pieces = [text.add(token) for token in words().encode(sample)]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + text.finish() == sample == text.text


def test_a_character_cut_off_at_the_end_is_left_out() -> None:
    text = Text(words())
    tokens = words().encode("ab€")[:-1]
    assert "".join(text.add(token) for token in tokens) + text.finish() == "ab"


def test_bytes_that_are_no_character_do_not_stop_the_text() -> None:
    wrong = words().encode("€")[0]
    text = Text(words())
    pieces = [text.add(token) for token in [wrong, *words().encode("the"), wrong]]
    assert "".join(pieces) + text.finish() == "\ufffdthe"


@pytest.mark.parametrize(
    ("sample", "stop", "shown"),
    [
        ("the cat sat", ("cat",), "the "),
        ("the cat sat", ("dog",), "the cat sat"),
        ("the cat sat", ("sat",), "the cat "),
        ("the cat sat", ("cats", "at s"), "the c"),
        ("the cat sat on", ("on the", "sat up"), "the cat sat on"),
        ("aab", ("ab",), "a"),
        ("abab!", ("abab!x", "b!"), "aba"),
        ("日本語", ("本",), "日"),
        ("the cat", ("the",), ""),
    ],
)
def test_stop_strings(sample: str, stop: tuple[str, ...], shown: str) -> None:
    text = Text(words(), stop)
    said = ""
    for token in words().encode(sample):
        said += text.add(token)
        assert shown.startswith(said), "part of a stop string was shown"
        if text.stopped:
            break
    assert said + text.finish() == shown == text.text
    assert text.stopped == (shown != sample)


def test_special_tokens_are_not_shown() -> None:
    text = Text(words())
    assert text.add(words().bos_token_id) + text.add(words().encode("a")[0]) == "a"
