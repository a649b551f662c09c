"""Who goes next. No tensors: lists of tokens, tables of pages, and the order of things.

A step computes at most `budget` tokens: first the next token of everyone who is generating, then pieces of prompts.
Every token of a sequence that has not been computed is computed sooner or later, so a sequence that is put out to make
room (its pages released) loses no token: when it comes back its prompt and its answer so far are computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from strobe import CacheFull, Invalid
from strobe.cache.pages import Pages
from strobe.cache.prefix import Prefix
from strobe.cache.tables import Table

OVERTAKEN = 16  # as often may smaller requests overtake one that waits for room; then all wait with it


@dataclass(eq=False)
class Sequence:
    """A request as the scheduler sees it."""

    id: int
    tokens: list[int]  # the prompt and what was generated
    prompt: int  # how many of them are the prompt
    limit: int  # as many tokens may there be
    table: Table
    computed: int = 0  # tokens whose keys and values are in the cache
    reused: int = 0  # of them, tokens found in the cache when it was admitted
    overtaken: int = 0
    progress: Callable[[int, int], None] | None = None

    @property
    def left(self) -> int:
        """Tokens still to be computed; 1 while generating."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True)
class Work:
    """`count` tokens of a sequence to compute, from `first` on; `last` if a token is sampled after them."""

    sequence: Sequence
    first: int
    count: int
    last: bool


@dataclass
class Scheduler:
    """Continuous batching over one cache.

    pages, prefix   the cache's book-keeping
    budget          tokens a step
    running_most    sequences at once
    """

    pages: Pages
    prefix: Prefix
    budget: int
    running_most: int
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    preemptions: int = 0

    def __post_init__(self) -> None:
        if self.running_most < 1:
            raise Invalid(f"at least 1 sequence runs at once; got {self.running_most}")
        if self.budget < self.running_most:
            raise Invalid(
                f"a step's budget has to hold a token of each of the {self.running_most} sequence(s) that may run; got {self.budget}"
            )

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of the queue."""
        self.waiting.append(sequence)

    def next(self) -> tuple[list[Work], list[tuple[int, int]]]:
        """What to compute now (generating sequences first), and the page copies to make before.

        Raises:
            CacheFull: nobody runs and nobody fits; the cache holds pages that no sequence of ours uses.
        """
        works: list[Work] = []
        copies: list[tuple[int, int]] = []
        budget = self.budget
        for sequence in sorted(self.running, key=lambda s: s.left > 1):  # stable: generating first, else first come
            if sequence not in self.running:  # put out to make room for one before it
                continue
            count = min(sequence.left, budget)
            if count and self._room(sequence, count, works):
                copies += self._grow(sequence, count, works)
                budget -= count
        self._admit(works, copies, budget)
        if not works and not self.idle:
            raise CacheFull(f"no sequence fits: {self.pages.free} of {len(self.pages)} page(s) are free and nothing runs")
        return works, copies

    def _grow(self, sequence: Sequence, count: int, works: list[Work]) -> list[tuple[int, int]]:
        works.append(Work(sequence, sequence.computed, count, count == sequence.left))
        return sequence.table.grow(count)

    def _room(self, sequence: Sequence, count: int, works: list[Work]) -> bool:
        """Frees pages until the sequence can grow: remembered prefixes first, then sequences that came after it.

        One that finds no room sits this step out. The sequence that came first always finds room, so all get on.
        """
        while (short := sequence.table.needs(count) - self.pages.free) > 0:
            if self.prefix.evict(short):
                continue
            busy = {id(work.sequence) for work in works}
            later = self.running[self.running.index(sequence) + 1 :]
            last = next((s for s in reversed(later) if id(s) not in busy), None)
            if last is None:
                return False
            self._put_out(last)
        return True

    def _put_out(self, sequence: Sequence) -> None:
        """Releases a running sequence's pages; it waits, before all others, to be computed again."""
        self.running.remove(sequence)
        self._remember(sequence)
        sequence.table.release()
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _admit(self, works: list[Work], copies: list[tuple[int, int]], budget: int) -> None:
        """Lets waiting sequences in while there is budget and room; a smaller one may overtake one that does not fit."""
        for sequence in list(self.waiting):
            if budget < 1 or len(self.running) >= self.running_most:
                return
            if not self._fits(sequence):
                if sequence.overtaken >= OVERTAKEN:
                    return
                sequence.overtaken += 1
                continue
            self.waiting.remove(sequence)
            self.running.append(sequence)
            sequence.reused = sequence.computed = sequence.table.length
            count = min(sequence.left, budget)
            short = sequence.table.needs(count) - self.pages.free
            if short > 0:
                self.prefix.evict(short)
            copies += self._grow(sequence, count, works)
            budget -= count

    def _fits(self, sequence: Sequence) -> bool:
        """Whether all its tokens have room now; if so its table holds the pages that are known already."""
        # the last token is always computed, for its logits
        sequence.table.adopt(self.prefix.match(sequence.tokens[: len(sequence.tokens) - 1]))
        need = sequence.table.needs(len(sequence.tokens) - sequence.table.length)
        need += len(self.running)  # a page for everyone who runs, lest who is let in now is put out in the next step
        if need <= self.pages.free or need <= self.pages.free + self.prefix.evictable():
            return True
        sequence.table.release()
        return False

    def _remember(self, sequence: Sequence) -> None:
        """Hands the full pages of what is computed to the prefix tree."""
        full = sequence.computed // sequence.table.size
        pages = sequence.table.pages
        pages[:full] = type(pages)("i", self.prefix.insert(sequence.tokens[: full * sequence.table.size], pages[:full]))

    def computed(self, work: Work) -> None:
        """The step was run: its tokens are in the cache, and a prompt that is complete now can be shared."""
        sequence = work.sequence
        sequence.computed += work.count
        if work.last and work.first < sequence.prompt:
            self._remember(sequence)
        if sequence.progress is not None and work.first < sequence.prompt:
            sequence.progress(min(sequence.computed, sequence.prompt), sequence.prompt)

    @staticmethod
    def abandoned(works: list[Work]) -> None:
        """The step was not run to its end: the room made for it is given back, and it can be asked for again."""
        for work in works:
            work.sequence.table.truncate(work.sequence.computed)

    def finish(self, sequence: Sequence) -> None:
        """A sequence leaves, done or cancelled; what it computed may serve others."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._remember(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.table.release()

    def check_integrity(self) -> None:
        """Compares the books: counts of pages, tables, the prefix tree.

        Raises:
            Broken: they do not agree.
        """
        tables = [sequence.table.pages for sequence in (*self.running, *self.waiting)]
        self.pages.check_integrity([*tables, self.prefix.pages])
