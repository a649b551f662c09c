"""Decode of the Hopper room without a GPU: its desk, the arithmetic of its split, its kernels run by hand, its machine code."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("triton", reason="this machine has no Triton")
from strobe import Causal, Dense, Dropout, Packed, Paged, Prefix, Scaled, Tree, Window
from strobe.answers import Offer, Refusal
from strobe.backends.hopper import decode, decoding, narrow, parts, predicting
from strobe.backends.hopper import merge as merging
from strobe.backends.hopper.products import column_of, turned
from strobe.backends.hopper.sending import finding
from strobe.layouts import Dense as Keys
from strobe.layouts import PackedKeys
from strobe.machine import Machine
from strobe.problem import Call, Problem
from triton.experimental.gluon import language as gl

from ..contract.cases import CASES, LIFE, Case, build
from ..contract.poison import poison_unseen
from ..contract.tolerance import error
from .gluon_by_hand import ByHand, Copies, Language, Shared, Value, by_hand
from .hopper_decode_run import FORMS, SMALL, decoded, errors, offered, problem_of, ragged, ragged_errors, taken, truth
from .hopper_decode_run import by_hand as by_hand_kernels
from .own_bits import same

ROOT = Path(__file__).parents[2]
H200 = Machine.named("h200")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run by hand, a kernel is many small operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def problem(T: int = 1, S: int = 8192, H: int = 32, G: int = 8, D: int = 128, V: int = 0, B: int = 1, dtype: torch.dtype = torch.bfloat16, page: int = 0, **more: Any) -> Problem:
    index = empty(B, dtype=torch.int32)
    k, v = (empty(64, page, G, width, dtype=dtype) if page else empty(B, S, G, width, dtype=dtype) for width in (D, V or D))
    keys = Paged(k, v, empty(B, -(-S // page), dtype=torch.int32), index, S) if page else Keys(k, v)
    return problem_of(Call(empty(B, T, H, D, dtype=dtype), keys, **{"mask": Causal(), **more}))


def offer(asked: Problem, machine: Machine = H200) -> Offer:
    answer = decoding.decode(asked, machine)
    assert isinstance(answer, Offer), answer
    return answer


def packed() -> Problem:
    tokens, offsets = empty(9, 8, 64), empty(3, dtype=torch.int32)
    return problem_of(Call(Packed(tokens, offsets, 5), PackedKeys(tokens, tokens, offsets, 5), Causal()))


def unlike() -> Problem:
    k = Scaled(empty(1, 9, 2, 64, dtype=torch.int8), empty(1, 9, 2, dtype=torch.float32))
    v = Scaled(empty(1, 9, 2, 64, dtype=torch.float8_e4m3fn), empty(1, 9, 2, dtype=torch.float32))
    return problem_of(Call(empty(1, 1, 8, 64), Keys(k, v)))


def invariant_narrow() -> Problem:
    k = Scaled(empty(1, 9, 2, 64, dtype=torch.int8), empty(1, 9, 2, dtype=torch.float32))
    return problem_of(Call(empty(1, 1, 8, 64, dtype=torch.float16), Keys(k, k)), invariant=True)


TREE = Tree(empty(1, 3, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("machine", "asked", "says"),
    [
        (Machine.named("amx-2"), problem(), "needs sm90; this is amx; Triton is not installed"),
        (Machine.named("a100"), problem(), "needs sm90; this is sm80"),
        (replace(H200, triton=(3, 2)), problem(), "needs Triton 3.6 or newer; this is 3.2"),
        (H200, problem(dtype=torch.float32), "dtypes are bfloat16, float16; got float32"),
        (H200, problem(D=12), "widths are multiples of 8 up to 256; got 12"),
        (H200, problem(H=128, G=1, D=576, V=512), "got 576; widths are multiples of 8 up to 256; got 512"),
        (H200, problem(T=257), "at most 256 queries a sequence; got 257"),
        (H200, problem(S=2**26), "fewer than 2²⁶ keys"),
        (H200, problem(S=4096, page=2048), "pages have 1 to 1,024 tokens; got 2048"),
        (H200, packed(), "these are packed; decode reads dense keys, ranges and pages; these are packed"),
        (H200, problem(mask=Prefix(4)), "masks are Causal, Window and Tree; got Prefix"),
        (H200, problem(T=3, S=9, mask=Dense(empty(1, 1, 3, 9, dtype=torch.bool)) & TREE), "got Dense"),
        (H200, problem(T=3, S=9, mask=TREE & Tree(empty(1, 3, 3, dtype=torch.bool))), "one Tree a mask; got 2"),
        (H200, problem(bias=empty(1, 1, 1, 1), dropout=Dropout(0.1, 1)), "decode has no bias; decode has no dropout"),
        (H200, replace(problem(), verb="backward"), "forward attention only; this is backward"),
        (H200, unlike(), "of one dtype; got keys of int8, values of float8_e4m3fn"),
        (H200, invariant_narrow(), "which a neighbour may have"),
    ],
)  # fmt: skip
def test_the_desk_says_why_not(machine: Machine, asked: Problem, says: str) -> None:
    answer = decoding.decode(asked, machine)
    assert isinstance(answer, Refusal) and says in "; ".join(answer.reasons)


@pytest.mark.parametrize("B", [1, 3, 16, 64])
@pytest.mark.parametrize("G", [1, 2, 8, 32])
@pytest.mark.parametrize(("S", "page"), [(4096, 0), (65536, 0), (65536, 64)])
def test_one_wave_fills_the_chip(B: int, G: int, S: int, page: int) -> None:
    asked = problem(B=B, G=G, H=4 * G, S=S, page=page)
    how = decoding.chosen(asked, H200)
    programs, longest = how.programs(B), decoding.tiles(S, how.keys) * B * how.lanes
    if programs <= H200.units:
        most = max(1, H200.units * how.held // (how.lanes * (B if how.split == "even" else 1)))  # parts that there is room for
        fewest = decoding.tiles(decoding.tiles(S, how.keys), how.parts) == decoding.tiles(decoding.tiles(S, how.keys), most)
        assert how.parts == most or programs == longest or (how.split == "even" and fewest)
    else:  # each sequence is a program, and they fill whole waves
        assert how.split == "even" and programs == B * G
        assert page or programs >= decoding.FULL * H200.units * decoding.tiles(programs, H200.units)


@pytest.mark.parametrize(
    ("asked", "split", "parts"),
    [
        (problem(), "even", 16),  # 8 heads, 132 units
        (problem(S=65536, B=16, page=64), "stream", 16),
        (problem(S=1024, B=64, page=64), "even", 1),  # short ones
        (problem(S=65536, B=1, page=64), "even", 16),
        (problem(S=8192, B=12), "stream", 16),  # 96 programs would leave 36 units idle
        (problem(S=8192, B=16), "even", 1),
        (problem(S=65536, mask=Causal() & Window(before=1023)), "even", 16),  # the window's tiles
        (problem(S=65536, H=8, G=2), "even", 64),  # of 66 some would have 8 tiles as well
        (replace(problem(), invariant=True), "fixed", 32),
        (replace(problem(S=8193), invariant=True), "fixed", 9),  # stretches of 1,024 keys
    ],
)
def test_how_keys_are_cut(asked: Problem, split: str, parts: int) -> None:
    how = decoding.chosen(asked, H200)
    assert (how.split, how.parts) == (split, parts)


def narrow_short() -> Problem:
    k = Scaled(empty(256, 256, 2, 128, dtype=torch.int8), empty(256, 256, 2, dtype=torch.float32))
    return problem_of(Call(empty(256, 1, 16, 128), Keys(k, k), Causal()))


SHORT = {"S": 256, "B": 256, "H": 16, "G": 2}


@pytest.mark.parametrize(
    ("asked", "tile"),
    [
        (problem(**SHORT), (128, 1, 2)),
        (problem(**SHORT, page=16), (64, 3, 2)),
        (problem(**SHORT | {"S": 1024, "B": 67}), (128, 1, 2)),  # 134 programs
        (problem(**SHORT | {"S": 65536}, mask=Causal() & Window(before=999)), (128, 1, 2)),
        (problem(**SHORT, T=2), (64, 3, 2)),  # 16 rows
        (problem(S=1024), (64, 4, 1)),
        (problem(S=1024, B=3), (128, 2, 1)),  # 24 heads, of which each has 5 parts
        (problem(**SHORT | {"B": 66}), (128, 2, 1)),  # one wave
        (problem(**SHORT | {"S": 1025}), (128, 2, 1)),
        (problem(**SHORT, T=3), (64, 4, 1)),  # 24 rows
        (problem(**SHORT, D=64), (128, 4, 1)),
        (narrow_short(), (128, 2, 2)),
        (replace(problem(**SHORT), invariant=True), (64, 3, 2)),
        (replace(problem(), invariant=True), (64, 4, 1)),  # as many keys, on which the bits depend
    ],
)
def test_many_short_sequences_share_a_multiprocessor(asked: Problem, tile: tuple[int, int, int]) -> None:
    how = decoding.chosen(asked, H200)
    assert (how.keys, how.stages, how.held) == tile
    if how.held > 1 and not asked.scaled:
        assert (how.split, how.parts, how.slots(asked.B)) == ("fixed" if asked.invariant else "even", 1, 0)
        assert how.held * (how.stages * how.keys * 2 * 128 * 2 + how.rows * 128 * 2 + how.rows * how.keys * 2 + 2048) <= 228 << 10


def test_the_desk_explains_itself() -> None:
    said = offer(problem())
    assert said.why == "4 row(s) a key head; 16 equal part(s) a sequence; 128 program(s), 0.97 wave(s); 33.6 MB, 11.6 µs predicted"
    assert (said.kernel, said.tile, said.splits, said.workspace_bytes) == ("decode", (8, 128), 16, 8 * 16 * 4 * (128 + 2) * 4)
    assert "16 even share(s)" in offer(problem(S=65536, B=16, page=64)).why
    assert "1.0 µs of them so that no neighbour shows" in offer(replace(problem(), invariant=True)).why


def test_keys_in_pages_are_no_more_than_there_are_pages() -> None:
    assert decoding.read_bytes(problem(S=65536, B=16, page=16)) == 64 * 16 * 8 * 128 * 2 * 2
    assert decoding.read_bytes(problem(S=65536, B=1, page=1024, mask=Causal() & Window(before=99))) == 100 * 8 * 128 * 2 * 2


@pytest.mark.parametrize(("count", "us"), [(8.4e6, 4.22), (16.8e6, 5.97), (1074e6, 240.0), (1611e6, 358.2)])
def test_what_is_predicted_passes_through_what_was_measured(count: float, us: float) -> None:
    assert predicting.read_us(int(count)) == pytest.approx(us, abs=0.2)


def test_predictions_are_near_what_was_measured() -> None:
    """Of the rows of the committed results that have one; what a desk says of a kernel has to be changed with the kernel."""
    rows = json.loads((ROOT / "benchmarks/results/h200-sm90/decode.json").read_text())["rows"]
    known = {row["case"]: row["predicted"] / row["strobe"] for row in rows if "predicted" in row}
    off = {case for case, ratio in known.items() if not 0.85 < ratio < 1.15}
    assert len(known) > 50 and not off


@pytest.mark.parametrize("D", [64, 128, 192, 256])
@pytest.mark.parametrize("T", [1, 8, 16, 64, 256])
@pytest.mark.parametrize("kind", ["", "int8", "int4"])
@pytest.mark.parametrize("page", [0, 16])
def test_tiles_fit_the_shared_memory(D: int, T: int, kind: str, page: int) -> None:
    asked = problem(T=T, D=D, B=3, S=65536, page=page)
    if kind:
        k = asked.call.keys.k if page == 0 else asked.call.keys.keys
        shape = (*k.shape[:-1], D // (2 if kind == "int4" else 1))
        side = Scaled(k._replace(shape=shape, dtype={"int8": "int8", "int4": "uint8"}[kind]), k._replace(shape=shape[:-1], dtype="float32"))
        keys = replace(asked.call.keys, **({"keys": side, "values": side} if page else {"k": side, "v": side}))
        asked = replace(asked, call=asked.call._replace(keys=keys))
    how, width = decoding.chosen(asked, H200), decoding.padded(D)
    queries = (how.stages + 1 if how.split == "stream" else 1) * how.rows * width * 2
    each = how.stages * how.keys * (2 * width * 2 // decoding.kind(asked)[1] + (8 if kind else 0))
    exchanged = 2 * how.rows * how.keys if how.rows < 64 else 64  # of weights between warps along the keys, at most
    assert how.held * (queries + each + exchanged) <= 227 * 1024


class Whole:
    """The language of a device for whole numbers of Python."""

    minimum, maximum = min, max
    constexpr = gl.constexpr

    @staticmethod
    def where(c: bool, a: int, b: int) -> int:
        return a if c else b


def arithmetic(name: str) -> Any:
    return by_hand(getattr(parts, name), Whole)


SPAN, EVEN, FIXED_CUT, SHARE, PARTS_OF, SLOT = map(arithmetic, ("span", "even", "fixed", "share", "parts_of", "stream_slot"))


def batches() -> list[tuple[list[int], int, int, int | None, int | None, int]]:
    """(lengths, T, group, before, after, keys of a tile) of ragged batches, with none and one among them."""
    draw, found = random.Random(0), []
    for _ in range(120):
        far = draw.choice((10, 300, 5000))
        lengths = [draw.choice((0, 1, 127, 128, 129, draw.randint(0, far), draw.randint(0, 20 * far))) for _ in range(draw.randint(1, 40))]
        before, after = draw.choice((None, 0, 5, draw.randint(0, far))), draw.choice((None, 0, 0, 7))
        found.append((lengths, draw.choice((1, 1, 2, 5, 64)), draw.choice((1, 3, 4, 8)), before, after, draw.choice((64, 128))))
    return found


BATCHES = batches()


def spans(batch: Any, BM: int = 16) -> list[list[tuple[int, int, int]]]:
    """(low, high, tiles) of each sequence, for each tile of rows."""
    lengths, T, group, before, after, BN = batch
    return [[SPAN(n, n - T, m, T, before, after, False, group, BM, BN) for n in lengths] for m in range(-(-T * group // BM))]


@pytest.mark.parametrize("i", range(0, len(BATCHES), 12))
def test_a_span_holds_what_its_rows_see_and_little_more(i: int) -> None:
    for batch in BATCHES[i : i + 12]:
        lengths, T, group, before, after, BN = batch
        for m, of_rows in enumerate(spans(batch)):
            queries = {r // group for r in range(16 * m, min(16 * m + 16, T * group))}
            for n, (low, high, tiles) in zip(lengths, of_rows, strict=True):
                lows = [max(0, n - T + t - before) if before is not None else 0 for t in queries]
                highs = [min(n, n - T + t + after + 1) if after is not None else n for t in queries]
                seen = [(a, b) for a, b in zip(lows, highs, strict=True) if a < b]
                assert 0 <= low <= high <= n
                if seen:
                    assert (low, high) == (min(a for a, _ in seen), max(b for _, b in seen)) or low <= min(a for a, _ in seen)
                assert low // BN * BN + tiles * BN >= high > low // BN * BN + (tiles - 1) * BN or tiles == 1


@pytest.mark.parametrize(("width", "warps", "keys", "page"), [(64, 4, 64, 16), (128, 4, 64, 1), (128, 4, 128, 16), (256, 8, 64, 1)])
def test_a_warp_finds_the_rows_that_it_copies(width: int, warps: int, keys: int, page: int) -> None:
    places: Any = finding(width, 8, warps, keys, page)
    down = 32 * 8 // width  # rows that a warp copies at once
    lanes, of_warps = ([base for (base,) in bases] for bases in (places.lane_bases, places.warp_bases))
    pick = lambda number, bases: sum(base for i, base in enumerate(bases) if number >> i & 1)
    found = {(pick(lane, lanes) ^ pick(warp, of_warps), warp) for lane in range(32) for warp in range(warps)}
    assert found == {(key, key // down % warps) for key in range(keys)}


@pytest.mark.parametrize("splits", [1, 7, 132])
def test_even_parts_are_all_tiles_once(splits: int) -> None:
    for batch in BATCHES:
        for _, _, tiles in (span for of_rows in spans(batch) for span in of_rows):
            taken_tiles = []
            for i in range(splits):
                count, start, size = EVEN(tiles, i, splits)
                assert (size > 0) == (i < count)
                taken_tiles += range(start, start + size)
            assert taken_tiles == list(range(tiles))


@pytest.mark.parametrize(
    ("asked", "parts", "shares", "whole"),
    [
        (problem(S=1024), 8, 8, False),
        (problem(S=65536), 64, 16, True),
        (problem(S=8192, B=16), 8, 1, True),
        (problem(S=2048, B=8), 2, 2, True),
        (problem(S=2500, B=8), 18, 2, False),  # a program of two stretches would have 2,048 of them
        (problem(S=256, B=256, H=16, G=2), 1, 1, True),
        (problem(S=65536, B=16, page=64), 64, 16, True),  # four stretches a program, whatever the lengths are
        (problem(S=65536, page=64), 88, 16, False),
        (problem(S=65536, H=160), 88, 16, False),  # 20 rows, whose second sum would not fit the registers
        (problem(S=65536, mask=Causal() & Window(before=4095)), 6, 6, True),
    ],
)
def test_who_takes_which_fixed_parts(asked: Problem, parts: int, shares: int, whole: bool) -> None:
    how = decoding.chosen(replace(asked, invariant=True), H200)
    assert (how.split, how.parts, how.shares, how.whole) == ("fixed", parts, shares, whole)


@pytest.mark.parametrize("whole", [0, 1024, 2048])
def test_fixed_parts_are_all_tiles_once_and_cut_where_every_sequence_is_cut(whole: int) -> None:
    cut, part_at, part_end = map(arithmetic, ("cut", "part_at", "part_end"))
    for n in range(0, 140_000, 13):
        assert cut(part_at(n, whole), whole) <= n < cut(part_at(n, whole) + 1, whole) and cut(part_at(n, whole), whole) % 128 == 0
        begins = n // (whole or 1024) * (whole or 1024)  # a stretch is whole parts
        assert part_at(begins - 1, whole) < part_at(begins, whole) or not begins
    for batch in BATCHES:
        BN = batch[-1]
        for low, high, tiles in (span for of_rows in spans(batch) for span in of_rows):
            count = FIXED_CUT(low, high, tiles, 0, 1, BN, whole)[0]
            assert count <= (decoding.tiles(max(batch[0] + [1]), whole) if whole else decoding._fixed_parts(max(batch[0])))
            for shares in {1, 2, count, count + 3}:
                taken_tiles, next_part = [], part_at(low, whole)
                for i in range(shares):
                    _, part, start, size = FIXED_CUT(low, high, tiles, i, shares, BN, whole)
                    taken_tiles += range(start, start + size)
                    if size:
                        first = (low // BN + start) * BN
                        assert part == next_part and (first == low // BN * BN or part_at(first, whole) > part_at(first - 1, whole))
                        while next_part < part_at(low, whole) + count and part_end(next_part, low, tiles, BN, whole) <= start + size:
                            next_part += 1
                assert taken_tiles == list(range(tiles)) and next_part == part_at(low, whole) + count


@pytest.mark.parametrize("programs", [1, 16, 33, 264])
def test_a_stream_takes_all_tiles_once_and_the_merge_finds_them(programs: int) -> None:
    """What the kernel's walk takes, from `share`; what the merge looks for, from `parts_of`; and where both meet, in slots."""
    for batch in BATCHES:
        for of_rows in spans(batch):
            sizes = [tiles for _, _, tiles in of_rows]
            B, total = len(sizes), sum(sizes)
            owner = [(b, j) for b, n in enumerate(sizes) for j in range(n)]
            left: dict[int, tuple[int, int]] = {}
            walked = []
            for i in range(programs):
                start, count = SHARE(total, i, programs)
                walked += owner[start : start + count]
                for b in {b for b, _ in owner[start : start + count]}:
                    slot = SLOT(0, i, b, programs, B)
                    assert slot not in left and slot < programs + B
                    left[slot] = (b, i)
            assert walked == owner
            before = 0
            for b, n in enumerate(sizes):
                first, count = PARTS_OF(before, n, total, programs)
                asked = [left[SLOT(0, first, b, programs, B) + i] for i in range(count)]
                assert asked == [(b, first + i) for i in range(count)]
                assert sum(1 for of, _ in left.values() if of == b) == count
                before += n


