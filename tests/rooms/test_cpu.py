"""What is the CPU room's own: its instruction sets, its pages, its threads, its splits, its library."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from strobe import Alibi, Causal, Full, Mask, Paged, Sink, SoftCap, Window, append
from strobe.api import _call
from strobe.errors import Broken, Invalid, StrobeError
from strobe.faces import torch as face
from strobe.machine import Machine, compiled_library
from strobe.masks import Grid
from strobe.plan import plan
from strobe.problem import Call, check
from strobe.state import State

pytestmark = pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")

FAMILY = ("scalar", "neon") if platform.machine() in ("arm64", "aarch64") else ("scalar", "avx2", "avx512", "amx")
BEST = Machine.cpu(1).arch
ISAS = [pytest.param(isa, marks=pytest.mark.skipif(FAMILY.index(isa) > FAMILY.index(BEST), reason=f"this machine has no {isa}")) for isa in FAMILY]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TIMES = 2.0  # the promise: the error is at most so many times the plain computation's


def call_of(q: Tensor, k: object, v: Tensor | None = None, mask: Mask | None = None, **more: object) -> Call:
    names = ("scale", "cap", "bias", "alibi", "sink", "dropout", "first")
    return _call(q, k, v, Full() if mask is None else mask, *(more.get(name) for name in names))


def run(call: Call, isa: str = BEST, threads: int = 2) -> State:
    """The state as the room computes it with an instruction set and a number of threads."""
    machine = replace(Machine.cpu(threads), arch=isa)
    chosen = plan(check(face._described(call)), machine, "cpu")
    return face.launch(chosen, call)


def seen(T: int, S: int, mask: Mask, first: int) -> Tensor:
    at = Grid(query=first + torch.arange(T)[:, None], key=torch.arange(S)[None])
    return torch.as_tensor(mask.allows(at)).expand(T, S)


def definition(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Attention `[T, H, D]` × `[S, G, D]` of one sequence in a dtype, as one would write it."""
    T, H, D = q.shape
    S, G = k.shape[:2]
    q, k, v = q.to(dtype).transpose(0, 1), *(x.to(dtype).repeat_interleave(H // G, 1).transpose(0, 1) for x in (k, v))
    s = (q @ k.transpose(1, 2)) * D**-0.5
    s = s.masked_fill(~seen(T, S, mask, S - T), -math.inf)
    out = torch.nan_to_num(s.softmax(-1)) @ v
    return out.transpose(0, 1), s.logsumexp(-1).transpose(0, 1)


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth.double()).norm() / truth.double().norm())


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    q, k = draw(1, 2, 2, 64), draw(1, 5, 1, 64)
    run(call_of(q, k, k))
    definition(q[0], k[0], k[0], Full(), torch.float64)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("T", "S", "H", "G", "D", "mask"),
    [
        (70, 300, 4, 2, 64, Causal()),
        (40, 40, 3, 1, 40, Causal() & Window(before=9)),
        (33, 290, 2, 2, 128, Full()),
        (1, 515, 8, 1, 128, Full()),
        (1, 130, 7, 1, 72, Full()),
        (3, 140, 8, 2, 64, Causal()),
        (5, 90, 8, 4, 96, Window(before=20)),
    ],
)
def test_every_instruction_set_keeps_the_promise(
    isa: str, dtype: torch.dtype, T: int, S: int, H: int, G: int, D: int, mask: Mask
) -> None:
    q, k, v = draw(1, T, H, D, dtype=dtype), draw(1, S, G, D, dtype=dtype, seed=1), draw(1, S, G, D, dtype=dtype, seed=2)
    out, lse = run(call_of(q, k, v, mask), isa)
    truth, truth_lse = definition(q[0], k[0], v[0], mask, torch.float64)
    plain, plain_lse = definition(q[0], k[0], v[0], mask, dtype)
    assert error(out[0], truth) <= max(TIMES * error(plain, truth), torch.finfo(dtype).eps)
    assert error(lse[0], truth_lse) <= max(TIMES * error(plain_lse, truth_lse), torch.finfo(dtype).eps)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("T", (1, 40))
def test_terms_agree_with_the_reference_room(isa: str, T: int) -> None:
    q, k, v = draw(2, T, 6, 64), draw(2, 120, 2, 64, seed=1), draw(2, 120, 2, 64, seed=2)
    for more in (
        {"cap": SoftCap(3.0)}, {"sink": Sink(draw(6, seed=3))}, {"alibi": Alibi(draw(6, seed=4).abs())},
        {"alibi": Alibi(draw(2, 6, seed=4).abs()), "cap": SoftCap(1.0), "sink": Sink(draw(6, seed=3)), "scale": -0.2},
    ):  # fmt: skip
        call = call_of(q, k, v, Causal(), **more)
        found = run(call, isa)
        chosen = plan(check(face._described(call)), Machine.cpu(1), "reference")
        truth = face.launch(chosen, call)
        assert error(found.out, truth.out) < 2e-6 and error(found.lse, truth.lse) < 2e-6, more


