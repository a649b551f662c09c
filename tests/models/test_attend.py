"""The seam to transformers refuses what it does not know."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import masking_utils

from strobe import Causal, Unsupported, Window
from strobe.models.attend import NoCache, _attend, _mask_of, cache_argument, terms_of

from .families import build


def test_masks_are_values() -> None:
    assert _mask_of(mask_function=masking_utils.causal_mask_function, batch_size=1) == Causal()
    window = masking_utils.sliding_window_causal_mask_function(6)
    assert _mask_of(mask_function=window, local_size=6) == Causal() & Window(before=5)


@pytest.mark.parametrize(
    "function",
    [
        masking_utils.bidirectional_mask_function,
        masking_utils.chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.long)),
        masking_utils.or_masks(masking_utils.causal_mask_function, masking_utils.bidirectional_mask_function),
        masking_utils.sliding_window_bidirectional_mask_function(4),
    ],
)
def test_other_masks_are_refused(function: object) -> None:
    with pytest.raises(Unsupported, match="masks are causal"):
        _mask_of(mask_function=function, local_size=4)


def test_padding_is_refused() -> None:
    with pytest.raises(Unsupported, match="without padding"):
        _mask_of(mask_function=masking_utils.causal_mask_function, attention_mask=torch.ones(1, 3))


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"dropout": 0.1}, "training"),
        ({"is_causal": False}, "both ways"),
        ({"sliding_window": 7}, "window of 7"),
    ],
)
def test_unknown_terms_are_refused(rest: dict[str, object], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        terms_of(Causal(), 1.0, rest)


def test_an_array_for_a_mask_is_refused() -> None:
    with pytest.raises(Unsupported, match="not given the mask"):
        terms_of(torch.zeros(1), 1.0, {})


def test_a_layer_that_looks_both_ways_is_refused() -> None:
    x = torch.zeros(1, 1, 1, 8)
    with pytest.raises(Unsupported, match="both ways"):
        _attend(SimpleNamespace(is_causal=False, layer_idx=0), x, x, x, Causal(), strobe_step=object())


def test_without_a_step_it_says_what_to_do() -> None:
    model = build("llama")
    from strobe.models.prepare import prepare

    prepare(model)
    with pytest.raises(Unsupported, match="needs its step"):
        model(torch.tensor([[1, 2]]))


def test_a_cache_is_passed_by_the_name_the_model_has() -> None:
    """transformers renamed it between 5.17 and 5.24; one of the two is not installed here."""
    assert cache_argument(SimpleNamespace(forward=lambda input_ids, past_key_values=None, use_cache=None: 0)) == "past_key_values"
    assert cache_argument(SimpleNamespace(forward=lambda input_ids, cache=None, use_cache=None: 0)) == "cache"
    with pytest.raises(Unsupported, match="takes no cache"):
        cache_argument(SimpleNamespace(forward=lambda input_ids, use_cache=None: 0))


def test_no_cache_takes_what_every_transformers_passes() -> None:
    k, v = torch.zeros(1, 1, 2, 8), torch.ones(1, 1, 2, 8)
    for found in (NoCache().update(k, v, 0), NoCache().update(k, v, 0, {"sin": k}), NoCache().update(k, v, 0, kwargs={"position_ids": k})):
        assert found[0] is k and found[1] is v


def test_importing_strobe_does_not_import_transformers() -> None:
    code = "import sys, strobe; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