QUICK = [  # each kind of case once; `python -m tests.rooms.hopper_decode_run` runs all of them
    (case, dtype) for case, dtype in taken() if dtype == ("bfloat16", "float16")[CASES.index(case) % 2] and (case in LIFE or CASES.index(case) % 6 == 0)
]


@pytest.mark.parametrize(("case", "dtype"), QUICK, ids=lambda x: x.name if isinstance(x, Case) else x)
def test_run_by_hand_the_error_is_at_most_twice_the_plain_computations(case: Case, dtype: str) -> None:
    out, most, lse, most_lse = errors(case, dtype)
    assert out <= most and lse <= most_lse


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(2))
def test_ragged_batches_run_by_hand(form: str, seed: int) -> None:
    out, lse = ragged_errors(seed, form)
    assert out < 5e-3 and lse < 2e-6  # of numbers rounded to bfloat16, 3.9e-3 a step; and of float32


def test_a_stream_of_equal_lengths_run_by_hand() -> None:
    """Five sequences of two heads leave two of twelve units idle, if each is a program."""
    call = build(Case("equal", 5, 2, 1100, 8, 2, 64, mask=Causal() & Window(before=1050)), "bfloat16")
    assert decoding.chosen(problem_of(call), SMALL).split == "stream"
    found, true = decoded(call), truth(call)
    assert error(found.out, true.out) < 5e-3 and error(found.lse, true.lse) < 2e-6