def paged(k: Tensor, v: Tensor, Z: int, lengths: list[int]) -> Paged:
    """The first tokens of each sequence in pages whose order is drawn."""
    B, S, G, D = k.shape
    columns = -(-S // Z)
    order = torch.randperm(B * columns + 3, generator=torch.Generator().manual_seed(Z))
    keys, values = (torch.full((len(order), Z, G, D), math.nan, dtype=k.dtype) for _ in range(2))
    table = order[: B * columns].view(B, columns).int()
    for b, n in enumerate(lengths):
        for s in range(n):
            keys[table[b, s // Z], s % Z], values[table[b, s // Z], s % Z] = k[b, s], v[b, s]
    return Paged(keys, values, table, torch.tensor(lengths, dtype=torch.int32), S)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("Z", (1, 5, 16, 300))
@pytest.mark.parametrize("T", (1, 4, 60))
def test_pages_of_any_size_are_the_dense_keys(isa: str, Z: int, T: int) -> None:
    q, k, v = (draw(2, n, h, 64, dtype=torch.bfloat16, seed=n) for n, h in ((T, 4), (210, 2), (210, 2)))
    pages = paged(k, v, Z, [210, 77])
    found = run(call_of(q, pages, mask=Causal()), isa)
    for b, n in enumerate((210, 77)):
        dense = run(call_of(q[b : b + 1], k[b : b + 1, :n], v[b : b + 1, :n], Causal()), isa)
        assert torch.allclose(found.out[b], dense.out[0], atol=2e-2) and torch.allclose(found.lse[b], dense.lse[0], atol=1e-5)


@pytest.mark.parametrize("T", (1, 40))
def test_a_page_that_does_not_exist_is_named(T: int) -> None:
    q, k = draw(2, T, 4, 64), draw(2, 64, 2, 64)
    pages = paged(k, k, 16, [64, 64])
    pages.table[1, 2] = 4711
    with pytest.raises(Invalid, match=r"table\[1, 2\] = 4711"):
        run(call_of(q, pages, mask=Causal()))
    pages.table[1, 2] = -1
    with pytest.raises(Invalid, match=r"table\[1, 2\] = -1"):
        run(call_of(q, pages, mask=Causal()))
    with pytest.raises(Invalid, match=r"table\[1, 2\]"):
        append(replace(pages, lengths=torch.tensor([3, 48], dtype=torch.int32)), draw(2, 3, 2, 64), draw(2, 3, 2, 64))


def test_a_page_that_no_key_lies_in_is_not_read() -> None:
    q, k = draw(2, 1, 4, 64), draw(2, 64, 2, 64)
    pages = paged(k, k, 16, [64, 20])
    pages.table[1, 2:] = -1
    assert torch.isfinite(run(call_of(q, pages)).out).all()


def test_lengths_beyond_their_room_are_refused() -> None:
    q, k = draw(2, 1, 4, 64), draw(2, 64, 2, 64)
    for wrong in ([64, 65], [-1, 5]):
        with pytest.raises(Invalid, match="length"):
            run(call_of(q, replace(paged(k, k, 16, [64, 64]), lengths=torch.tensor(wrong, dtype=torch.int32))))


def test_the_same_bits_whatever_the_team() -> None:
    for T, S, mask in ((1, 5000, Full()), (300, 1500, Causal()), (6, 900, Causal())):
        q, k = draw(1, T, 4, 64, dtype=torch.bfloat16), draw(1, S, 2, 64, dtype=torch.bfloat16, seed=1)
        for threads in (1, 2, 3, 8):
            states = [run(call_of(q, k, k, mask), threads=threads) for _ in range(3)]
            assert all(torch.equal(states[0].out, x.out) and torch.equal(states[0].lse, x.lse) for x in states)
            one = run(call_of(q, k, k, mask), threads=1)
            assert error(states[0].out, one.out) < 5e-3


def test_python_threads_at_once() -> None:
    calls = [call_of(draw(1, T, 8, 64, seed=T), draw(1, S, 2, 64, seed=S), draw(1, S, 2, 64, seed=S + 1), Causal()) for T, S in ((1, 3000), (200, 500), (90, 90))]
    want = [run(call) for call in calls]
    wrong: list[str] = []

    def work(call: Call, expected: State) -> None:
        for _ in range(25):
            found = run(call)
            if not torch.equal(found.out, expected.out):
                wrong.append(str(call.q.shape))

    team = [threading.Thread(target=work, args=pair) for pair in zip(calls, want, strict=True) for _ in range(2)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert not wrong


def test_subnormal_weights_are_cheap_and_the_mode_is_restored() -> None:
    q, k = draw(1, 64, 2, 64) * 12, draw(1, 2000, 2, 64, seed=1)
    run(call_of(q, k, k))
    tiny = torch.tensor([1e-40])
    assert float(tiny * 1) > 0, "subnormal numbers are still there after a call"
    out = run(call_of(q, k * 1e-38, k)).out  # keys that are subnormal themselves
    assert error(out, k.mean(1, keepdim=True).expand_as(out)) < 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("T", (1, 5, 100))
@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_what_a_query_may_not_see_does_not_reach_it(isa: str, dtype: torch.dtype, T: int, bad: float) -> None:
    q, k, v = draw(1, T, 4, 64, dtype=dtype), draw(1, 320, 2, 64, dtype=dtype, seed=1), draw(1, 320, 2, 64, dtype=dtype, seed=2)
    clean = run(call_of(q, k, v, Causal(), first=150), isa)
    k, v = k.clone(), v.clone()
    hidden = 150 + T // 2  # the later half of the queries sees it
    k[:, hidden + 1 :], v[:, hidden + 1 :] = bad, bad
    found = run(call_of(q, k, v, Causal(), first=150), isa)
    n = T // 2 + 1
    assert error(found.out[:, :n], clean.out[:, :n]) < 1e-2 and torch.allclose(found.lse[:, :n], clean.lse[:, :n], atol=1e-5)
    assert not torch.isfinite(found.out[:, n:]).any()


def test_append_writes_where_attention_reads() -> None:
    for dtype in DTYPES:
        k, v = draw(2, 50, 2, 64, dtype=dtype), draw(2, 50, 2, 64, dtype=dtype, seed=1)
        pages = paged(k, v, 7, [50, 50])
        want = (pages.keys.clone(), pages.values.clone())
        pages.keys.fill_(math.nan), pages.values.fill_(math.nan)
        for low, high in ((0, 1), (1, 20), (20, 50)):
            so_far = replace(pages, lengths=torch.tensor([high, high], dtype=torch.int32))
            append(so_far, k[:, low:high], v[:, low:high])
        assert torch.equal(pages.keys.nan_to_num(), want[0].nan_to_num()) and torch.equal(pages.values.nan_to_num(), want[1].nan_to_num())


def test_one_openmp_is_mapped() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc/self/maps")
    run(call_of(draw(1, 1, 1, 64), draw(1, 9, 1, 64), draw(1, 9, 1, 64)))
    pools = {line.split()[-1] for line in maps.read_text().splitlines() if "gomp" in line or "libomp" in line or "libiomp" in line}
    assert len(pools) == 1, pools


def test_a_forked_child_computes() -> None:
    script = """
import os, torch
from strobe import attention
q, k = torch.randn(1, 64, 4, 64), torch.randn(1, 3000, 4, 64)
want = attention(q, k, k)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(attention(q, k, k), want) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


class Stub:
    """A library that says what it is told to say."""

    def __init__(self, interface: int, sources: bytes) -> None:
        self.strobe_interface: Callable[[], int] = lambda: interface
        self.strobe_source_hash = _Function(sources)


class _Function:
    def __init__(self, value: bytes) -> None:
        self.value = value

    def __call__(self) -> bytes:
        return self.value


def test_another_library_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from strobe.backends.cpu import library

    for stub, says in ((Stub(library.INTERFACE + 1, b"x"), "interface"), (Stub(library.INTERFACE, b"y"), "other sources")):
        monkeypatch.setattr(ctypes, "CDLL", lambda path, stub=stub: stub)
        with pytest.raises(Broken, match=f"{says}.*rebuild"):
            library.opened(tmp_path / "_cpu.so", "x")
    monkeypatch.undo()
    (tmp_path / "_cpu.so").write_bytes(b"not a library")
    with pytest.raises(Broken, match="cannot be opened.*rebuild"):
        library.opened(tmp_path / "_cpu.so", "x")


def test_an_absent_library_is_refused_by_the_desk() -> None:
    q = draw(1, 1, 1, 64)
    with pytest.raises(StrobeError, match="not installed"):
        plan(check(face._described(call_of(q, q, q))), replace(Machine.cpu(1), compiled=False), "cpu")


def test_an_instruction_set_that_is_not_here_is_named() -> None:
    from strobe.backends.cpu import library

    assert isinstance(library.error_of(library.BAD_ISA, 0, 0, library.ISAS["neon"]), Broken)
    if BEST != "neon":
        q = draw(1, 1, 1, 64)
        with pytest.raises(Broken, match="neon"):
            run(call_of(q, q, q), "neon")
