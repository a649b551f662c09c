"""What is the Hopper room's own, without a GPU: its desk, its arithmetic, its kernels in plain Python, and compiled for sm90."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from strobe import (
    Alibi, Causal, Dense, Documents, Dropout, Full, Invalid, Mask, Paged, Prefix, Ranged, Scaled, Tree, Unsupported, Window, using,
)  # fmt: skip
from strobe.answers import Offer, Refusal
from strobe.backends.hopper import merge as merging, sharing, turning
from strobe.backends.hopper.forms import SHARED_BYTES, Form, form, last_tiles, packable, section
from strobe.backends.hopper.offer import forward as offer
from strobe.backends.hopper.tiles import STEADY, THREE, TILES, WINDOWS
from strobe.faces.torch import _described
from strobe.layouts import Dense as Keys
from strobe.masks import Grid, split
from strobe.machine import KNOWN, Machine, installed_triton
from strobe.plan import Plan, plan
from strobe.problem import Call, Problem, check, key_sides
from strobe.rooms import kernel
from strobe.state import State

from ..contract.cases import CASES, Case, build
from ..contract.poison import poison_unseen, poisoned_memory
from ..contract.rooms import posed, problem_of, run
from ..contract.test_forward import _wide
from ..contract.tolerance import PROMISED, error, plain
from . import hopper_targets
from .gluon_by_hand import ByHand
from .hopper_pretend import Kernel, Stuck, words

H200 = Machine.named("h200")
ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(installed_triton() is None, reason="Triton is not installed")


def problem(T: int = 256, S: int = 256, H: int = 8, G: int = 2, D: int = 128, V: int = 0, dtype: str = "bfloat16", B: int = 1, **more: object) -> Problem:
    kind = getattr(torch, dtype)
    q, k, v = (torch.empty(B, n, heads, width, dtype=kind, device="meta") for n, heads, width in ((T, H, D), (S, G, D), (S, G, V or D)))
    return check(_described(Call(q, Keys(k, v), **more)))  # type: ignore[arg-type]


def other_keys(keys: Any) -> Problem:
    return check(_described(Call(torch.empty(1, 256, 8, 128, dtype=torch.bfloat16, device="meta"), keys)))


INDEX = torch.empty(1, 16, dtype=torch.int32, device="meta")
NARROW = Scaled(torch.empty(1, 256, 2, 128, dtype=torch.int8, device="meta"), torch.empty(1, 256, 2, device="meta"))


def tree_of(T: int) -> Tree:
    return Tree(torch.empty(1, T, T, dtype=torch.bool, device="meta"))


def paged(T: int, S: int, Z: int, H: int = 8, G: int = 2, D: int = 128, B: int = 1, scaled: bool = False, **more: object) -> Problem:
    columns = -(-S // Z)
    k: Any = torch.empty(B * columns, Z, G, D, dtype=torch.int8 if scaled else torch.bfloat16, device="meta")
    table, lengths = (torch.empty(*shape, dtype=torch.int32, device="meta") for shape in ((B, columns), (B,)))
    k = Scaled(k, torch.empty(k.shape[:3], device="meta")) if scaled else k
    q = torch.empty(B, T, H, D, dtype=torch.bfloat16, device="meta")
    return check(_described(Call(q, Paged(k, k, table, lengths, S), **more)))  # type: ignore[arg-type]


# ── the desk ──


@pytest.mark.parametrize(
    ("machine", "asked", "says"),
    [
        (Machine.named("a100"), problem(), "runs on sm90; this is sm80"),
        (Machine.named("amx-2"), problem(), "runs on sm90; this is amx"),
        (replace(H200, arch="sm100"), problem(), "runs on sm90; this is sm100"),
        (replace(H200, triton=None), problem(), "Triton is not installed: pip install triton"),
        (replace(H200, triton=(3, 5)), problem(), "needs Triton 3.6 to 3.9; this is 3.5"),
        (replace(H200, triton=(3, 10)), problem(), "this is 3.10"),
        (H200, problem(dtype="float32"), "dtypes are bfloat16, float16; got float32"),
        (H200, problem(D=12), "widths are multiples of 8 up to 256; got 12"),
        (H200, problem(D=264), "got 264"),
        (H200, problem(D=64, V=128), "values are no wider than keys; got D=64, V=128"),
        (H200, problem(T=15), "a warpgroup's product has 64 rows; 15 queries make 60"),
        (H200, problem(T=63, H=6, G=2), "63 queries make 63"),
        (H200, problem(S=0), "there are no keys"),
        (H200, paged(256, 256, 4), "powers of two from 8 to 1,024 tokens; got 4"),
        (H200, paged(256, 256, 48), "got 48"),
        (H200, paged(256, 256, 2048), "got 2048"),
        (H200, paged(256, 256, 16, scaled=True), "keys with scales beside float8 queries only"),
        (H200, other_keys(Keys(NARROW, NARROW)), "keys with scales beside float8 queries only"),
        (H200, problem(mask=Causal() & Dense(torch.empty(256, 256, dtype=torch.bool, device="meta"))), "got Dense"),
        (H200, paged(256, 256, 16, mask=Documents(INDEX.new_empty(1, 256), INDEX.new_empty(1, 256))), "Documents of queries and keys that lie apart"),
        (H200, problem(mask=Documents(INDEX.new_empty(1, 256), INDEX.new_empty(1, 256)) & Prefix(3)), "got Prefix and Documents"),
        (H200, problem(mask=tree_of(256)), "a Tree alone is taken where keys are cut into parts; these are not"),
        (H200, problem(T=64, S=32768, H=32, G=8, mask=tree_of(64) & Window(before=3000)), "masks are Full, Causal, Window, Prefix and Documents; got Tree"),
        (H200, problem(mask=Prefix(3) & Prefix(INDEX[:, 0])), "got Prefix and Prefix"),
        (H200, problem(bias=torch.empty(256, 256, device="meta")), "no bias here"),
        (H200, problem(alibi=Alibi(torch.empty(8, device="meta"))), "no alibi here"),
        (H200, problem(dropout=Dropout(0.1, 1)), "no dropout here"),
        (H200, problem(scale=0.0), "the scale is above 0; got 0.0"),
        (H200, replace(problem(), invariant=True), "invariance is not shown"),
        (H200, replace(problem(), verb="backward"), "forward attention only"),
    ],
)  # fmt: skip
def test_the_desk_says_why_not(machine: Machine, asked: Problem, says: str) -> None:
    answer = offer(asked, machine)
    assert isinstance(answer, Refusal)
    assert says in "; ".join(answer.reasons)


def test_a_call_that_is_wrong_in_three_ways_hears_of_all() -> None:
    answer = offer(problem(D=12, dropout=Dropout(0.1, 1)), Machine.named("a100"))
    assert isinstance(answer, Refusal)
    said = "; ".join(answer.reasons)
    assert "sm80" in said and "12" in said and "dropout" in said


def test_it_is_asked_before_triton() -> None:
    assert {name for name, machine in KNOWN.items() if plan(problem(), machine).room == "hopper"} == {"h100", "h200"}
    assert plan(problem(), H200, "hopper").file == "backends/hopper/forward.py"
    with pytest.raises(Unsupported, match="hopper: runs on sm90"):
        plan(problem(), Machine.named("amx-2"), "hopper")
    with pytest.raises(Invalid, match="hopper, triton, reference"), using(room="hooper"):
        pass


@pytest.mark.parametrize(("T", "S", "H", "G"), [(64, 32768, 32, 8), (20, 8192, 32, 8), (9, 8192, 64, 8), (300, 8192, 8, 8)])
def test_trees_of_more_than_a_warpgroups_rows_over_long_keys_are_cut_as_causal_queries_are(T: int, S: int, H: int, G: int) -> None:
    found, beside = (plan(problem(T, S, H, G, mask=mask), H200, "hopper").offer for mask in (tree_of(T), Causal()))
    assert found == beside and found.kernel == "forward" and found.splits > 1
    assert plan(problem(T, S, H, G, mask=tree_of(T) & Causal()), H200).file == f"backends/{'hopper/decode' if T <= 256 else 'triton/forward'}.py"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("T", [512, 4096])
@pytest.mark.parametrize("mask", [Full(), Causal()], ids=str)
@pytest.mark.parametrize("width", TILES["full"])
def test_tiles_fit_the_shared_memory(width: int, mask: Mask, T: int, dtype: str) -> None:
    made = form(problem(T=T, D=width, mask=mask, dtype=dtype))
    numbers = 2048  # barriers, the board, addresses, and what reductions pass from warp to warp
    assert made.shared_bytes + numbers <= SHARED_BYTES
    assert made.tile.groups in (2, 3, 4)


@pytest.mark.parametrize(
    ("T", "D", "window", "keys", "groups"),
    [(16384, 64, 1024, 64, 4), (16384, 64, 4096, 128, 3), (16384, 128, 300, 64, 2), (16384, 128, 1024, 64, 3), (2048, 128, 1024, 64, 2),
     (2048, 128, 2048, 128, 2), (16384, 128, 4096, 128, 2), (16384, 256, 1024, 64, 2)],
)  # fmt: skip
def test_blocks_are_short_where_a_window_is(T: int, D: int, window: int, keys: int, groups: int) -> None:
    both = Window(before=window // 2, after=window - window // 2 - 1)
    for mask in (Causal() & Window(before=window - 1), both):
        made = form(problem(T, T, 16, 16, D, mask=mask, dtype="float16"))
        assert (made.tile.keys, made.tile.groups) == (keys, groups)
        assert made.shared_bytes + 2048 <= SHARED_BYTES
        assert form(problem(T, T, 16, 16, D, mask=mask)).tile == STEADY[D]  # short for every mask
    for mask in (Documents(ids := torch.empty(1, T, dtype=torch.int32, device="meta"), ids) & both, Prefix(5) & both, Causal()):
        assert form(problem(T, T, 16, 16, D, mask=mask, dtype="float16")).tile == TILES["masked"][D]


@pytest.mark.parametrize(
    ("T", "B", "mask", "more", "groups"),
    [(2048, 8, Causal(), {}, 3), (2048, 8, Full(), {}, 3), (2047, 8, Full(), {}, 2), (2048, 7, Full(), {}, 2), (16384, 1, Prefix(9), {}, 3),
     (16384, 1, Causal() & Window(before=999), {}, 2), (16384, 1, Full(), {"D": 64}, 4), (16384, 1, Full(), {"D": 256}, 2)],
)  # fmt: skip
def test_three_warpgroups_take_long_prompts(T: int, B: int, mask: Mask, more: dict[str, int], groups: int) -> None:
    made = form(problem(T, T, 8, 8, mask=mask, B=B, **more))  # type: ignore[arg-type]
    assert made.steady and made.tile.groups == groups


@pytest.mark.parametrize(
    ("D", "T", "mask", "keys"),
    [(192, 4096, Causal(), 128), (192, 1024, Full(), 128), (192, 1024, Causal(), 64), (192, 4096, Causal() & Window(before=1023), 64),
     (256, 4096, Causal(), 64), (136, 4096, Full(), 128)],
)  # fmt: skip
def test_keys_wider_than_values_are_kept_as_boxes_where_long_blocks_fit(D: int, T: int, mask: Mask, keys: int) -> None:
    made = form(problem(T, T, 16, 16, D, 128, mask=mask))
    assert made.tile.keys == keys and made.beside == (3 if keys == 128 else 1)
    assert made.shared_bytes + 2048 <= SHARED_BYTES


def test_heads_of_a_group_share_a_tile_as_far_as_powers_of_two_go() -> None:
    assert [packable(group) for group in (1, 2, 3, 4, 6, 8, 12, 64, 96, 128)] == [1, 2, 1, 4, 2, 8, 4, 64, 32, 64]


# ── arithmetic ──


def forms(tile_keys: int = 8, groups: int = 2) -> Iterator[tuple[Form, Mask]]:
    """Small blocks, so that few keys make many of them."""
    tile = replace(TILES["full"][128], keys=tile_keys, groups=groups)
    for mask, before, after, prefix in (
        (Full(), False, False, False), (Causal(), False, True, False), (Causal() & Window(before=9), True, True, False),
        (Window(before=3, after=20), True, True, False), (Window(before=11), True, False, False), (Prefix(13), False, False, True),
        (Prefix(30) & Window(before=17), True, False, True), (Prefix(30) & Window(after=5), False, True, True),
    ):  # fmt: skip
        for pack, steady in product((1, 4, 64), (False, True)):
            yield Form(128, 128, tile, pack, before, after, prefix, True, "no", False, steady=steady), mask


def numbers(mask: Mask) -> tuple[int, int, int]:
    """(before, after, prefix) of a mask as a kernel takes them."""
    before, after, rest = split(mask)
    return before or 0, after or 0, next((part.length for part in rest if isinstance(part, Prefix)), 0)


@pytest.mark.parametrize(("made", "mask"), list(forms()), ids=str)
def test_blocks_hold_what_is_seen_and_unmasked_ones_are_seen_whole(made: Form, mask: Mask) -> None:
    room, draw = words(), random.Random(0)
    before, after, prefix = numbers(mask)
    for _ in range(20):
        queries, length, first = draw.randint(1, 300), draw.choice((0, 1, 7, 8, 9, draw.randint(0, 200))), draw.randint(-40, 150)
        for tile in range(-(-queries // made.all_tokens)):
            done = tile * made.all_tokens
            low, high = room["blocks_of_tile"](first + done, queries - done, length, prefix, before, after, made)
            assert 0 <= low < high
            for group in range(made.tile.groups):
                mine = done + group * made.tokens
                found = room["blocks_of_group"](first + mine, queries - mine, length, prefix, before, after, low, high, made)
                my_low, my_high, full_low, full_high = found
                assert low <= my_low <= full_low <= full_high <= my_high - 1 < high  # the block my_high − 1 is passed first
                for t in range(mine, min(mine + made.tokens, queries)):
                    seen = [s for s in range(length) if allowed(mask, first + t, s)]
                    assert all(my_low <= s // made.tile.keys < my_high for s in seen)
                    whole = range(full_low * made.tile.keys, full_high * made.tile.keys)
                    assert set(whole) <= set(seen)
                    last = room["last_seen"](first + t, length, prefix, after, made)
                    start = first + t - before if made.before else 0
                    assert seen == list(range(max(start, 0), last + 1))


@pytest.mark.parametrize(("made", "mask"), [one for one in forms() if one[0].steady and one[0].pack == 1], ids=str)
def test_every_row_sees_a_key_of_the_block_with_which_its_base_is_made(made: Form, mask: Mask) -> None:
    room, (before, after, prefix), passed = words(), numbers(mask), 0
    for first, length, queries in product(range(56, 73), (100, 144, 145), (1, 9, 64)):
        low, high = room["blocks_of_tile"](first, queries, length, prefix, before, after, made)
        _, _, full_low, full_high = room["blocks_of_group"](first, queries, length, prefix, before, after, low, high, made)
        if full_high > full_low:
            passed += 1
            keys = range(full_high * made.tile.keys, min((full_high + 1) * made.tile.keys, length))
            assert all(any(allowed(mask, first + t, s) for s in keys) for t in range(queries))
    assert passed > 0


@pytest.mark.parametrize("pack", [1, 4, 64])
def test_blocks_of_a_tree_that_are_not_masked_are_before_its_first_node(pack: int) -> None:
    room, draw = words(), random.Random(0)
    made = Form(128, 128, replace(TILES["full"][128], keys=8), pack, False, True, False, True, "no", False, tree=True)
    for _ in range(100):
        T, length, at = draw.randint(1, 300), draw.choice((0, 1, 8, 9, draw.randint(0, 200))), draw.randint(-40, 250)
        prefix, seen = min(at, length), min(length, at + T)
        for done in range(0, T, made.all_tokens):
            low, high = room["blocks_of_tile"](at + done, T - done, length, prefix, 0, T - 1, made)
            assert low == 0 and high == max(1, -(-max(seen, 0) // 8))
            for mine in range(done, done + made.all_tokens, made.tokens):
                found = room["blocks_of_group"](at + mine, T - mine, length, prefix, 0, T - 1, low, high, made)
                assert found == (0, high, 0, min(max(prefix, 0) // 8, high - 1))
                assert room["last_seen"](at + mine, length, prefix, T - 1, made) == seen - 1


def allowed(mask: Mask, query: int, key: int) -> bool:
    return bool(mask.allows(Grid(query=query, key=key)))


@pytest.mark.parametrize(("tiles", "units", "part"), [(1, 1, 1), (7, 5, 1), (7, 5, 2), (7, 5, 5), (3, 64, 9), (16, 12, 100)])
def test_every_tile_is_taken_once_and_the_longest_of_a_section_first(tiles: int, units: int, part: int) -> None:
    tile_of = words()["tile_of"]
    taken = [tile_of(index, tiles, units, part) for index in range(tiles * units)]
    assert sorted(taken) == [(tile, unit) for tile in range(tiles) for unit in range(units)]
    for first in range(0, units, part):
        mine = [tile for tile, unit in taken if first <= unit < first + part]
        assert mine == sorted(mine, reverse=True)


@pytest.mark.parametrize("group", [1, 4, 6, 64, 128])
def test_every_row_of_a_head_is_in_one_tile(group: int) -> None:
    """Row r of a tile is query r // pack and head r % pack of those that the unit begins with."""
    H, T = 2 * group, 37
    made = replace(form(problem(T=256, H=H)), pack=packable(group))
    found = []
    for unit in range(H // made.pack):
        for tile in range(-(-T // made.all_tokens)):
            for row in range(made.rows):
                token, head = tile * made.all_tokens + row // made.pack, unit * made.pack + row % made.pack
                if token < T:
                    found.append((token, head))
                    assert head // group == unit * made.pack // group  # one key head a tile
    assert sorted(found) == [(t, h) for t in range(T) for h in range(H)]


def test_a_section_of_equal_tiles_is_one_unit() -> None:
    assert section(problem(), form(problem())) == 1
    asked = problem(S=4096, mask=Causal())
    assert section(asked, form(asked)) == 16  # 2 MiB of keys and values a key head


@pytest.mark.parametrize("lengths", [(5,), (0, 3), (64, 1, 0, 200, 63, 65), tuple(range(300))])
def test_tiles_of_packed_queries_are_listed_longest_last(lengths: tuple[int, ...]) -> None:
    each = 64
    offsets = torch.tensor((0, *lengths)).cumsum(0).int()
    most = sum(lengths) // each + len(lengths)
    listed, count, counter = torch.full((2 * most,), -7, dtype=torch.int32), torch.full((1,), -7).int(), torch.full((1,), -7).int()
    Kernel("list_tiles")[(len(lengths),)](offsets, listed, count, counter, len(lengths), EACH=each, BLOCK=128)
    tiles = -(-torch.tensor(lengths) // each)
    assert count.item() == tiles.sum() <= most and counter.item() == 0
    found = [tuple(pair) for pair in listed.view(-1, 2)[: count.item()].tolist()]
    assert sorted(found) == [(b, i) for b, n in enumerate(tiles.tolist()) for i in range(n)]
    assert [tiles[b].item() for b, _ in found] == sorted(tiles[b].item() for b, _ in found)


# ── the kernel in plain Python ──


def pretend(call: Call, seed: int = 0, units: int = 3) -> State:
    """The state as the room's launcher and kernels make it, on a chip of so many multiprocessors that is drawn from the seed."""
    asked = problem_of(call)
    machine = replace(H200, units=units)
    answer = offer(asked, machine)
    assert isinstance(answer, Offer)
    forward: Any = kernel("hopper", "forward")

    def start(code: Any, grid: int, args: tuple[Any, ...], named: dict[str, Any], _: Plan) -> None:
        code[(grid,)](*args, **named)

    with patch.object(forward, "start", start), patch.object(forward, "attend", Kernel("attend", seed)), \
            patch.object(forward, "turn", ByHand(turning.turn)), \
            patch.object(forward, "list_tiles", Kernel("list_tiles", seed)), \
            patch.object(forward, "span_documents", Kernel("span_documents", seed)), patch.object(merging, "gdc_wait", lambda: None), \
            patch.object(merging, "gdc_launch_dependents", lambda: None), \
            patch.object(merging, "merge_parts", ByHand(merging.merge_parts)), \
            patch.object(merging, "start", start), patch.object(sharing, "gdc_wait", lambda: None), \
            patch.object(sharing, "gdc_launch_dependents", lambda: None), patch.object(sharing, "start", start), \
            patch.object(sharing, "merge_shares", ByHand(sharing.merge_shares)), poisoned_memory():  # fmt: skip
        return forward.launch(Plan(asked, machine, "hopper", answer), call)


def offered() -> list[tuple[Case, str]]:
    return [(case, dtype) for case in CASES for dtype in case.dtypes if isinstance(offer(posed(case, dtype), H200), Offer)]


UNITS = 20  # so few that some hundred keys are cut


def close(call: Call, case: Case, dtype: str, seed: int, units: int = 3) -> None:
    """The contract's promise, with what nobody sees poisoned."""
    truth, _ = run("reference", _wide(case, dtype))
    bounds = [PROMISED["triton"] * error(x, true) for x, true in zip(plain(call, problem_of(call)), truth, strict=True)]
    poison_unseen(call, problem_of(call))
    state = pretend(call, seed, units)
    assert state.out.dtype == getattr(torch, dtype) and state.lse.dtype == torch.float32
    eps = torch.finfo(getattr(torch, dtype)).eps
    assert error(state.out, truth.out) <= max(bounds[0], eps) and error(state.lse, truth.lse) <= max(bounds[1], eps)


@needs_triton
@pytest.mark.parametrize(("case", "dtype"), [pytest.param(case, dtype, id=f"{case.name}-{dtype}") for case, dtype in offered()])
def test_the_contract_in_plain_python(case: Case, dtype: str) -> None:
    close(build(case, dtype), case, dtype, seed=len(case.name))


def nodes(case: Case, g: torch.Generator) -> Mask:
    """Of each sequence a tree in which nodes see any others, and themselves."""
    return Tree((torch.rand(case.B, case.T, case.T, generator=g) < 0.4) | torch.eye(case.T).bool())


def shared_nodes(case: Case, g: torch.Generator) -> Mask:
    """One tree for all sequences, whose columns lie one behind the other."""
    return Tree(nodes(replace(case, B=1), g).visible.transpose(1, 2))  # type: ignore[attr-defined]


DIVIDED = (
    Case("one tile of rows", 2, 24, 1900, 8, 2, 128, mask=Causal()),
    Case("two tiles, some rows of the second", 1, 40, 1700, 8, 2, 128, mask=Causal(), terms=("cap", "sink")),
    Case("one head", 1, 70, 1600, 1, 1, 64),
    Case("a window shorter than parts", 1, 90, 2000, 4, 2, 64, mask=Causal() & Window(before=200)),
    Case("ranges, one empty, one short", 3, 30, 1500, 8, 2, 64, keys="ranged", mask=Causal(), lengths=(1500, 0, 131)),
    Case("first far below", 2, 80, 1600, 2, 1, 128, mask=Causal(), first=(-100, 250)),
    Case("128 heads of a key head", 2, 1, 1700, 128, 1, 128, mask=Causal()),
    Case("three queries of 256 heads", 1, 3, 1700, 256, 2, 64, mask=Causal(), terms=("sink",)),
    Case("D 40, V 24, an odd scale", 1, 130, 2200, 2, 1, 40, 24, mask=Causal(), scale=0.3),
    Case("a tree of each sequence", 2, 20, 1900, 8, 2, 128, mask=nodes),
    Case("a tree that all share, cap and sink", 2, 33, 1700, 8, 1, 64, mask=shared_nodes, terms=("cap", "sink")),
    Case("130 nodes", 1, 130, 2000, 4, 1, 128, mask=nodes),
    Case("a tree over ranges, one empty, one shorter than it", 3, 70, 1500, 4, 1, 64, keys="ranged", mask=nodes, lengths=(1500, 0, 40)),
    Case("trees that stand before, among and behind the keys", 4, 40, 1600, 4, 1, 64, mask=nodes, first=(-15, 250, 1590, 9999)),
    Case("trees that nobody sees past", 2, 24, 1600, 8, 1, 128, mask=nodes, first=-500),
    Case("nodes of 256 heads", 1, 3, 1700, 256, 2, 64, mask=shared_nodes),
)  # fmt: skip


WILD_TREE = Case("wild tree", 2, 40, 1200, 8, 2, 64, mask=nodes)


@needs_triton
@pytest.mark.parametrize("case", DIVIDED, ids=lambda case: case.name)
def test_keys_are_cut_where_rows_are_few(case: Case) -> None:
    call = build(case, "bfloat16")
    answer = offer(problem_of(call), replace(H200, units=UNITS))
    assert isinstance(answer, Offer) and answer.splits > 1 and f"{answer.splits} equal parts" in answer.why
    close(call, case, "bfloat16", 1, UNITS)


def documents(case: Case, g: torch.Generator, sort: bool = True, some: int = 3) -> Mask:
    ids = torch.randint(-1, some, (case.B, case.S), generator=g).int()
    ids = ids.sort(-1).values if sort else ids
    return Documents(ids[:, case.S - case.T :].contiguous(), ids)


MORE = (
    Case("documents", 2, 700, 700, 2, 2, 128, mask=lambda case, g: documents(case, g) & Causal()),
    Case("documents, full, a group", 1, 500, 900, 4, 1, 64, mask=documents),
    Case("documents, width 256, a window", 1, 300, 500, 2, 1, 256, mask=lambda case, g: documents(case, g) & Causal() & Window(before=99)),
    Case("documents without order", 2, 200, 400, 2, 1, 128, mask=lambda case, g: documents(case, g, False)),
    Case("many documents, ranges", 3, 200, 400, 4, 4, 64, keys="ranged", mask=lambda case, g: documents(case, g, some=40) & Causal(), lengths=(400, 0, 131)),
    Case("one document", 1, 300, 600, 2, 2, 128, mask=lambda case, g: documents(case, g, some=0) & Causal()),
    Case("three groups, many tiles", 2, 500, 500, 2, 2, 64, mask=Causal()),
    Case("window that skips at both ends", 1, 400, 700, 2, 1, 128, mask=Window(before=100, after=40)),
    Case("rows with no keys", 2, 300, 200, 2, 2, 128, mask=Causal()),
    Case("first far below", 2, 200, 300, 2, 2, 128, mask=Causal(), first=(-100, 250)),
    Case("all rows blind", 1, 100, 100, 1, 1, 128, mask=Causal(), first=-500),
    Case("prefix and window", 1, 300, 300, 4, 2, 128, mask=Prefix(150) & Window(before=99)),
    Case("cap, sink, negative scale", 1, 200, 300, 4, 1, 128, mask=Causal(), terms=("cap", "sink"), scale=-0.2),
    Case("ranges, one empty", 3, 100, 260, 2, 2, 64, keys="ranged", mask=Causal(), lengths=(260, 0, 131)),
    Case("packed, uneven, cross", 4, 200, 290, 4, 2, 128, keys="packed", queries="packed", mask=Causal(), lengths=(0, 290, 65, 128), q_lengths=(3, 200, 1, 128)),
    Case("packed, full, D 96", 3, 140, 140, 4, 4, 96, keys="packed", queries="packed", lengths=(140, 1, 64), q_lengths=(140, 1, 64)),
    Case("packed over ranges", 2, 140, 140, 4, 2, 64, keys="ranged", queries="packed", mask=Causal(), lengths=(140, 70), q_lengths=(140, 64)),
    Case("D 192", 1, 130, 200, 2, 1, 192, mask=Causal()),
    Case("D 40, V 24", 1, 130, 200, 2, 1, 40, 24, mask=Causal()),
    Case("D 192, V 128", 2, 200, 200, 4, 4, 192, 128, mask=Causal()),
    Case("D 192, V 128, boxes beside each other", 2, 300, 400, 4, 2, 192, 128),
    Case("D 136, V 64, boxes, ranges", 3, 100, 260, 2, 2, 136, 64, keys="ranged", lengths=(260, 0, 131)),
    Case("D 192, V 128, a window, sinks", 1, 130, 300, 4, 1, 192, 128, mask=Causal() & Window(before=99), terms=("sink",)),
    Case("D 256, V 40", 1, 130, 140, 2, 1, 256, 40),
    Case("D 128, V 64, packed", 3, 140, 140, 4, 4, 128, 64, keys="packed", queries="packed", mask=Causal(), lengths=(140, 1, 64), q_lengths=(140, 1, 64)),
)  # fmt: skip


@needs_triton
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", MORE, ids=lambda case: case.name)
def test_more_of_it_on_a_chip_drawn_otherwise(case: Case, seed: int) -> None:
    close(build(case, "bfloat16", seed), case, "bfloat16", seed)


WINDOWED = (
    Case("a window of three groups", 2, 500, 700, 2, 2, 128, mask=Causal() & Window(before=399)),
    Case("a window of three groups, both sides, a cap", 1, 300, 300, 4, 1, 128, mask=Window(before=100, after=40), terms=("cap", "sink")),
    Case("a window of three groups, ranges", 3, 100, 260, 2, 2, 128, keys="ranged", mask=Causal() & Window(before=20), lengths=(260, 0, 131)),
    Case("a window of three groups, packed", 3, 200, 290, 4, 2, 128, keys="packed", queries="packed", mask=Causal() & Window(before=70),
         lengths=(0, 290, 128), q_lengths=(3, 200, 128)),
    Case("a window of three groups, pages of 16", 2, 130, 400, 8, 2, 128, keys="paged 16", mask=Causal() & Window(before=99), lengths=(400, 131)),
)  # fmt: skip


@needs_triton
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", WINDOWED, ids=lambda case: case.name)
def test_three_warpgroups_pass_a_window(case: Case, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These have fewer tiles than are worth it."""
    monkeypatch.setitem(WINDOWS, 128, ((2048, 0, THREE),))
    monkeypatch.setitem(STEADY, 128, THREE)
    assert form(problem_of(build(case, dtype))).tile == THREE
    close(build(case, dtype), case, dtype, 1)


SHARED = (
    Case("16 tiles", 2, 500, 700, 2, 2, 128),
    Case("a group in a tile, cap and sinks", 1, 300, 520, 8, 2, 128, terms=("cap", "sink")),
    Case("width 64, three warpgroups", 1, 2100, 300, 2, 2, 64),
    Case("width 64, four warpgroups", 2, 700, 400, 2, 1, 64, terms=("sink",)),
    Case("width 256", 1, 400, 300, 3, 1, 256),
    Case("D 192, V 128", 1, 500, 300, 3, 3, 192, 128),
    Case("D 40, V 24, blocks fewer than programs", 2, 300, 100, 4, 4, 40, 24),
)  # fmt: skip


@needs_triton
@pytest.mark.parametrize("units", [3, 5, 7, 11])
@pytest.mark.parametrize("case", SHARED, ids=lambda case: case.name)
def test_the_last_tiles_are_shared(case: Case, units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """These have fewer blocks than are worth it."""
    monkeypatch.setattr("strobe.backends.hopper.forms.IDLE", 0)
    call = build(case, "bfloat16")
    answer = offer(problem_of(call), replace(H200, units=units))
    assert isinstance(answer, Offer)
    last = last_tiles(problem_of(call), form(problem_of(call)), units)
    assert (f"share the last {last} tile(s)" in answer.why) == (last > 0)
    close(call, case, "bfloat16", units, units)


def test_the_last_tiles_are_shared_where_programs_would_idle_for_long() -> None:
    """Causal tiles are of all lengths, so the short ones fill the gaps; a short prompt's last round is short."""

    def said(T: int, mask: Mask, B: int = 1, H: int = 16, D: int = 128) -> str:
        answer = offer(problem(T, T, H, H, D, mask=mask, B=B), H200)
        assert isinstance(answer, Offer)
        return answer.why

    assert "all 132 programs share the last 56 tile(s), by blocks of keys" in said(16384, Full())
    assert not any("share" in said(T, mask) for T, mask in ((1024, Full()), (1500, Full()), (16384, Causal())))
    assert ["share" in said(4096, Full(), 4, H, D) for H, D in ((16, 64), (16, 128), (8, 256))] == [False, True, False]


PAGES = (
    Case("pages of 8, ragged", 3, 65, 200, 4, 4, 64, keys="paged 8", mask=Causal(), lengths=(200, 0, 77)),
    Case("pages of 8, width 256", 2, 70, 150, 4, 1, 256, keys="paged 8", mask=Causal(), lengths=(150, 71)),
    Case("pages of 16, group of 4", 2, 130, 400, 8, 2, 128, keys="paged 16", mask=Causal(), lengths=(400, 131)),
    Case("pages of 16, group of 8, a window", 2, 90, 500, 8, 1, 64, keys="paged 16", mask=Causal() & Window(before=99), lengths=(500, 300)),
    Case("pages of 32, D 96", 1, 100, 300, 2, 1, 96, keys="paged 32", lengths=(290,)),
    Case("pages of 64, many tiles, terms", 2, 300, 300, 4, 1, 128, keys="paged 64", mask=Causal(), lengths=(300, 299), terms=("cap", "sink")),
    Case("pages of 64, four warpgroups", 1, 300, 420, 2, 2, 64, keys="paged 64", mask=Causal(), lengths=(420,)),
    Case("pages of 128, first given", 2, 80, 300, 4, 2, 128, keys="paged 128", mask=Causal(), lengths=(300, 140), first=(100, -20)),
    Case("pages of 256, prefix", 2, 100, 600, 2, 2, 128, keys="paged 256", mask=Prefix(150), lengths=(600, 257)),
    Case("pages of 1024, more than there are keys", 1, 70, 100, 2, 1, 128, keys="paged 1024", mask=Causal(), lengths=(90,)),
    Case("packed queries over pages of 16", 3, 150, 300, 4, 1, 128, keys="paged 16", queries="packed", mask=Causal(), lengths=(300, 5, 150), q_lengths=(1, 5, 150)),
)  # fmt: skip
PAGES_DIVIDED = (
    Case("parts of pages of 8", 1, 40, 1700, 8, 2, 64, keys="paged 8", mask=Causal(), lengths=(1690,)),
    Case("parts of pages of 16, ragged", 3, 30, 1500, 8, 2, 128, keys="paged 16", mask=Causal(), lengths=(1500, 0, 131), terms=("sink",)),
    Case("parts of pages of 64", 1, 130, 2200, 2, 1, 128, keys="paged 64", mask=Causal() & Window(before=900), lengths=(2100,)),
    Case("parts of pages of 256, 128 heads", 2, 1, 1700, 128, 1, 128, keys="paged 256", mask=Causal(), lengths=(1700, 700)),
)  # fmt: skip


@needs_triton
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", (*PAGES, *PAGES_DIVIDED), ids=lambda case: case.name)
def test_keys_in_pages(case: Case, seed: int) -> None:
    call = build(case, "bfloat16", seed)
    units = UNITS if case in PAGES_DIVIDED else 3
    answer = offer(problem_of(call), replace(H200, units=units))
    assert isinstance(answer, Offer) and (answer.splits > 1) == (case in PAGES_DIVIDED)
    close(call, case, "bfloat16", seed, units)


@needs_triton
@pytest.mark.parametrize("wrong", [2**31 - 1, -(2**31), -1])
@pytest.mark.parametrize("case", (PAGES[0], PAGES[2], PAGES[6], PAGES_DIVIDED[1]), ids=lambda case: case.name)
def test_entries_behind_a_sequence_are_not_read(case: Case, wrong: int) -> None:
    units = UNITS if case in PAGES_DIVIDED else 3
    right = pretend(build(case, "bfloat16"), 1, units)
    call = build(case, "bfloat16")
    keys: Any = call.keys
    columns = torch.arange(keys.table.shape[1])
    keys.table[columns * keys.keys.shape[1] >= keys.lengths[:, None]] = wrong
    found = pretend(call, 2, units)
    some = keys.lengths > 0
    assert torch.equal(found.out[some], right.out[some]) and torch.equal(found.lse[some], right.lse[some])
    assert not bool(found.out[~some].count_nonzero()) and bool(found.lse[~some].isneginf().all() or case.terms)


@needs_triton
def test_pages_and_a_plain_array_of_the_same_keys_are_the_same_bits() -> None:
    call = build(PAGES[2], "bfloat16")
    keys: Any = call.keys
    k, v = (side[keys.table.long()].flatten(1, 2) for side in (keys.keys, keys.values))
    starts = torch.zeros_like(keys.lengths)
    other = pretend(call._replace(keys=Ranged(k, v, starts, keys.lengths)), 3)
    found = pretend(call, 4)
    assert torch.equal(found.out, other.out) and torch.equal(found.lse, other.lse)


@needs_triton
def test_keys_and_values_that_lie_side_by_side_by_heads_first() -> None:
    call = build(PAGES[2], "bfloat16")
    keys: Any = call.keys
    both = torch.stack((keys.keys, keys.values), 1).transpose(2, 3).contiguous().transpose(2, 3)  # [P, 2, Z, G, D], heads before tokens
    other = pretend(call._replace(keys=replace(keys, keys=both[:, 0], values=both[:, 1])))
    assert torch.equal(pretend(call).out, other.out)


@pytest.mark.parametrize(
    ("asked", "kernel_of"),
    [
        (paged(512, 16384, 64, 32, 8), "forward"), (paged(64, 8192, 64, 32, 8), "forward"), (paged(64, 8192, 4, 32, 8), "decode"),
        (paged(16, 8192, 64, 32, 8), "decode"), (paged(1, 8192, 64, 32, 8), "decode"), (paged(17, 65536, 16, 32, 8), "forward"),
        (paged(64, 8192, 64, 32, 8, D=256), "decode"), (paged(64, 8192, 64, 32, 8, D=256, B=8), "forward"),
        (paged(64, 128, 64, 32, 8, D=256), "forward"), (paged(2, 8192, 64, 128, 1), "forward"),
        (paged(64, 8192, 64, 32, 8, scaled=True), "decode"), (replace(paged(64, 8192, 64, 32, 8), invariant=True), "decode"),
    ],
    ids=str,
)  # fmt: skip
def test_which_kernel_reads_pages(asked: Problem, kernel_of: str) -> None:
    assert plan(asked, H200).offer.kernel == kernel_of and plan(asked, H200).room == "hopper"


@needs_triton
def test_order_of_warps_and_number_of_multiprocessors_change_no_bit() -> None:
    call = build(MORE[1], "bfloat16")
    first = pretend(call, 0, 1)
    for seed, units in ((1, 2), (2, 5), (3, 132)):
        other = pretend(call, seed, units)
        assert torch.equal(first.out, other.out) and torch.equal(first.lse, other.lse)


@needs_triton
@pytest.mark.parametrize("wild", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["keys", "values", "both"])
def test_a_wild_key_reaches_only_the_queries_that_see_it(wild: float, place: str) -> None:
    call = build(Case("wild", 1, 130, 200, 4, 2, 64, mask=Causal() & Window(before=60)), "bfloat16")
    clean = pretend(call)
    k, v = key_sides(call.keys)
    for x in (k, v) if place == "both" else (k,) if place == "keys" else (v,):
        x[:, 150] = wild
    state = pretend(call)
    seen = torch.tensor([0 <= 70 + t - 150 <= 60 for t in range(130)])
    torch.testing.assert_close(state.out[:, ~seen], clean.out[:, ~seen], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(state.lse[:, ~seen], clean.lse[:, ~seen])
    assert not bool(torch.isfinite(state.out[:, seen]).all(-1).any())


@needs_triton
@pytest.mark.parametrize("wild", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", ["keys", "values"])
def test_a_wild_key_reaches_only_its_document(wild: float, place: str) -> None:
    ids = (torch.arange(300) // 75).int()[None]
    call = build(Case("wild", 1, 200, 300, 4, 2, 64, mask=Documents(ids[:, 100:].contiguous(), ids)), "bfloat16")
    clean = pretend(call)
    k, v = key_sides(call.keys)
    (k if place == "keys" else v)[:, 170] = wild
    state = pretend(call)
    seen = ids[0, 100:] == 2
    torch.testing.assert_close(state.out[:, ~seen], clean.out[:, ~seen], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(state.lse[:, ~seen], clean.lse[:, ~seen])
    assert not bool(torch.isfinite(state.out[:, seen]).all(-1).any())


@needs_triton
@pytest.mark.parametrize("wild", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", ["keys", "values"])
def test_a_wild_node_of_a_tree_reaches_only_the_queries_that_see_it(wild: float, place: str) -> None:
    call = build(WILD_TREE, "bfloat16")
    clean = pretend(call, 0, UNITS)
    key_sides(call.keys)[place == "values"][0, 1200 - 40 + 17] = wild
    state = pretend(call, 1, UNITS)
    seen = torch.stack([call.mask.visible[0, :, 17], torch.zeros(40).bool()])  # type: ignore[attr-defined]
    assert 0 < seen.sum() < 40
    torch.testing.assert_close(state.out[~seen], clean.out[~seen], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(state.lse[~seen], clean.lse[~seen])
    assert not bool(torch.isfinite(state.out[seen]).all(-1).any())


@needs_triton
@pytest.mark.parametrize("spoil", ["start", "stride", "zero stride"])
def test_arrays_the_copy_engine_cannot_read_are_copied(spoil: str) -> None:
    case = Case("aligned", 2, 80, 90, 2, 2, 64, mask=Causal())
    call = build(case, "bfloat16")

    def spoiled(x: torch.Tensor) -> torch.Tensor:
        if spoil == "zero stride":
            return x[:1].expand_as(x)
        wide = torch.zeros(*x.shape[:-1], 72 if spoil == "start" else 68, dtype=x.dtype)
        at = 3 if spoil == "start" else 0
        wide[..., at : at + 64] = x
        return wide[..., at : at + 64]

    k, v = key_sides(call.keys)
    other = call._replace(q=spoiled(call.q), keys=Keys(spoiled(k), spoiled(v)))
    same = call._replace(q=other.q.contiguous(), keys=Keys(*(x.contiguous() for x in key_sides(other.keys))))
    assert torch.equal(pretend(other).out, pretend(same).out)


@needs_triton
def test_a_wait_that_is_left_out_shows() -> None:
    """The pretended chip finds mistakes: a tile that is read before it has come is not a number."""
    call = build(Case("many blocks", 1, 64, 2000, 1, 1, 64), "bfloat16")
    made = words()
    made["Consumer"].wait = lambda self, step: self.tile(step)
    with patch("tests.rooms.hopper_pretend.words", lambda: made):
        try:
            found = pretend(call)
        except (Stuck, AssertionError):
            return
    assert not bool(torch.isfinite(found.out).all())


# ── compiled ──


PAGED = ("D 128, causal, pages of 16, group of 4", "D 128, full, pages of 64")


@needs_triton
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"loops": [(16, 0), (16, 4), (16, 0), (16, 9)]}, ""),  # of masked blocks
        ({"loops": [(16, 0), (16, 4), (16, 1), (16, 9)]}, "1 loop(s) touch no stack, for 2 warpgroup(s)"),
        ({"serialized": True}, "no products run beside other work"),
        ({"products": 0}, "it has no products"),
        ({"kernel": "list_tiles", "loops": [], "products": 0}, ""),
    ],
)
def test_what_makes_a_compiled_kernel_slow_is_said(changed: dict[str, Any], says: str) -> None:
    good = hopper_targets.Compiled("a form", "attend", (128, 128), 168, 0, 200_000, 64, [(16, 0), (16, 0)], False, [])
    said = hopper_targets.wrong(good._replace(**changed))
    assert says in "; ".join(said) and bool(said) == bool(says)


@needs_triton
def test_kernels_compile_for_sm90_without_a_gpu() -> None:
    home = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.rooms.hopper_targets", "few"], cwd=ROOT, env=home | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    attend = [line for line in lines if line["kernel"] == "attend"]
    by_name = {line["what"]: line for line in attend}
    assert len(attend) == 13 and len(lines) == 18
    for line in attend:
        print(f"{line['what']:40} {line['registers']:4} registers, {line['spills']:4} stack accesses, {line['shared']:7} B, loops {line['loops']}")
        assert not line["serialized"]
        assert line["shared"] <= SHARED_BYTES
        D, keys, deep = int(line["what"].split()[1].rstrip(",")), line["tile"][1], 32 if "float8" in line["what"] else 16
        each = D // deep + keys // deep  # products of one block: scores, and the weighted sum
        assert line["loops"] and all(found == [each, 0] for found in line["loops"])
        # some at the ends of a tile: more than two warpgroups have fewer registers, and keys of 192 more columns
        assert line["spills"] <= (64 if line["tile"][0] > 128 else 8 if D == 192 else 0)
    # boxes of pages lie where the one box of a block does: 64 rows of 128 bytes of its first columns, then as many of its last
    plain, small, large = (by_name[name]["places"] for name in ("D 128, causal, group of 4", *PAGED))
    assert [[0, 0], [64, 8192]] in plain
    for places, rows in ((small, 16), (large, 64)):
        boxes = [[column, column // 64 * 8192 + row * 128] for row in range(0, 64, rows) for column in (0, 64)]
        # keys and values, of the first block and of those behind it; and queries of two warpgroups, which are 64 rows too
        assert sum(found == boxes for found in places) == (6 if rows == 64 else 4)