@pytest.mark.parametrize("keys", ["paged 16", "ranged", "dense"])
def test_many_short_sequences_run_by_hand(keys: str) -> None:
    lengths = (400, 0, 1, 64, 65, 191, 193) if keys != "dense" else ()
    call = build(Case("short", 7, 2, 400, 8, 2, 128, keys=keys, mask=Causal(), lengths=lengths), "bfloat16")
    tile = (64, 3, 4, 2) if keys.startswith("paged") else (128, 1, 4, 2)
    assert decoding.chosen(problem_of(call), SMALL)[1:5] == tile
    true = truth(call)
    poison_unseen(call, problem_of(call))
    found = decoded(call)
    assert error(found.out, true.out) < 5e-3 and error(found.lse, true.lse) < 2e-6


class Hasty(Copies):
    """Waits for one group of copies less than it is told to."""

    def wait_group(self, n: int) -> None:
        super().wait_group(n + 1)


def test_run_by_hand_a_wait_that_is_too_short_is_seen() -> None:
    call = build(Case("plain", 1, 1, 700, 4, 1, 64), "bfloat16")
    with patch("tests.rooms.gluon_by_hand.Copies", Hasty):
        assert not bool(torch.isfinite(decoded(call).out).all())


def test_run_by_hand_an_address_outside_an_array_is_seen() -> None:
    call = build(Case("plain", 1, 1, 700, 4, 1, 64), "bfloat16")
    keys = replace(call.keys, k=call.keys.k[:, :650].clone())
    problem_as_told = offered(problem_of(call))
    with by_hand_kernels(), pytest.raises(AssertionError, match="an address outside the array"):
        decode.launch(problem_as_told, call._replace(keys=keys))


