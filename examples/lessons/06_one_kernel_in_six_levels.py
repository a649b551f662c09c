"""Lesson 6. One kernel in six levels: from the formula in loops to the matrix unit, each level measured and checked.

The six compute the same: one head of attention, T queries over S keys. Each is a page of C++ in `06_levels/`, and differs
from the one before in one idea. They are compiled here, run, compared with float64, and drawn beside `strobe.attention`,
whose kernels are these ideas with everything that a lesson leaves out.

    python examples/lessons/06_one_kernel_in_six_levels.py [LENGTH]

Needs g++ or clang++. Sources: Dao et al., 2022, arXiv:2205.14135; the AMX chapter of Intel's Architecture Instruction Set
Extensions reference.
"""

import ctypes
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from strobe import Machine, attention

SOURCES = Path(__file__).with_name("06_levels")
D = 64
LENGTH = int(sys.argv[1]) if len(sys.argv) > 1 else 512
assert LENGTH > 0 and LENGTH % 64 == 0, "LENGTH is a multiple of 64: the levels have no code for what is left over"

# ── 1. Six levels, and what each needs ───────────────────────────────────────────────────────────────────────────────
#
# Levels 1 to 3 are compiled for any processor of the family. From level 4 on the compiler is told which vectors there are:
# the choice that `strobe` makes when a plan is made. In levels 1 to 3 it is told to leave the loops as they are written.

threads = torch.get_num_threads()
arch = Machine.cpu(threads).arch
FLAGS = {
    "amx": ("-mavx512f", "-DLANES=16"), "avx512": ("-mavx512f", "-DLANES=16"), "avx2": ("-mavx2", "-mfma", "-DLANES=8"),
}  # fmt: skip
vectors = FLAGS.get(arch, ("-DLANES=4",))
as_written, tiles = ("-fno-tree-vectorize",), ("-mamx-tile", "-mamx-bf16", *vectors)
LEVELS = (
    ("1 scalar loops", "1_scalar.cpp", as_written),
    ("2 tiles in the cache", "2_tiles.cpp", as_written),
    ("3 online softmax", "3_online.cpp", as_written),
    (f"4 vectors of {vectors[-1].removeprefix('-DLANES=')}", "4_vectors.cpp", vectors),
    (f"5 threads, {threads}", "4_vectors.cpp", vectors),
    ("6 AMX, bfloat16", "6_amx.cpp", tiles),
)


def compiled(source: str, flags: tuple[str, ...], team: int, into: Path) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """attend(q, k, v) of a source file, on a team of threads."""
    command = [compiler, "-std=c++17", "-O3", "-fno-math-errno", "-pthread", "-shared", "-fPIC", f"-DD={D}", *flags]
    subprocess.run([*command, str(SOURCES / source), "-o", str(into)], check=True)
    function = ctypes.CDLL(str(into)).attend

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        function(*(ctypes.c_void_p(x.data_ptr()) for x in (q, k, v, out)), len(q), len(k), team)
        return out

    return attend


def as_heads(dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same through Strobe: one head of one sequence."""
    return lambda q, k, v: attention(*(x.to(dtype)[None, :, None] for x in (q, k, v)))[0, :, 0].float()


# ── 2. Compile, run, compare ─────────────────────────────────────────────────────────────────────────────────────────

compiler = shutil.which("g++") or shutil.which("clang++")
if compiler is None:
    print("This lesson compiles C++ and finds neither g++ nor clang++ here.")
    sys.exit(0)

torch.manual_seed(0)
q, k, v = (torch.randn(LENGTH, D) for _ in range(3))
truth = torch.softmax(q.double() @ k.double().T / math.sqrt(D), dim=1) @ v.double()
flops = 4 * LENGTH * LENGTH * D  # two products, a multiplication and an addition each


def measured(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """(seconds, the best of a few; error against float64)."""
    found = attend(q, k, v)
    best, end = math.inf, time.perf_counter() + 0.3
    while True:
        start = time.perf_counter()
        attend(q, k, v)
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > end:
            return best, float((found - truth).norm() / truth.norm())


rows = []
with tempfile.TemporaryDirectory() as folder:
    for number, (name, source, flags) in enumerate(LEVELS, 1):
        if number < 6 or arch == "amx":
            rows.append((name, *measured(compiled(source, flags, threads if number > 4 else 1, Path(folder) / f"level{number}.so"))))
rows.append(("strobe, float32", *measured(as_heads(torch.float32))))
rows.append(("strobe, bfloat16", *measured(as_heads(torch.bfloat16))))

print(f"One head, {LENGTH} queries, {LENGTH} keys, D = {D}, on {arch} with {threads} thread(s)\n")
print(f"   {'level':22} {'time':>9}  {'GFLOP/s':>8}  {'× level 1':>9}  {'error':>7}")
for name, seconds, error in rows:
    print(f"   {name:22} {1e3 * seconds:6.2f} ms  {flops / seconds / 1e9:8.1f}  {rows[0][1] / seconds:9.1f}  {error:7.0e}")
    assert error < (1e-2 if "bfloat16" in name else 1e-5)

# ── 3. The plot ──────────────────────────────────────────────────────────────────────────────────────────────────────
#
# GFLOP/s on a logarithmic axis: a step of two columns is the same factor wherever it is.

print("\n   GFLOP/s, each █ a factor of 1.25\n")
for name, seconds, _ in rows:
    print(f"   {name:22} {'█' * max(1, round(math.log(flops / seconds / 2.5e8, 1.25)))} {flops / seconds / 1e9:.0f}")

# What each level removed: 2 the waiting for one sum and for memory that is read in the wrong order; 3 the T × S scores; 4 the
# sharing of a whole vector unit by one number; 5 the idle neighbours; 6 the instruction for every sixteen products.
# What the lesson left out, and `src/strobe/backends/cpu/` has: any length and width, masks and what they let skip, strides, a
# split over keys where queries are few, other vectors without a compiler at hand, and gradients.

fastest_by_hand = min(seconds for name, seconds, _ in rows if not name.startswith("strobe"))
assert fastest_by_hand < rows[0][1], "six levels, and no faster than the loops?"
