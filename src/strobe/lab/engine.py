"""The suite `engine`: what a token costs at a given context, for Strobe's engine and for transformers' `generate`.

All continue the same prompt greedily, in turns in one process, each with its own copy of the model. The prompt is computed
once by each, which is the time to the first token, measured once; a token's time is that of decoding alone, measured in
rounds. The tokens are compared one by one: where transformers' differ in float32 the suite ends, and that context has no
rows.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import torch

from strobe.errors import Broken, Invalid
from strobe.lab import conventional
from strobe.lab.results import Row
from strobe.layouts import Paged
from strobe.machine import Machine
from strobe.masks import Causal
from strobe.plan import plan
from strobe.problem import Call, Described, check

STROBE = "strobe"
PREFILLS = "sdpa"  # of transformers' attentions the one that computes the prompt, for all of them
PAGE = 16


class Other(Protocol):
    """Another program that runs the model."""

    name: str

    def prepare(self, ids: list[int], tokens: int, cache: Any) -> float | str:
        """Has a prompt in its cache, and room for `tokens` more.

        Args:
            cache: transformers' cache of the prompt but its last token.

        Returns:
            Seconds to the first token, or why they were not measured.
        """
        ...

    def answer(self, ids: list[int], count: int) -> conventional.Told:
        """The likeliest `count` tokens after the prompt that was prepared, as often as asked."""
        ...

    def free(self) -> None:
        """Gives the cache's memory back."""
        ...


@dataclass
class Race:
    """One context: seconds of every token by contender, the tokens each chose, the caches' bytes, seconds to the first token."""

    context: int
    dtype: str
    plan: str
    floor_s: float
    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    cache_bytes: dict[str, int] = field(default_factory=dict)
    first_s: dict[str, float | str] = field(default_factory=dict)

    def ms(self, name: str) -> float:
        """The middle token's milliseconds."""
        return 1e3 * median(self.seconds[name])

    @property
    def different(self) -> dict[str, int]:
        """The peers whose tokens are not Strobe's, and the first place where."""
        places = {name: conventional.first_difference(self.tokens[STROBE], tokens) for name, tokens in self.tokens.items()}
        return {name: place for name, place in places.items() if place is not None}


def race(
    engine_model: Any, peer_model: Any, tokenizer: Any, ids: list[int], peers: tuple[str, ...], tokens: int, rounds: int,
    others: tuple[Other, ...] = (),
) -> Race:  # fmt: skip
    """Decodes `tokens` tokens after `ids`, `rounds` times each way, the ways in a new order each round.

    Args:
        engine_model, peer_model: two copies of one model; the engine changes the first, transformers uses the second.
        peers: of `conventional.ATTENTIONS`.
    """
    from strobe.engine.engine import Engine
    from strobe.engine.request import Sampling

    pages = math.ceil((len(ids) + tokens + 1) / PAGE) + 1
    engine = Engine(engine_model, tokenizer, pages=pages, page_size=PAGE)
    start = time.perf_counter()
    cache = conventional.prefilled(peer_model, ids, PREFILLS)
    prefill_s = time.perf_counter() - start
    try:
        found = Race(len(ids), str(peer_model.dtype).removeprefix("torch."), _plan(engine, len(ids), pages), _read_s(peer_model, cache))
        attentions, programs = {f"transformers {peer}": peer for peer in peers}, {other.name: other for other in others}
        found.first_s |= {other.name: other.prepare(ids, tokens, cache) for other in others}
        ways = [STROBE, *attentions, *programs]
        order = random.Random(len(ids))
        for _ in range(rounds):
            for way in order.sample(ways, len(ways)):
                if way == STROBE:
                    told = _ours(engine, ids, Sampling(max_tokens=tokens + 1, ignore_eos=True))
                    found.first_s.setdefault(way, told.came[0])  # later rounds find the prompt in the cache
                elif way in attentions:
                    told = conventional.generate(peer_model, ids, tokens + 1, attentions[way], cache)
                    same = attentions[way] == PREFILLS
                    found.first_s.setdefault(way, prefill_s + told.came[0] if same else f"not timed: {PREFILLS} computes its prompt")
                else:
                    told = programs[way].answer(ids, tokens + 1)
                found.seconds.setdefault(way, []).extend(told.token_s)
                found.tokens[way], found.cache_bytes[way] = told.tokens, told.cache_bytes
    finally:
        engine.model.undo()
        for other in others:
            other.free()
    return found