@pytest.mark.parametrize("wild", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("T", "H", "kind"), [(5, 8, ""), (70, 4, ""), (5, 8, "float8_e4m3fn")])
def test_a_wild_key_reaches_only_the_queries_that_see_it(wild: float, T: int, H: int, kind: str) -> None:
    call = build(Case("wild", 1, T, 90, H, 2, 64, mask=Causal(), scaled=kind), "bfloat16")
    clean, blind = decoded(call), T - 2
    for side in (call.keys.k, call.keys.v):
        (side.data if kind else side)[:, 88] = wild
    state = decoded(call)
    assert torch.equal(state.out[:, :blind], clean.out[:, :blind]) and torch.equal(state.lse[:, :blind], clean.lse[:, :blind])
    if not kind or math.isnan(wild):  # that float8 has no infinity
        assert not bool(torch.isfinite(state.out[:, blind:]).all())


def test_tables_and_lengths_that_lie_are_not_followed() -> None:
    """Loads outside an array fail when run by hand."""
    for seed in range(3):
        call = ragged(seed, "stream")
        if isinstance(call.keys, Paged):
            call.keys.table[0] = torch.tensor([-7, 2**30, -(2**31)]).repeat(call.keys.table.shape[1])[: call.keys.table.shape[1]].int()
            call.keys.lengths[0], call.keys.lengths[-1] = 2**31 - 1, -3
        else:
            call.keys.starts[0], call.keys.lengths[-1] = -(2**30), 2**31 - 1
        decoded(call)


