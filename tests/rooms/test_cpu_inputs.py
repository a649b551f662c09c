"""What may reach the CPU room and once in a while does: odd memory, nothing at all, huge sizes, other machines and libraries."""

from __future__ import annotations

import ctypes
import math
import mmap
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import strobe
from strobe import Causal, Machine, Packed, Paged, Ranged, Sink, SoftCap, State, append, attention, attention_state, using
from strobe import machine as machines
from strobe.errors import Invalid, Unsupported
from strobe.machine import compiled_library

from .test_cpu import DTYPES, ISAS, call_of, draw, error, run

pytestmark = [pytest.mark.native, pytest.mark.skipif(compiled_library() is None, reason="needs the compiled CPU library")]


@pytest.fixture(autouse=True)
def in_the_room() -> object:
    with using("cpu"):
        yield


# Another machine.


def _flags(monkeypatch: pytest.MonkeyPatch, flags: str, granted: bool = True) -> Machine:
    monkeypatch.setattr(machines, "_cpuinfo", lambda: ("a processor", frozenset(flags.split())))
    monkeypatch.setattr(machines, "_amx_granted", lambda: granted)
    return machines._processor.__wrapped__()


WIDE = "avx2 fma f16c avx512f avx512bw avx512vl avx512dq amx_tile amx_bf16 avx512_bf16"


@pytest.mark.parametrize(
    ("flags", "granted", "arch"),
    [(WIDE, True, "amx"), (WIDE, False, "avx512"), ("avx2 fma f16c avx512f", True, "avx2"), ("avx2 fma", True, "scalar"), ("sse2", True, "scalar")],
)
def test_an_older_processor_or_a_kernel_that_forbids_amx_gets_the_set_below(
    monkeypatch: pytest.MonkeyPatch, flags: str, granted: bool, arch: str
) -> None:
    found = _flags(monkeypatch, flags, granted)
    assert found.arch == arch and (granted or "did not grant" in found.notes[0])


FORBIDDEN = """
import ctypes, platform, struct
libc = ctypes.CDLL(None, use_errno=True)

class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("at", ctypes.c_void_p)]

# Of a system call: if it is arch_prctl (158) and asks for permission (0x1023), it fails with EPERM; all else is allowed.
words = [(0x20, 0, 0, 0), (0x15, 0, 3, 158), (0x20, 0, 0, 16), (0x15, 0, 1, 0x1023), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *word) for word in words))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
given = libc.prctl(22, 2, ctypes.byref(Filter(len(words), ctypes.addressof(code))), 0, 0)
if given != 0:
    print("no filters")
    raise SystemExit
import torch
from strobe import Machine, attention, explain
from strobe.backends.cpu.library import ISAS, library
q = torch.randn(1, 70, 4, 64, dtype=torch.bfloat16)
out = attention(q, q, q)
truth = attention(q.double(), q.double(), q.double())
assert (out - truth).norm() < 1e-2 * truth.norm()
print(Machine.cpu(1).arch, library().strobe_has_isa(ISAS["amx"]), explain(q, q, q).room)
"""


