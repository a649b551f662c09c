"""Runs an engine once in every way in which it will run, so that nothing is compiled while it serves.

A kernel for a GPU is compiled for dtypes, widths and tiles, and for numbers that are 1 or multiples of 16. Of a model all but the
number of queries is fixed: the tile follows it, and so does what is compiled.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

from strobe.engine.engine import Engine
from strobe.engine.request import Sampling

# Of a prompt: on both sides of every tile's rows for groups of 1 to 128 heads, multiples of 16 and others.
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 250, 256, 500, 512)
LONG = 4096  # tokens of a context whose keys are cut into parts
APART = (1500, 2500, 9)  # tokens of requests whose keys are cut by the sum of their lengths
TOGETHER = (1, 2, 3, 8, 16, 31)  # requests that generate at once
FEW, MIDDLE = (2, 3, 4), (200, 400, 520, 900)  # requests, and tokens of each, whose keys are cut in as many parts as there are tiles


def warm(engine: Engine, done: Callable[[str], None] = lambda what: None) -> None:
    """Computes prompts of many lengths, alone and after a long context, and tokens of one to many requests; `done` is told of each."""
    draw = random.Random(0)
    few, some = (Sampling(max_tokens=n, ignore_eos=True) for n in (2, 12))  # some: until all of a batch generate

    def tokens(n: int) -> list[int]:
        return [draw.randrange(engine.model.vocabulary) for _ in range(n)]

    room = min(engine.model.context, engine.stats.cache_pages * engine.stats.page_tokens) - 13  # for twelve tokens of an answer
    pages = min(LONG, room - max(LENGTHS)) // engine.stats.page_tokens
    context = tokens(max(0, pages) * engine.stats.page_tokens)  # whole pages: the cache keeps no less
    for start in ([], context):
        for n in LENGTHS:
            if len(start) + n <= room:
                engine.generate([[*start, *tokens(n)]], few)
            done(f"{n} tokens after {len(start)}")
    for together in TOGETHER:
        engine.generate([tokens(min(5 + i, room)) for i in range(together)], few)
        done(f"{together} at once")
    for together, n in product(FEW, MIDDLE):
        engine.generate([tokens(min(n + i, room)) for i in range(together)], some)
        done(f"{together} of {n} tokens")
    if context:
        for sharing in (2, 3):
            engine.generate([[*context, n] for n in range(sharing)], few)
    done("a beginning that some share")
    engine.generate([tokens(max(1, min(n, room))) for n in APART], few)
    done("contexts that differ in length")
    engine.forget_prefixes()


STEPS = 2 * len(LENGTHS) + len(TOGETHER) + len(FEW) * len(MIDDLE) + 2