def own_case(n: int, T: int, H: int, G: int) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(n, G, 64, generator=g).bfloat16() for _ in range(2))
    return torch.randn(T, H, 64, generator=g).bfloat16(), (k, v)


@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(before=300)], ids=str)
def test_a_sequences_bits_are_its_own(mask: Any) -> None:
    """Alone, beside others, in pages of any size, and in chunks of its queries: cuts at the same keys, parts added in the same order,
    whether a program had a part, or stretches of them."""
    seen = set()

    def invariantly(call: Call) -> Any:
        seen.add(decoding.chosen(problem_of(call, invariant=True), SMALL).whole)
        return decoded(call, invariant=True)

    q, own = own_case(1400, 12, 4, 2)
    same(invariantly, q, own, mask, 7, 1500, (1, 16, 256))
    assert seen == {False, True}


@pytest.mark.parametrize("S", [3000, 8192, 20000, 70000])
@pytest.mark.parametrize("BM", [16, 64])
def test_parts_are_added_up_stretch_by_stretch(S: int, BM: int) -> None:
    """However many there are, the merge adds them as a program that has whole stretches does."""
    count, width, stretch = decoding._fixed_parts(S), 32, 2048 if BM == 64 else 1024
    sums, tops, of_weights = torch.randn(count, width), torch.randn(count) * 5, torch.rand(count) + 0.1
    work, out, lse = torch.cat((sums.flatten(), tops, of_weights)), torch.empty(width), torch.empty(1)
    add = by_hand(merging.added, Language(0, 1, 1))

    def added(whole: Any, top: torch.Tensor, weight: torch.Tensor, part: torch.Tensor) -> Any:
        return add(*whole, Value(top.expand(width).clone()), Value(weight.expand(width).clone()), Value(part))

    def nothing() -> Any:
        return Value(torch.full((width,), -3.0e38)), Value(torch.zeros(width)), Value(torch.zeros(width))  # as the kernel's: exp2's bits follow the shape

    cut, known, own = arithmetic("cut"), nothing(), nothing()
    for i in range(count):
        own = added(own, tops[i], of_weights[i], sums[i])
        if i + 1 == count or cut(i + 1, 0) % stretch == 0:
            known, own = added(known, own[0].x, own[1].x, own[2].x), nothing()
    many = count > 32
    ByHand(merging.add_parts)[(1,)](
        work, out, lse, None, None, None, None, 1, 1, 1, S, count, count, None, None, None, TREE=False, GROUP=1, V=width, BV=width, BM=BM,
        BN=64, WHOLE=False, MANY=many, COLUMNS=width, AT_ONCE=16 if many else count, FAR=parts.FAR, num_warps=1,
    )  # fmt: skip
    assert torch.equal(out, known[2].x / known[1].x)