def python(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with the package that is tested, wherever Python would find another."""
    here = f"import sys; sys.path.insert(0, {str(Path(strobe.__file__).parents[1])!r})\n"
    return subprocess.run([sys.executable, "-c", here + script], capture_output=True, text=True, check=False, timeout=120)


def test_where_the_kernel_forbids_amx_everything_runs_without_it() -> None:
    """A filter of system calls, as sandboxes have, makes Linux refuse the tile registers."""
    if not sys.platform.startswith("linux") or Machine.cpu(1).arch not in ("amx", "avx512", "avx2"):
        pytest.skip("this machine has no such system call")
    done = python(FORBIDDEN)
    if done.stdout.strip() == "no filters":
        pytest.skip("this machine takes no filters of system calls")
    assert done.returncode == 0, done.stderr
    arch, has_amx, room = done.stdout.split()
    assert arch != "amx" and has_amx == "0" and room == "cpu"


def test_a_library_of_another_version_is_refused_at_the_first_call(tmp_path: Path) -> None:
    """A whole package whose sources and library are of two versions, as after a copy over an older install."""
    home = tmp_path / "strobe"
    shutil.copytree(Path(strobe.__file__).parent, home, ignore=shutil.ignore_patterns("data", "__pycache__"))
    with (home / "backends" / "cpu" / "numbers.hpp").open("a") as header:
        header.write("// a line more\n")
    ask = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch, strobe; q = torch.ones(1, 1, 1, 8); strobe.attention(q, q, q)"
    done = python(ask)
    assert done.returncode != 0 and "was built from other sources" in done.stderr and "rebuild it" in done.stderr


def test_a_struct_of_another_size_is_refused() -> None:
    from strobe.backends.cpu import library as lib

    buffer = ctypes.create_string_buffer(lib.ATTENTION.size)
    for name in ("strobe_forward", "strobe_decode", "strobe_append_tokens", "strobe_merge_states", "strobe_linear", "strobe_backward"):
        assert lib.function(name)(buffer) == lib.BAD_STRUCT


# Odd memory.


def _shifted(x: Tensor, by: int = 1) -> Tensor:
    """The same numbers, a number further on: of 2 or 4 bytes, so no vector is aligned."""
    room = torch.empty(x.numel() + by, dtype=x.dtype)
    return room[by:].view(x.shape).copy_(x)


def _wide(x: Tensor) -> Tensor:
    """The same numbers, with others between the heads and behind the width."""
    room = torch.full((*x.shape[:2], 2 * x.shape[2], x.shape[3] + 3), torch.nan, dtype=x.dtype)
    view = room[:, :, ::2, 1 : 1 + x.shape[3]]
    return view.copy_(x)


def _spread(x: Tensor) -> Tensor:
    """All sequences, tokens and heads are the first one: strides of 0."""
    return x[:1, :1, :1].expand(x.shape)


def _turned(x: Tensor) -> Tensor:
    """Tokens and heads reversed in memory. torch knows no negative strides, so the order is kept and the axes are turned."""
    return x.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lay", [_shifted, _wide, _spread, _turned], ids=lambda lay: lay.__name__.strip("_"))
@pytest.mark.parametrize("T", [1, 5, 70])
def test_however_an_array_lies_it_means_its_numbers(dtype: torch.dtype, lay: object, T: int) -> None:
    assert callable(lay)
    q, k, v = lay(draw(2, T, 4, 40, dtype=dtype)), lay(draw(2, 130, 2, 40, dtype=dtype, seed=1)), lay(draw(2, 130, 2, 24, dtype=dtype, seed=2))
    plainly = [x.contiguous().requires_grad_() for x in (q, k, v)]
    out, want = attention(q, k, v, mask=Causal()), attention(*plainly, mask=Causal())
    assert torch.equal(out, want)
    asked = [x.detach().requires_grad_() for x in (q, k, v)]
    found = torch.autograd.grad(attention(*asked, mask=Causal()), asked, torch.ones_like(want))
    for a, b in zip(found, torch.autograd.grad(want, plainly, torch.ones_like(want)), strict=True):
        assert torch.equal(a, b)


def test_negative_strides_are_of_no_tensor_and_of_no_array_that_becomes_one() -> None:
    import numpy as np

    backwards = np.ones((1, 4, 2, 8), dtype=np.float32)[:, ::-1]
    with pytest.raises(ValueError, match="negative"):
        torch.from_numpy(backwards)
    with pytest.raises(Invalid, match="q is an array .*got 'a ndarray'"):
        attention(backwards, torch.ones(1, 4, 2, 8), torch.ones(1, 4, 2, 8))


def test_the_library_itself_takes_negative_strides() -> None:
    """Of the C interface, which other languages may call: the keys from the last to the first are the keys."""
    from strobe.backends.cpu import library as lib

    q, k, v = draw(1, 3, 2, 16), draw(1, 90, 2, 16, seed=1), draw(1, 90, 2, 16, seed=2)
    out, lse = torch.empty(1, 3, 2, 16), torch.empty(1, 3, 2)

    def call(keys: tuple[int, int], step: int) -> Tensor:
        packed = lib.ATTENTION.pack(
            lib.ATTENTION.size, lib.INTERFACE, lib.ISAS[Machine.cpu(1).arch], 1, 0, 0, 1, 3, 90, 2, 2, 16, 16,
            q.data_ptr(), *keys, out.data_ptr(), lse.data_ptr(), 96, 32, 16, 0, step, 16, 0, step, 16, 96, 32, 16, 6, 2, 1,
            *[0] * 14, lib.UNBOUNDED, lib.UNBOUNDED, 0.25, 0.0, 0, 0, 0, 0, *[0] * 8, *lib.NO_FAULT,
        )  # fmt: skip
        for name in ("strobe_forward", "strobe_decode"):
            lib.run(name, lib.ATTENTION, packed)
        return out.clone()

    last = 89 * 32 * 4
    forwards, backwards = call((k.data_ptr(), v.data_ptr()), 32), call((k.data_ptr() + last, v.data_ptr() + last), -32)
    assert error(backwards, forwards) < 1e-6


# Nothing at all.


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_gives_nothing(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    B, T, S = shape
    q, k = torch.ones(B, T, 4, 16, dtype=dtype, requires_grad=True), torch.ones(B, S, 2, 16, dtype=dtype, requires_grad=True)
    state = attention_state(q, k, k)
    assert state.out.shape == (B, T, 4, 16) and not state.out.any() and (state.lse == -torch.inf).all()
    found = torch.autograd.grad(state.out.sum(), (q, k))
    assert all(x.shape == y.shape and not x.any() for x, y in zip(found, (q, k), strict=True))


@pytest.mark.parametrize("B", [0, 2])
def test_no_keys_in_any_layout(B: int) -> None:
    index = torch.zeros(B, dtype=torch.int32)
    none, q = torch.ones(B, 0, 2, 16), torch.ones(B, 3, 4, 16)
    pages = torch.ones(0, 16, 2, 16)
    layouts = (
        Ranged(none, none, index, index),
        Paged(pages, pages, torch.zeros(B, 0, dtype=torch.int32), index, 0),
        Paged(torch.ones(3, 16, 2, 16), torch.ones(3, 16, 2, 16), torch.zeros(B, 0, dtype=torch.int32), index, 0),
    )
    for keys in layouts:
        out = attention(q, keys)
        assert out.shape == q.shape and not out.any()
    append(layouts[1], torch.ones(B, 0, 2, 16), torch.ones(B, 0, 2, 16))
    offsets = torch.zeros(B + 1, dtype=torch.int32)
    empty = torch.ones(0, 2, 16)
    assert attention(Packed(torch.ones(0, 4, 16), offsets, 0), Packed(empty, offsets, 0), empty).shape == (0, 4, 16)


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises((Invalid, Unsupported), match="width"):
        attention(torch.ones(1, 1, 1, 0), torch.ones(1, 2, 1, 0), torch.ones(1, 2, 1, 0))


# Huge sizes: nothing of them is written, so the memory is never there.


def _huge(*shape: int) -> Tensor:
    """Zeros that Linux does not back with memory until they are touched, as torch.zeros touches them all."""
    if not sys.platform.startswith("linux"):
        pytest.skip("this machine may have no memory for it")
    try:
        promised = mmap.mmap(-1, 2 * math.prod(shape), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        pytest.skip("this machine refuses to promise so much memory")
    return torch.frombuffer(promised, dtype=torch.bfloat16).view(shape)


@pytest.mark.parametrize("T", [1, 40])
def test_offsets_past_32_bits_are_right(T: int) -> None:
    """A batch of more than 2³¹ elements; only the last sequence's range is read."""
    k = _huge(5, 1 << 16, 64, 128)
    assert k.numel() > 2**31
    few, q = draw(30, 64, 128, dtype=torch.bfloat16, seed=1), draw(5, T, 64, 128, dtype=torch.bfloat16)
    k[4, -30:] = few
    starts = torch.tensor([0, 0, 0, 0, (1 << 16) - 30], dtype=torch.int32)
    lengths = torch.tensor([0, 0, 0, 0, 30], dtype=torch.int32)
    out = attention(q, Ranged(k, k, starts, lengths), mask=Causal())
    assert torch.equal(out[4:], attention(q[4:], few[None], few[None], mask=Causal())) and not out[:4].any()


def test_pages_past_32_bits_are_right() -> None:
    pages = _huge(2**31 // (256 * 8 * 128) + 2, 256, 8, 128)
    last = len(pages) - 1
    assert last * pages[0].numel() >= 2**31
    table, lengths = torch.tensor([[last]], dtype=torch.int32), torch.tensor([9], dtype=torch.int32)
    new, q = draw(1, 9, 8, 128, dtype=torch.bfloat16), draw(1, 2, 16, 128, dtype=torch.bfloat16, seed=1)
    append(Paged(pages, pages, table, lengths, 9), new, new)
    assert torch.equal(attention(q, Paged(pages, pages, table, lengths, 9), mask=Causal()), attention(q, new, new, mask=Causal()))


@pytest.mark.parametrize("S", [2**31, 2**40])
def test_more_keys_than_positions_have_numbers_are_refused(S: int) -> None:
    """Keys with strides of 0: the shape is huge, the memory is one row."""
    k = torch.ones(1, 1, 1, 8).expand(1, S, 1, 8)
    with pytest.raises(Unsupported, match="fewer than 2³¹ tokens"):
        attention(torch.ones(1, 1, 1, 8), k, k)




# Large scores under a cap: 2^x beyond a float was garbage on instruction sets without a scaling instruction.


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("T", [1, 40])
def test_a_score_far_beyond_its_cap_is_the_cap(isa: str, T: int) -> None:
    q, k, v = draw(1, T, 4, 64) * 40, draw(1, 90, 2, 64, seed=1), draw(1, 90, 2, 64, seed=2)
    wanted = defined(q, k, v)
    found = run(call_of(q, k, v, cap=SoftCap(1.5)), isa)
    assert error(found.out, wanted.out) < 2e-6 and error(found.lse, wanted.lse) < 2e-6


def defined(q: Tensor, k: Tensor, v: Tensor) -> State:
    with using("reference"):
        return attention_state(q.double(), k.double(), v.double(), cap=SoftCap(1.5))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("T", [1, 4, 40])
def test_a_sink_alone_gives_nothing_whatever_the_scratch_held(isa: str, dtype: torch.dtype, T: int) -> None:
    """With a sink a row without keys has a sum; what its sums were computed in may still be another call's."""
    q, wild = draw(1, T, 12, 64, dtype=dtype), torch.full((1, 200, 2, 64), torch.nan, dtype=dtype)
    run(call_of(q, wild, wild), isa, threads=1)
    none, sink = torch.zeros(1, 0, 2, 64, dtype=dtype), Sink(draw(12, seed=3))
    found = run(call_of(q, none, none, sink=sink), isa, threads=1)
    assert not found.out.any() and torch.allclose(found.lse, sink.logits.expand(1, T, 12))
