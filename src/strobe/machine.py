"""A device as a value: what planning may know of it.

`Machine.cpu(threads)` looks at the processor it runs on; `Machine.named("h200")` is a machine that need
not be here, so a plan for it can be made and tested anywhere. This is the only file that reads the environment.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.metadata
import os
import platform
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from strobe.errors import Invalid

CPU_ARCHS = ("scalar", "neon", "avx2", "avx512", "amx")  # each with all that stands before it on its family
_X86 = ("scalar", "avx2", "avx512", "amx")
_ARM = ("scalar", "neon")


@dataclass(frozen=True)
class Machine:
    """What a desk may know.

    name      for people: "h200", "Intel(R) Xeon(R) …"
    device    "cpu", "cuda" or "tpu"
    arch      instruction set: one of CPU_ARCHS, or "sm80", "sm90", "gfx942", …
    units     what runs at once: threads, or streaming multiprocessors
    compiled  the compiled CPU library is installed
    notes     what a reader of a plan should know ("lowered to avx2 by STROBE_CPU_ISA")
    triton    (major, minor) of the Triton that is installed, None without it
    """

    name: str
    device: str
    arch: str
    units: int
    compiled: bool = True
    notes: tuple[str, ...] = ()
    triton: tuple[int, int] | None = None

    def __hash__(self) -> int:
        """Of what tells machines apart most often: plans are looked up by their machine at every call."""
        return hash((self.arch, self.units))

    @staticmethod
    def cpu(threads: int) -> Machine:
        """The processor this runs on, with `threads` threads to use."""
        return _cpu(threads, os.environ.get("STROBE_CPU_ISA"))

    @staticmethod
    def named(name: str) -> Machine:
        """A machine from the list of known ones, here or not.

        >>> Machine.named("h200").units
        132
        """
        if name not in KNOWN:
            raise Invalid(f"no machine is called {name!r}; known are {', '.join(sorted(KNOWN))}")
        return KNOWN[name]


KNOWN = {
    "h200": Machine("h200", "cuda", "sm90", 132, triton=(3, 6)),
    "h100": Machine("h100", "cuda", "sm90", 132, triton=(3, 6)),
    "a100": Machine("a100", "cuda", "sm80", 108, triton=(3, 6)),
    "rtx4090": Machine("rtx4090", "cuda", "sm89", 128, triton=(3, 6)),
    "t4": Machine("t4", "cuda", "sm75", 40, triton=(3, 6)),
    "mi300x": Machine("mi300x", "cuda", "gfx942", 304, triton=(3, 6)),
    "v5e": Machine("v5e", "tpu", "v5e", 1),
    "amx-2": Machine("amx-2", "cpu", "amx", 2),
    "avx512-8": Machine("avx512-8", "cpu", "avx512", 8),
    "avx2-4": Machine("avx2-4", "cpu", "avx2", 4),
    "neon-8": Machine("neon-8", "cpu", "neon", 8),
    "no-compiler-2": Machine("no-compiler-2", "cpu", "avx2", 2, compiled=False),
}


@lru_cache(maxsize=64)
def _cpu(threads: int, lowered_to: str | None) -> Machine:
    machine = replace(_processor(), units=threads)
    if lowered_to is None:
        return machine
    family = _X86 if machine.arch in _X86[1:] else _ARM if machine.arch == "neon" else ("scalar",)
    if lowered_to not in family:
        raise Invalid(f"STROBE_CPU_ISA is one of {', '.join(family)} on this machine; got {lowered_to!r}")
    if family.index(lowered_to) > family.index(machine.arch):
        raise Invalid(f"STROBE_CPU_ISA asks for {lowered_to}, this machine has only {machine.arch}")
    if lowered_to == machine.arch:
        return machine
    note = f"instruction set lowered from {machine.arch} to {lowered_to} by STROBE_CPU_ISA"
    return replace(machine, arch=lowered_to, notes=(*machine.notes, note))


@lru_cache(maxsize=1)
def _processor() -> Machine:
    name, flags = _cpuinfo()
    notes: tuple[str, ...] = ()
    if platform.machine().lower() in ("arm64", "aarch64"):
        arch = "neon"
    elif {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags:
        arch = "avx512"
        if {"amx_tile", "amx_bf16", "avx512_bf16"} <= flags:
            if _amx_granted():
                arch = "amx"
            else:
                notes = ("the processor has AMX but the kernel did not grant it",)
    elif {"avx2", "fma", "f16c"} <= flags:
        arch = "avx2"
    else:
        arch = "scalar"
    compiled = compiled_library() is not None
    if not compiled:
        notes = (*notes, "the compiled CPU library is not installed (was g++ missing when Strobe was installed?)")
    return Machine(name, "cpu", arch, os.cpu_count() or 1, compiled, notes)


def _cpuinfo() -> tuple[str, frozenset[str]]:
    """(the processor's name, its feature flags as Linux spells them); flags are empty where nothing tells."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = frozenset(value.split())
                break
    return name, flags


def _amx_granted() -> bool:
    """Asks Linux for the tile registers, which it grants a process on request (arch_prctl, XTILEDATA)."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    syscall = getattr(ctypes.CDLL(None), "syscall", None)
    return syscall is not None and syscall(arch_prctl, request_permission, tile_data) == 0


@lru_cache(maxsize=1)
def installed_triton() -> tuple[int, int] | None:
    """(major, minor) of the Triton that is installed, without importing it."""
    try:
        major, minor, *_ = importlib.metadata.version("triton").split(".")
    except importlib.metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


def compiled_library() -> Path | None:
    """The compiled CPU library's file, if it was built."""
    here = Path(__file__).parent / "backends" / "cpu"
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = here / f"_cpu{suffix}"
        if path.exists():
            return path
    return None