def _ours(engine: Any, ids: list[int], sampling: Any) -> conventional.Told:
    """Strobe's answer, its tokens' times, and the bytes of the pages it took."""
    told, start = conventional.Told(), time.perf_counter()
    number = engine.submit(ids, sampling)
    for piece in engine.pieces(number):
        told.tokens += piece.tokens
        told.came.append(time.perf_counter() - start)
    stats = engine.stats
    told.cache_bytes = math.ceil((len(ids) + len(told.tokens) - 1) / PAGE) * (stats.cache_bytes // stats.cache_pages)
    return told


def _plan(engine: Any, context: int, pages: int) -> str:
    """What attention runs for one token at this context."""
    layer = engine.model.layers[0]
    dtype = str(engine.model.dtype).removeprefix("torch.")

    def array(*shape: int, of: str = dtype) -> Described:
        return Described(shape, of, "cpu")

    k, v = array(pages, PAGE, layer.G, layer.D), array(pages, PAGE, layer.G, layer.V)
    keys = Paged(k, v, array(1, pages, of="int32"), array(1, of="int32"), context)
    chosen = plan(check(Call(array(1, 1, layer.H, layer.D), keys, Causal())), Machine.cpu(torch.get_num_threads()))
    return f"{chosen.room}: {chosen.offer.kernel}, {chosen.offer.splits} split(s)"


def _read_s(model: Any, cache: Any) -> float:
    """Seconds of reading every weight and the whole cache once: no token can be made in less."""
    arrays = [p.detach() for p in model.parameters()] + [x for layer in cache.layers for x in (layer.keys, layer.values)]
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = [x.contiguous().view(kinds[x.element_size()]) for x in arrays if x.numel()]
    times = []
    for _ in range(7):
        start = time.perf_counter()
        for x in flat:
            x.max()
        times.append(time.perf_counter() - start)
    return median(times)


def prompt_of(vocabulary: int, length: int, seed: int, text: list[int] | None = None) -> list[int]:
    """`length` tokens to continue: those of a text, over and over, or random ones where there is none."""
    if text:
        return (text * math.ceil(length / len(text)))[:length]
    return torch.randint(0, vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def reached(model: Any, contexts: tuple[int, ...], tokens: int) -> None:
    """Refuses contexts that leave no room for an answer in the model's own."""
    reach = model.config.max_position_embeddings
    most = reach - tokens - 1
    if most < 2:
        raise Invalid(f"{tokens} tokens a round leave no room for a context: this model reaches {reach}")
    for context in contexts:
        if not 2 <= context <= most:
            raise Invalid(f"contexts are 2 to {most} tokens with this model; got {context}")


def measure(
    models: tuple[Any, Any, Any], name: str, contexts: tuple[int, ...], tokens: int, rounds: int, text: list[int] | None = None,
    ways: tuple[str, ...] = conventional.ATTENTIONS, others: tuple[Other, ...] = (),
) -> Iterator[list[Row]]:  # fmt: skip
    """The rows of each context: a token's time, the cache's bytes, the time to the first token.

    Args:
        models: (the engine's model, transformers' copy of it, the tokenizer).
        ways: transformers' attentions to measure, of `conventional.ATTENTIONS`.
        others: what else is measured; its tokens are counted where they are the same, and may differ.

    Raises:
        Invalid: a context that the model does not reach.
        Broken: transformers' tokens differ in float32.
    """
    ours, theirs, tokenizer = models
    reached(theirs, contexts, tokens)
    threads = torch.get_num_threads()
    for context in contexts:
        ids = prompt_of(theirs.config.vocab_size, context, 0, text)
        found = race(ours, theirs, tokenizer, ids, ways, tokens, rounds, others)
        different = {peer: place for peer, place in found.different.items() if peer.startswith("transformers")}
        if different and found.dtype == "float32":
            peer, place = next(iter(different.items()))
            raise Broken(f"at context {context} {peer} says another token {place + 1} than Strobe, in float32")
        yield rows_of(found, f"engine {name} {found.dtype} context {context} {threads}T")


def rows_of(found: Race, case: str) -> list[Row]:
    """A race as rows of a result file."""
    peers = sorted(name for name in found.seconds if name.startswith("transformers"))
    peers += [name for name in found.seconds if name not in (STROBE, *peers)]
    agreed = {peer: len(found.tokens[STROBE]) if peer not in found.different else found.different[peer] for peer in peers}
    more = {"tokens": len(found.tokens[STROBE]), "tokens_the_same": agreed, "floor_is": "every weight and the whole cache read once"}
    more["timed"] = "each token after the first; the prompt is in the cache"
    ms = {peer: round(found.ms(peer), 3) for peer in peers}
    speed = Row(case, round(found.ms(STROBE), 3), ms, round(1e3 * found.floor_s, 3), found.plan, "time a token", "ms", more=more)
    mib = {name: round(size / 2**20, 2) for name, size in found.cache_bytes.items()}
    others = {peer: mib[peer] for peer in peers}
    cache = Row(case, mib[STROBE], others, None, found.plan, "cache at its peak, not counting copies", "MiB")
    s = {name: value if isinstance(value, str) else round(value, 3) for name, value in found.first_s.items()}
    theirs = {peer: s[peer] for peer in peers}
    once = {"rounds": 1, "timed": "the whole prompt and the token after it"}
    first = Row(case, float(s[STROBE]), theirs, None, found.plan, "time to the first token", "s", more=once)
    return [speed, cache, first]