@pytest.mark.parametrize(("H", "S"), [(4, 2700), (40, 4500)])
@pytest.mark.parametrize("shares", [1, 2, 3, 16])
@pytest.mark.parametrize("whole", [False, True])
def test_how_parts_are_shared_does_not_show_in_the_bits(shares: int, whole: bool, H: int, S: int) -> None:
    q, (k, v) = own_case(S, 3, H, 1)
    call = Call(q[None], Keys(k[None], v[None]), Causal())
    known = decoded(call, invariant=True)
    problem = problem_of(call, invariant=True)
    how = decoding.chosen(problem, SMALL)
    parts_there = 3 if whole else decoding._fixed_parts(S)
    other = how._replace(whole=whole, parts=parts_there, shares=min(shares, parts_there))
    decode._kept.cache_clear()
    with patch.object(decoding, "chosen", lambda *_: other):
        found = decoded(call, invariant=True)
    decode._kept.cache_clear()
    assert torch.equal(found.out, known.out) and torch.equal(found.lse, known.lse)


def numbers(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(all units of 16 bits, their numbers)."""
    units = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(256, 256)
    if kind == "int4":
        whole = units.int() & 0xFFFF
        return units, torch.stack([((whole >> 4 * j & 15) ^ 8) - 8 for j in range(4)], -1).float()
    kinds = {"int8": torch.int8, "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
    return units, units.view(kinds[kind]).float().view(256, 256, 2)


@pytest.mark.parametrize("dtype", [gl.bfloat16, gl.float16], ids=str)
@pytest.mark.parametrize("kind", ["int8", "int4", "e4m3", "e5m2"])
@pytest.mark.parametrize("operand", [0, 1])
def test_every_narrow_value_becomes_itself(kind: str, dtype: Any, operand: int) -> None:
    """The PTX of `widening_values`, over all units of 16 bits, and which column is whose."""
    units, expected = numbers(kind)
    language, wide = Language(0, 1, 4), expected.flatten(1)
    found = by_hand(narrow.values_of, language)(Shared(units), turned(wide.shape[1], 4), kind, dtype, operand).x.float()
    columns = by_hand(column_of, language)(Value(torch.arange(wide.shape[1])), 16 if operand else 8, wide.shape[1], expected.shape[2])
    torch.testing.assert_close(found if operand else found.T, wide[:, columns.x], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("kind", ["int8", "int4", "e4m3", "e5m2"])
def test_products_of_narrow_keys_are_those_of_their_numbers(kind: str, operand: int) -> None:
    """Keys of all units; queries of sizes from 1e-30 to 1e30, whole numbers of few bits, so that sums are exact."""
    units, expected = numbers(kind)
    units, keys = units.view(512, 128), expected.reshape(512, -1)
    keys = torch.where(keys.isfinite(), keys, 0.0)
    units = torch.where((expected.reshape(512, 128, -1).isfinite()).all(-1), units, 0)
    keys = torch.where((units == 0).repeat_interleave(keys.shape[1] // 128, 1), 0.0, keys)
    size = 10.0 ** torch.arange(-30, 31, 4).float()
    q = (torch.randint(-3, 4, (16, keys.shape[1])).float() * torch.exp2(size.log2().round())[:, None]).bfloat16()
    language = Language(0, 1, 4)
    ready = Shared(torch.empty(16, keys.shape[1], dtype=torch.float16))
    begin, scale = by_hand(narrow.queries_for, language)(Shared(q), ready, Value(torch.tensor(1.0)), None, kind)
    b_k = by_hand(narrow.keys_of, language)(Shared(units), None, kind, operand)
    assert b_k.dtype == gl.float16
    found = (ready.x.double() @ (b_k.x if operand else b_k.x.T).double() + begin.x[:, None]) * scale.x[:, None]
    known = q.double() @ keys.double().T
    torch.testing.assert_close(found, known, rtol=1e-4, atol=0.0)


def _python(*words: str, interpret: bool = False) -> str:
    home = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    home |= {"PYTHONPATH": str(ROOT / "src")} | ({"TRITON_INTERPRET": "1"} if interpret else {})
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# Triton 3.6's interpreter makes numbers of arrays of one number, which 2.3 warns of and 2.5 refuses
@pytest.mark.skipif(tuple(map(int, version("numpy").split(".")[:2])) > (2, 4), reason="this machine's NumPy is none that Triton's interpreter can use")
def test_tritons_interpreter_merges_the_same() -> None:
    lines = _python("tests.rooms.hopper_decode_run", "merge", "13", interpret=True).splitlines()
    assert len(lines) == len(FORMS) and all(line.startswith("ok ") for line in lines), lines


def test_kernels_compile_without_spills() -> None:
    """A few; `python -m tests.rooms.hopper_decode_targets` compiles all that the desk can offer."""
    lines = [json.loads(line) for line in _python("tests.rooms.hopper_decode_targets", "few").splitlines()]
    for line in lines:
        print(f"{line['kernel']:12} {line['what']:40} {line['registers']:4} registers, {line['spills']:5} spills, {line['shared']:7} B")
    assert {line["kernel"] for line in lines} == {"attend", "merge_parts"} and not [line for line in lines if line["spills"]]
