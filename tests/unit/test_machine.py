"""Machines as values: the named ones, this one lowered by STROBE_CPU_ISA, and what each family of processors has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from strobe import machine as module
from strobe.errors import Invalid
from strobe.machine import CPU_ARCHS, KNOWN, Machine

X86 = {
    "scalar": frozenset({"sse2"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "avx512": frozenset({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq"}),
    "amx": frozenset({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "amx_tile", "amx_bf16"}),
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was found out about this machine is forgotten before and after each test."""
    yield from _forgetting()


def _forgetting() -> Iterator[None]:
    module._processor.cache_clear()
    module._cpu.cache_clear()
    yield
    module._processor.cache_clear()
    module._cpu.cache_clear()


def become(monkeypatch: pytest.MonkeyPatch, family: str, flags: frozenset[str], *, granted: bool = True, compiled: bool = True) -> None:
    """This process's processor, as if it were that one."""
    monkeypatch.setattr(module.platform, "machine", lambda: family)
    monkeypatch.setattr(module, "_cpuinfo", lambda: ("Processor of a test", flags))
    monkeypatch.setattr(module, "_amx_granted", lambda: granted)
    monkeypatch.setattr(module, "compiled_library", lambda: Path("_cpu.so") if compiled else None)
    monkeypatch.delenv("STROBE_CPU_ISA", raising=False)


@pytest.mark.parametrize("name", KNOWN)
def test_a_named_machine_is_what_its_name_says(name: str) -> None:
    found = Machine.named(name)
    assert found.name == name
    assert found.units >= 1
    assert found.notes == ()
    assert found.device in ("cpu", "cuda", "tpu")
    if found.device == "cpu":
        assert found.arch in CPU_ARCHS
        assert found.units == int(name.rsplit("-", 1)[1])
        assert found.compiled == (not name.startswith("no-compiler"))


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(Invalid, match="no machine is called 'h300'; known are .*a100.*h200"):
        Machine.named("h300")


@pytest.mark.parametrize("arch", X86)
def test_an_x86_processor_is_known_by_its_flags(monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    become(monkeypatch, "x86_64", X86[arch])
    found = Machine.cpu(3)
    assert (found.arch, found.units, found.device, found.name, found.notes) == (arch, 3, "cpu", "Processor of a test", ())


@pytest.mark.parametrize("missing", ["avx512vl", "avx512dq", "avx512bw"])
def test_half_an_instruction_set_is_none(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    become(monkeypatch, "x86_64", X86["amx"] - {missing})
    assert Machine.cpu(1).arch == "avx2"


@pytest.mark.parametrize("family", ["arm64", "aarch64", "ARM64"])
def test_an_arm_processor_has_neon(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    become(monkeypatch, family, frozenset())
    assert Machine.cpu(1).arch == "neon"


def test_another_family_has_plain_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, "riscv64", frozenset())
    assert Machine.cpu(1).arch == "scalar"


def test_tiles_that_the_kernel_does_not_grant_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, "x86_64", X86["amx"], granted=False)
    assert Machine.cpu(1).arch == "avx512"
    assert "did not grant it" in Machine.cpu(1).notes[0]


def test_a_missing_library_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, "x86_64", X86["avx2"], compiled=False)
    assert not Machine.cpu(1).compiled
    assert "not installed" in Machine.cpu(1).notes[0]


@pytest.mark.parametrize(
    ("family", "has", "asked"),
    [("x86_64", X86["amx"], "avx512"), ("x86_64", X86["amx"], "scalar"), ("x86_64", X86["avx512"], "avx2"), ("aarch64", frozenset(), "scalar")],
)
def test_an_instruction_set_is_lowered_and_the_plan_will_say_so(
    monkeypatch: pytest.MonkeyPatch, family: str, has: frozenset[str], asked: str
) -> None:
    become(monkeypatch, family, has)
    before = Machine.cpu(2).arch
    monkeypatch.setenv("STROBE_CPU_ISA", asked)
    found = Machine.cpu(2)
    assert found.arch == asked
    assert found.notes == (f"instruction set lowered from {before} to {asked} by STROBE_CPU_ISA",)


def test_lowering_to_what_is_there_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, "x86_64", X86["avx2"])
    before = Machine.cpu(2)
    monkeypatch.setenv("STROBE_CPU_ISA", "avx2")
    assert Machine.cpu(2) == before


@pytest.mark.parametrize(
    ("family", "has", "asked", "words"),
    [
        ("x86_64", X86["avx2"], "avx512", "asks for avx512, this machine has only avx2"),
        ("x86_64", X86["avx2"], "neon", "is one of scalar, avx2, avx512, amx on this machine; got 'neon'"),
        ("x86_64", X86["avx2"], "AVX2", "got 'AVX2'"),
        ("x86_64", X86["avx2"], "", "got ''"),
        ("aarch64", frozenset(), "avx2", "is one of scalar, neon on this machine; got 'avx2'"),
        ("riscv64", frozenset(), "neon", "is one of scalar on this machine; got 'neon'"),
    ],
)
def test_a_bad_value_is_named_and_not_ignored(
    monkeypatch: pytest.MonkeyPatch, family: str, has: frozenset[str], asked: str, words: str
) -> None:
    become(monkeypatch, family, has)
    monkeypatch.setenv("STROBE_CPU_ISA", asked)
    with pytest.raises(Invalid, match=words):
        Machine.cpu(2)


def test_this_machine_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STROBE_CPU_ISA", raising=False)
    assert Machine.cpu(2) == Machine.cpu(2)
    assert hash(Machine.cpu(2)) == hash(Machine.cpu(2))
    assert Machine.cpu(2).device == "cpu"
    assert Machine.cpu(2).name
