"""Numbers out of their range are named when they are written down."""

from __future__ import annotations

from typing import Any

import pytest

from strobe import Invalid
from strobe.engine.request import Sampling


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop": "end"}, "tuple of texts"),
        ({"stop": ("",)}, "none of them empty"),
        ({"stop": ("fine", "not \udcff")}, "half of a character .* not UTF-8"),
        ({"stop": 5}, "tuple of texts"),
        ({"stop": None}, "tuple of texts"),
        ({"stop_token_ids": (-1,)}, "stop_token_ids"),
        ({"stop_token_ids": 5}, "stop_token_ids is a tuple of integers"),
        ({"ignore_eos": "no"}, "ignore_eos is True or False; got 'no'"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"seed": 1.0}, "seed"),
        ({"top_p": float("nan")}, "top_p"),
    ],
)
def test_out_of_range(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        Sampling(**wrong)


def test_lists_become_tuples() -> None:
    assert Sampling(stop=["a"], stop_token_ids=[1]) == Sampling(stop=("a",), stop_token_ids=(1,))  # type: ignore[arg-type]
