"""The function transformers calls in every layer, and the mask it is given.

transformers asks a registered *mask function* once a forward pass (once a kind of layer), and hands its answer to
every layer's *attention function*. Ours answers with a mask value, `Causal() & Window(before=W − 1)`, not with an
array: the engine knows where every token stands. The step itself travels as a keyword of the model's call,
`model(…, strobe_step=step)`, through every layer to `attend`; nothing is looked up anywhere.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from strobe import Causal, Mask, Sink, SoftCap, Unsupported, Window

NAME = "strobe"  # transformers gives names with "flash", "sdpa" or "/" a meaning of their own

# What models pass to their attention beside what is read below; none of it changes the result of a causal layer
# whose positions the engine gave. (gpt-oss asks for router logits, stablelm repeats its positions, and so on.)
WITHOUT_EFFECT = frozenset({
    "position_ids", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
    "position_embeddings", "cache_position", "dropout",
})  # fmt: skip
READ = frozenset({"sliding_window", "softcap", "s_aux", "is_causal"})
CAUSAL = Causal()


class Terms(NamedTuple):
    """What a layer's attention is beside its arrays."""

    mask: Mask
    scale: float | None
    cap: SoftCap | None
    sink: Sink | None


class Step(Protocol):
    """One batch on its way through the layers: whoever has the cache implements it (`engine/step.py`)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, terms: Terms) -> Tensor:
        """Keeps the new keys `[1, G, N, D]` and values `[1, G, N, V]`; the attention `[1, N, H, V]` of queries `[1, H, N, D]`."""
        ...


class NoCache:
    """What a model is given in place of transformers' cache: it keeps nothing, and hands back what it is given.

    With it in the call, transformers does not search the positions for packed sequences.
    """

    is_compileable = False

    def update(self, keys: Tensor, values: Tensor, layer: int, cache_kwargs: Any = None, kwargs: Any = None) -> tuple[Tensor, Tensor]:
        """The new keys and values alone. What comes beside them, under either name, tells a cache how to keep them."""
        return keys, values

    def get_seq_length(self, layer: int = 0) -> int:
        """No token is kept here."""
        return 0

    def get_query_offset(self, layer: int = 0) -> int:
        """The first query is the first token."""
        return 0

    def get_mask_sizes(self, queries: int, layer: int = 0) -> tuple[int, int]:
        """(keys, the first key)."""
        return queries, 0


def cache_argument(model: Any) -> str:
    """The name by which a model's `forward` takes its cache: `past_key_values` in transformers 5.17, `cache` in 5.24.

    Asked of the model and not of transformers' version: a model whose code lies beside its weights keeps the name it has.

    Raises:
        Unsupported: it takes none.
    """
    accepted = inspect.signature(model.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in accepted:
            return name
    raise Unsupported(f"{type(model).__name__} takes no cache, so it would compute every token anew")


@lru_cache(maxsize=256)
def _windowed(width: int) -> Mask:
    """`width` keys, the query's own among them."""
    return CAUSAL & Window(before=width - 1)


def _mask_of(*, mask_function: Any, local_size: int | None = None, attention_mask: Tensor | None = None, **sizes: Any) -> Mask:
    """The mask value that transformers' description of a mask is. `sizes` (lengths, offsets, dtype, device) say how
    an array would have to be built, and none is.

    Raises:
        Unsupported: it is neither causal nor a causal window.
    """
    if attention_mask is not None:
        raise Unsupported("the engine packs its tokens without padding, and takes no attention_mask")
    if getattr(mask_function, "__name__", "") == "causal_mask_function":
        return CAUSAL
    if getattr(mask_function, "__qualname__", "") == "and_masks.<locals>.and_mask" and local_size is not None:
        cells = [cell.cell_contents for cell in mask_function.__closure__ or ()]
        parts = [part.__qualname__.split(".")[0] for cell in cells if isinstance(cell, tuple) for part in cell]
        if sorted(parts) == ["causal_mask_function", "sliding_window_overlay"]:
            return _windowed(local_size)
    name = getattr(mask_function, "__qualname__", mask_function)
    raise Unsupported(f"the engine's masks are causal, with or without a window; this model asks for {name}")


def terms_of(mask: Any, scaling: float | None, rest: dict[str, Any]) -> Terms:
    """What a layer asks for, every keyword known by name.

    Raises:
        Unsupported: a keyword that is not known, or two that contradict each other.
    """
    strange = [name for name in rest if name not in READ and name not in WITHOUT_EFFECT and rest[name] is not None]
    if strange:
        raise Unsupported(f"this layer gives its attention what Strobe does not know: {', '.join(strange)}")
    if not isinstance(mask, Mask):
        raise Unsupported(f"this layer was not given the mask Strobe made, but {type(mask).__name__}")
    if rest.get("is_causal") is False:
        raise Unsupported("this layer looks both ways; the engine generates with causal layers only")
    if rest.get("dropout"):
        raise Unsupported("this layer drops weights: the model is in training mode; call model.eval()")
    window = rest.get("sliding_window")
    if window is not None and mask != _windowed(window):
        raise Unsupported(f"this layer asks for a window of {window} keys, its mask is {mask}")
    softcap, sink = rest.get("softcap"), rest.get("s_aux")
    return Terms(mask, scaling, None if softcap is None else SoftCap(softcap), None if sink is None else Sink(sink))


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *,
    strobe_step: Step | None = None, scaling: float | None = None, **rest: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """A layer's attention, in transformers' terms: `[1, H, N, D]` queries, `[1, G, N, ·]` new keys and values.

    Returns:
        `[1, N, H, V]`, and no weights.

    Raises:
        Unsupported: the layer asks for what Strobe does not know, or was called without a step.
    """
    if strobe_step is None:
        raise Unsupported(
            "attn_implementation='strobe' is the engine's and needs its step: generate with strobe.engine, or load the "
            "model with another attn_implementation. (In the engine: this family keeps its calls' keywords from its attention)"
        )
    if getattr(module, "is_causal", True) is False:
        raise Unsupported("this layer looks both ways; the engine generates with causal layers only")
    return strobe_step.attend(module.layer_idx, query, key, value, terms_of(attention_mask, scaling, rest)), None


def register() -> None:
    """Makes transformers know `attn_implementation="strobe"`; calling it again changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask_of)
