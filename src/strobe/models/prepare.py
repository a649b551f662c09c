"""What a loaded model gets before it generates; each thing done can be undone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from strobe import Invalid, Unsupported
from strobe.models.attend import NAME, NoCache, Step, Terms, cache_argument, register
from strobe.models.linears import AS_LOADED, Weights, exchange


@dataclass(frozen=True)
class Layer:
    """What one layer's attention showed of itself: heads, widths, terms."""

    H: int
    G: int
    D: int
    V: int
    terms: Terms


@dataclass
class Probe:
    """A step that keeps nothing and writes down what each layer asks for."""

    layers: dict[int, Layer] = field(default_factory=dict)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, terms: Terms) -> Tensor:
        """Zeros of the right shape."""
        if layer in self.layers:
            raise Unsupported(f"layer {layer} attends twice in one pass; the cache has one place for its keys")
        self.layers[layer] = Layer(q.shape[1], k.shape[1], k.shape[3], v.shape[3], terms)
        return q.new_zeros(1, q.shape[2], q.shape[1], v.shape[3])


@dataclass
class Prepared:
    """A model ready to generate, and how to undo what made it so."""

    model: Any
    layers: tuple[Layer, ...]
    context: int
    vocabulary: int
    stop_tokens: frozenset[int]
    weights: Weights
    _cache: str
    _keeps: bool
    _undo: list[Callable[[], object]]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's numbers, and so of its cache."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def logits(self, ids: Tensor, positions: Tensor, wanted: Tensor, step: Step) -> Tensor:
        """The logits `[n, vocabulary]` after the tokens at `wanted` of a packed batch.

        ids, positions: int64 `[1, N]`; wanted: int64 `[n]`, indices into N. Only these rows meet the head.
        """
        named: dict[str, Any] = {self._cache: NoCache()}
        if self._keeps:
            named["logits_to_keep"] = wanted
        found = self.model(input_ids=ids, position_ids=positions, use_cache=False, strobe_step=step, **named).logits[0]
        return found if self._keeps else found[wanted]

    def undo(self) -> None:
        """The model as it was before `prepare`."""
        while self._undo:
            self._undo.pop()()


def prepare(model: Any, weights: Weights = AS_LOADED) -> Prepared:
    """Readies a transformers model for the engine: evaluation mode, no gradients, our attention in every layer, fast linears.

    Args:
        weights: `Int8()` for linears that read int8 weights where at most 8 tokens are computed.

    Example: `prepare(AutoModelForCausalLM.from_pretrained(folder))`

    Raises:
        Invalid: it is not a model that generates text.
        Unsupported: some layer's attention, or its memory, is not one the cache can hold; or nothing here computes with
            the weights asked for.
    """
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        raise Invalid(f"a model that generates text ends in a head over its vocabulary; {type(model).__name__} has none")
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" not in accepted:
        raise Unsupported(f"{type(model).__name__} takes no position_ids, so its tokens cannot be packed")
    cache = cache_argument(model)
    register()
    undo = _quiet(model)
    before = model.config._attn_implementation
    undo.append(lambda: model.set_attn_implementation(before))
    config = model.config.get_text_config()
    keeps = "logits_to_keep" in accepted
    found = Prepared(model, (), _context(config), config.vocab_size, _stop_tokens(model), weights, cache, keeps, undo)
    try:
        try:
            model.set_attn_implementation(NAME)
        except ValueError as wrong:
            raise Unsupported(f"{type(model).__name__} has an attention of its own, not exchanged: {wrong}") from wrong
        found.layers = _probe(found, config.num_hidden_layers)
        undo += exchange(model, weights)
    except Unsupported:
        found.undo()
        raise
    return found


def _quiet(model: Any) -> list[Callable[[], object]]:
    """Evaluation mode and no gradients; what undoes it."""
    training = model.training
    wanting = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in wanting:
        parameter.requires_grad_(False)
    return [lambda: model.train(training), lambda: [p.requires_grad_(True) for p in wanting]]


def _probe(prepared: Prepared, layers: int) -> tuple[Layer, ...]:
    """One token through the model, to see what each layer's attention is."""
    probe = Probe()
    zero = torch.zeros(1, 1, dtype=torch.long, device=prepared.device)
    with torch.inference_mode():
        prepared.logits(zero, zero, zero[0], probe)
    if sorted(probe.layers) != list(range(layers)):
        raise Unsupported(
            f"{type(prepared.model).__name__} has {layers} layers, and layers {sorted(probe.layers)} attend through "
            "transformers' attention interface; the others remember in ways the cache cannot hold"
        )
    return tuple(probe.layers[i] for i in range(layers))


def _context(config: Any) -> int:
    """How many tokens the model's positions reach."""
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int):
        raise Unsupported("the model's configuration does not say how many positions it has (max_position_embeddings)")
    rope = getattr(config, "rope_parameters", None) or {}
    for each in (rope, *(x for x in rope.values() if isinstance(x, dict))):
        if each.get("rope_type") in ("dynamic", "longrope"):
            # these turn all positions of a batch by its longest sequence, so neighbours would change each other's tokens
            length = min(length, each.get("original_max_position_embeddings") or length)
    return length


def _stop_tokens(model: Any) -> frozenset[int]:
    """The tokens that end a text, as the checkpoint says."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if found is None:
        found = getattr(model.config.get_text_config(), "eos_token_id", None)
    return frozenset(() if found is None else [found] if isinstance(found, int) else found)
