"""Submit, step, stream: many requests at once over one paged cache."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Row
from dataclasses import dataclass, field
from typing import Any

import torch

from strobe import Invalid
from strobe.cache.formats import AS_COMPUTED, Format
from strobe.cache.pages import Pages
from strobe.cache.prefix import Prefix
from strobe.cache.storage import Storage, Widths
from strobe.cache.tables import Table
from strobe.engine import sampler
from strobe.engine.request import Answer, Finished, Piece, Sampling, halved
from strobe.engine.scheduler import Scheduler, Sequence, Work
from strobe.engine.stats import Clock, Stats
from strobe.engine.step import build
from strobe.engine.text import Text
from strobe.models.linears import AS_LOADED, Weights
from strobe.models.prepare import Prepared, prepare

GREEDY = Sampling()
CACHE_BYTES = 1 << 30  # what the cache takes at most when nobody says how many pages it has


@dataclass(eq=False)
class _Running:
    """A request with all that belongs to it."""

    sequence: Sequence
    sampling: Sampling
    text: Text
    generator: torch.Generator | None
    clock: Clock
    pieces: deque[Piece] = field(default_factory=deque)
    finished: Finished | None = None


class Engine:
    """Generates for many requests at once; one thread.

    Args:
        model: a transformers causal language model, as `strobe.models.load.load` returns it.
        tokenizer: its tokenizer.
        pages: how many pages the cache has; by default as many as four full contexts take, within 1 GiB.
        page_size: tokens a page.
        budget: tokens computed a step, at least `running`; longer prompts are computed in pieces of it.
        running: requests that generate at once.
        weights: `strobe.models.linears.Int8()` to read int8 weights where at most 8 tokens are computed.
        cache: `strobe.cache.formats.Int8()`, `Int4()` or `Float8()` to keep keys and values in fewer bytes, each row rounded
            with a scale of its own.

    Raises:
        Invalid: a number that makes no sense, or a model that does not generate.
        Unsupported: a model whose attention or memory the cache cannot hold.

    Example:
        engine = Engine(*load("checkpoints/llama"))
        for piece in engine.stream("Once upon a time", Sampling(max_tokens=64)):
            print(piece.text, end="")
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, pages: int | None = None, page_size: int = 16, budget: int = 512, running: int = 32,
        weights: Weights = AS_LOADED, cache: Format = AS_COMPUTED,
    ) -> None:  # fmt: skip
        for name, value in (("pages", pages), ("page_size", page_size), ("budget", budget), ("running", running)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise Invalid(f"{name} is an integer, 1 or more; got {value!r}")
        if not isinstance(cache, Format):  # pyright: ignore[reportUnnecessaryIsInstance] — callers may not check types
            raise Invalid(f"cache is Int8(), Int4(), Float8() or AsComputed() of strobe.cache.formats; got {cache!r}")
        self.model: Prepared = prepare(model, weights)
        self.tokenizer = tokenizer
        widths = [Widths(layer.G, layer.D, layer.V) for layer in self.model.layers]
        if pages is None:
            one = Storage.page_bytes(widths, page_size, self.model.dtype, cache)
            pages = max(1, min(4 * math.ceil(self.model.context / page_size), CACHE_BYTES // one))
        book = Pages(pages)
        self._scheduler = Scheduler(book, Prefix(book, page_size), budget, running)
        self._storage = Storage(widths, pages, page_size, dtype=self.model.dtype, device=self.model.device, numbers=cache)
        self.cache = cache
        self._requests: dict[int, _Running] = {}
        self._next = 0
        self._stats = Stats(self._storage.bytes, pages, page_size)

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return self._scheduler.idle

    @property
    def stats(self) -> Stats:
        """What was counted so far; the same object every time."""
        found, scheduler = self._stats, self._scheduler
        found.running_now, found.waiting_now = len(scheduler.running), len(scheduler.waiting)
        found.pages_remembered_now = scheduler.prefix.evictable()
        found.pages_used_now = len(scheduler.pages) - scheduler.pages.free - found.pages_remembered_now
        found.preemptions = scheduler.preemptions
        return found

    def submit(self, prompt: str | Row[int], sampling: Sampling = GREEDY, *, progress: Callable[[int, int], None] | None = None) -> int:
        """Queues a request; `step` or `stream` computes it.

        Args:
            prompt: a text, or token ids (a chat template's, say).
            sampling: how its tokens are chosen.
            progress: called with (prompt tokens computed, prompt tokens) after each piece of a prompt.

        Returns:
            The request's number, for `cancel`, `pieces` and the `Piece`s of `step`.

        Raises:
            Invalid: an empty prompt, a token that is not in the vocabulary, more tokens than the model's context or
                the whole cache can hold.
        """
        if not isinstance(sampling, Sampling):  # pyright: ignore[reportUnnecessaryIsInstance] — callers may not check types
            raise Invalid(f"sampling is a Sampling(max_tokens=…, …); got {sampling!r}")
        tokens = self._tokens(prompt)
        size = self._stats.page_tokens
        capacity, context = len(self._scheduler.pages) * size, self.model.context
        if len(tokens) >= context:
            raise Invalid(
                f"the prompt has {len(tokens)} tokens and the model's context {context}, an answer's token among them; shorten the prompt"
            )
        asked = context if sampling.max_tokens is None else len(tokens) + sampling.max_tokens
        need = len(tokens) + 1 if sampling.max_tokens is None else min(asked, context)
        if need - 1 > capacity:  # the last token is not computed
            raise Invalid(
                f"the request may take {need} tokens, {math.ceil((need - 1) / size)} pages of {size}; the whole cache has "
                f"{len(self._scheduler.pages)} pages ({capacity} tokens). Ask for less, or give the engine more pages"
            )
        number, self._next = self._next, self._next + 1
        sequence = Sequence(
            number, tokens, len(tokens), min(asked, context, capacity + 1), Table(self._scheduler.pages, size), progress=progress
        )
        self._requests[number] = _Running(
            sequence, sampling, Text(self.tokenizer, sampling.stop), _generator(sampling, self.model.device),
            Clock(time.perf_counter()),
        )  # fmt: skip
        self._scheduler.add(sequence)
        self._stats.requests += 1
        self._stats.prompt_tokens += len(tokens)
        return number

    def _tokens(self, prompt: str | Row[int]) -> list[int]:
        """The prompt's ids, each of them in the vocabulary."""
        if not isinstance(prompt, Row) or isinstance(prompt, (bytes, bytearray)):
            raise Invalid(f"a prompt is a text or a list of token ids; got a {type(prompt).__name__}")
        if isinstance(prompt, str) and halved(prompt):
            raise Invalid("the prompt holds half of a character (a lone surrogate): it was read with another encoding; read it as UTF-8")
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not tokens:
            raise Invalid("the prompt is empty; give at least one token (the tokenizer's beginning-of-text token, say)")
        for token in tokens:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < self.model.vocabulary:
                raise Invalid(f"prompt tokens are integers, 0 … {self.model.vocabulary - 1}; got {token!r}")
        return tokens

    def step(self) -> list[Piece]:
        """Computes one batch; what it added to each request that got a token. Nothing to do: an empty list."""
        if self._scheduler.idle:
            return []
        start = time.perf_counter()
        works, copies = self._scheduler.next()
        done = False
        try:
            chosen = self._run(works, copies)
            done = True
        finally:
            if not done:
                self._scheduler.abandoned(works)
        for work in works:
            self._count(work)
            self._scheduler.computed(work)
        pieces = [self._accept(self._requests[work.sequence.id], token) for work, token in chosen]
        self._stats.steps += 1
        self._stats.busy_s += time.perf_counter() - start
        return pieces

    @torch.inference_mode()
    def _run(self, works: list[Work], copies: list[tuple[int, int]]) -> list[tuple[Work, int]]:
        """The model over one batch; the works that end in a new token, and the token."""
        self._storage.copy(copies)
        batch = build(works, self._storage)
        logits = self.model.logits(batch.ids, batch.positions, batch.wanted, batch)
        ends = [work for work in works if work.last]
        if not ends:
            return []
        own = [self._requests[work.sequence.id] for work in ends]
        tokens = sampler.choose(logits, [r.sampling for r in own], [r.generator for r in own], [r.sequence.tokens for r in own])
        return list(zip(ends, tokens, strict=True))

    def _count(self, work: Work) -> None:
        self._stats.computed_tokens += work.count
        if work.first == work.sequence.reused and work.first < work.sequence.prompt:
            self._stats.prompt_tokens_reused += work.sequence.reused

    def _accept(self, request: _Running, token: int) -> Piece:
        """A new token becomes part of its request, which may end with it."""
        sequence, sampling = request.sequence, request.sampling
        sequence.tokens.append(token)
        fresh = request.clock.first is None
        request.clock.token(time.perf_counter())
        if fresh:
            self._stats.first_tokens += 1
            self._stats.first_token_s_sum += request.clock.first_token_s or 0.0
        self._stats.generated_tokens += 1
        ends = token in sampling.stop_token_ids or not sampling.ignore_eos and token in self.model.stop_tokens
        text = "" if ends else request.text.add(token)
        finished = None
        if ends or request.text.stopped:
            finished = Finished.STOP
        elif len(sequence.tokens) >= sequence.limit:
            finished = Finished.LENGTH
        if finished is not None:
            text += request.text.finish()
            if request.text.stopped:  # a stop string may be complete only with the last bytes
                finished = Finished.STOP
        return self._hand_out(request, Piece(sequence.id, text, (token,), finished))

    def _hand_out(self, request: _Running, piece: Piece) -> Piece:
        request.pieces.append(piece)
        if piece.finished is not None:
            request.finished = piece.finished
            self._scheduler.finish(request.sequence)
            self._stats.finished += piece.finished is not Finished.CANCELLED
            self._stats.cancelled += piece.finished is Finished.CANCELLED
        return piece

    def cancel(self, request: int) -> None:
        """Ends a request now and frees its pages; one that has ended stays as it is.

        Raises:
            Invalid: there is no request of that number.
        """
        found = self._find(request)
        if found.finished is None:
            self._hand_out(found, Piece(request, found.text.finish(), (), Finished.CANCELLED))

    def pieces(self, request: int) -> Iterator[Piece]:
        """A submitted request's pieces as they come, computing steps (of all requests) while none is there.

        Left before its end, the request is cancelled.

        Raises:
            Invalid: there is no request of that number, or its answer was taken already.
        """
        found = self._find(request)
        try:
            while found.finished is None or found.pieces:
                while found.pieces:
                    yield found.pieces.popleft()
                if found.finished is None:
                    self.step()
        finally:
            if request in self._requests:
                self.cancel(request)
                del self._requests[request]

    def stream(self, prompt: str | Row[int], sampling: Sampling = GREEDY) -> Iterator[Piece]:
        """Submits a request and yields its pieces as they come; the last one says why it ended.

        Raises:
            Invalid: as for `submit`.
        """
        return self.pieces(self.submit(prompt, sampling))

    def answer(self, request: int) -> Answer:
        """Computes steps until the request has ended; its tokens and text. It is forgotten then.

        Raises:
            Invalid: there is no request of that number.
        """
        found = self._find(request)
        while found.finished is None:
            self.step()
        del self._requests[request]
        tokens = tuple(found.sequence.tokens[found.sequence.prompt :])
        return Answer(request, tokens, found.text.text, found.finished)

    def generate(self, prompts: Row[str | Row[int]], sampling: Sampling = GREEDY) -> list[Answer]:
        """The answers to many prompts, computed together, in their order.

        Raises:
            Invalid: as for `submit`; then none of the prompts was queued.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Row):  # a text is a list of texts of one letter
            raise Invalid(f"generate takes a list of prompts; got a {type(prompts).__name__}. For one prompt: [prompt]")
        numbers: list[int] = []
        try:
            for prompt in prompts:
                numbers.append(self.submit(prompt, sampling))
        except Invalid:
            for number in numbers:
                self.cancel(number)
                del self._requests[number]
            raise
        return [self.answer(number) for number in numbers]

    def clock(self, request: int) -> Clock:
        """The times of a request that is not forgotten yet."""
        return self._find(request).clock

    def check_integrity(self) -> None:
        """Compares the cache's books.

        Raises:
            Broken: they do not agree.
        """
        self._scheduler.check_integrity()

    def forget_prefixes(self) -> None:
        """Frees the pages kept for prompts that begin alike."""
        self._scheduler.prefix.clear()

    def _find(self, request: int) -> _Running:
        found = self._requests.get(request)
        if found is None:
            raise Invalid(f"there is no request {request!r}, or its answer was taken already")
        return found


def _generator(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    """A request's own randomness, so that nobody else's draws move it."""
    if sampling.greedy:
        return None
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator
