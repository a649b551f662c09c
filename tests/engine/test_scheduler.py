"""Who goes next, without a model: every token is computed once it has room, in order, whatever happens."""

from __future__ import annotations

import random

import pytest

from strobe import Invalid
from strobe.cache.pages import Pages
from strobe.cache.prefix import Prefix
from strobe.cache.tables import Table
from strobe.engine.scheduler import OVERTAKEN, Scheduler, Sequence, Work

SIZE = 4


def scheduler(pages: int, budget: int = 16, most: int = 4) -> Scheduler:
    book = Pages(pages)
    return Scheduler(book, Prefix(book, SIZE), budget, most)


def sequence(of: Scheduler, number: int, prompt: int, limit: int) -> Sequence:
    tokens = [number * 1000 + i for i in range(prompt)]
    return Sequence(number, tokens, prompt, limit, Table(of.pages, SIZE))


def step(of: Scheduler) -> list[Work]:
    """One step; a sequence that has all its tokens computed gets its next, and leaves at its limit."""
    works, _ = of.next()
    for work in works:
        of.computed(work)
        if work.last:
            work.sequence.tokens.append(work.sequence.id * 1000 + len(work.sequence.tokens))
            if len(work.sequence.tokens) >= work.sequence.limit:
                of.finish(work.sequence)
    of.check_integrity()
    return works


def test_generating_goes_before_prompts_and_prompts_come_in_pieces() -> None:
    s = scheduler(64, budget=8)
    s.add(sequence(s, 1, 3, 20))
    s.add(sequence(s, 2, 30, 40))
    assert [(w.sequence.id, w.count, w.last) for w in step(s)] == [(1, 3, True), (2, 5, False)]
    assert [(w.sequence.id, w.count, w.last) for w in step(s)] == [(1, 1, True), (2, 7, False)]


def test_one_that_does_not_fit_waits_and_others_go_on() -> None:
    s = scheduler(8, budget=64)
    s.add(sequence(s, 1, 12, 17))
    step(s)
    s.add(sequence(s, 2, 28, 29))
    s.add(sequence(s, 3, 3, 4))
    assert {w.sequence.id for w in step(s)} == {1, 3}
    while not s.idle:
        step(s)


def test_it_is_not_overtaken_for_ever() -> None:
    s = scheduler(8, budget=64)
    s.add(sequence(s, 1, 4, 30))
    step(s)
    big = sequence(s, 2, 28, 29)
    s.add(big)
    for number in range(3, 3 + OVERTAKEN + 4):
        s.add(sequence(s, number, 1, 2))
        step(s)
    assert big.overtaken == OVERTAKEN and len(s.waiting) > 1


def test_the_last_to_come_is_put_out_and_loses_nothing() -> None:
    s = scheduler(6, budget=64)
    for number in (1, 2):
        s.add(sequence(s, number, 8, 20))
    seen: list[tuple[int, int]] = []
    while not s.idle:
        for work in step(s):
            if work.last:
                seen.append((work.sequence.id, len(work.sequence.tokens)))
    assert s.preemptions > 0
    for number in (1, 2):
        assert [n for i, n in seen if i == number] == list(range(9, 21))


def test_a_known_prefix_is_not_computed_again_but_its_last_token_is() -> None:
    s = scheduler(16)
    s.add(sequence(s, 1, 8, 9))
    step(s)
    again = sequence(s, 1, 8, 9)
    s.add(again)
    (work,) = step(s)
    assert (work.first, work.count, again.reused) == (4, 4, 4)


def test_a_step_that_was_not_run_can_be_asked_for_again() -> None:
    s = scheduler(16)
    s.add(sequence(s, 1, 8, 12))
    works, _ = s.next()
    s.abandoned(works)
    s.check_integrity()
    again, _ = s.next()
    assert [(w.first, w.count) for w in again] == [(w.first, w.count) for w in works] == [(0, 8)]


@pytest.mark.parametrize("seed", range(30))
def test_any_load_is_served_in_full(seed: int) -> None:
    chance = random.Random(seed)
    s = scheduler(chance.randint(6, 20), budget=chance.randint(4, 24), most=chance.randint(1, 4))
    capacity = len(s.pages) * SIZE
    done: dict[int, int] = {}
    left = [sequence(s, i, chance.randint(1, capacity // 2), 0) for i in range(12)]
    for each in left:
        each.limit = min(each.prompt + chance.randint(1, 30), capacity + 1)
        each.tokens = [chance.randint(0, 1) for _ in range(each.prompt)]
    limits = {each.id: each.limit - each.prompt for each in left}
    alive: list[Sequence] = []
    for _ in range(3000):
        if left and chance.random() < 0.3:
            alive.append(left.pop())
            s.add(alive[-1])
        if alive and chance.random() < 0.02:
            gone = alive[chance.randrange(len(alive))]
            if gone in s.running or gone in s.waiting:
                s.finish(gone)
                limits.pop(gone.id)
                done.pop(gone.id, None)
        for work in step(s) if not s.idle else ():
            if work.last:
                done[work.sequence.id] = done.get(work.sequence.id, 0) + 1
        if s.idle and not left:
            break
    assert s.idle and done == limits
    s.prefix.clear()
    assert s.pages.free == len(s.pages)


def test_a_budget_that_cannot_serve_everyone() -> None:
    with pytest.raises(Invalid, match="budget"):
        scheduler(4, budget=2, most=3)
    with pytest.raises(Invalid, match="at least 1"):
        scheduler(4, most=0)
