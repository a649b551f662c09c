"""What is the Triton room's own: its desk, which needs no GPU, its targets, its bits, and append, which cannot refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from strobe import Causal, Dense, Documents, Dropout, Full, Mask, Paged, Scaled, Unsupported, Window
from strobe.answers import Offer, Refusal
from strobe.appending import check_append
from strobe.backends.triton import sizes
from strobe.backends.triton.offer import offer
from strobe.faces.torch import _described, describe
from strobe.layouts import Dense as Keys
from strobe.machine import KNOWN, Machine, installed_triton
from strobe.plan import plan
from strobe.problem import Call, Problem, check, map_arrays
from strobe.rooms import kernel

from ..contract.rooms import interpreted

H200 = Machine.named("h200")
GPUS = sorted(name for name, machine in KNOWN.items() if machine.device == "cuda")
needs_interpreter = pytest.mark.skipif(not interpreted(), reason="this machine has no Triton, or a GPU that runs it")


def problem(T: int = 64, S: int = 64, H: int = 8, G: int = 2, D: int = 64, V: int = 0, dtype: str = "bfloat16", B: int = 1, **more: object) -> Problem:
    kind = getattr(torch, dtype)
    q, k, v = (torch.empty(B, n, heads, width, dtype=kind, device="meta") for n, heads, width in ((T, H, D), (S, G, D), (S, G, V or D)))
    return check(_described(Call(q, Keys(k, v), **more)))  # type: ignore[arg-type]


def reasons(asked: object, machine: Machine) -> str:
    answer = offer(asked, machine)  # type: ignore[arg-type]
    assert isinstance(answer, Refusal)
    return "; ".join(answer.reasons)


@pytest.mark.parametrize(
    ("machine", "asked", "says"),
    [
        (Machine.named("amx-2"), problem(), "runs on a GPU; this is cpu"),
        (replace(H200, arch="sm70"), problem(), "this is sm70"),
        (replace(H200, arch="gfx906"), problem(), "this is gfx906"),
        (replace(H200, triton=None), problem(), "Triton is not installed: pip install triton"),
        (replace(H200, triton=(3, 2)), problem(), "needs Triton 3.6 or newer; this is 3.2"),
        (Machine.named("t4"), problem(), "sm75 has no bfloat16"),
        (Machine.named("t4"), problem(D=512, dtype="float32"), "no tile of D=512, V=512 in float32 fits the 64 KiB"),
        (H200, problem(dtype="float64"), "dtypes are float32, bfloat16, float16; got float64"),
        (H200, problem(D=12), "widths are multiples of 8 up to 512; got 12"),
        (H200, problem(D=520), "got 520"),
        (H200, problem(T=1, S=2**30), "fewer than 2³⁰"),
        (H200, replace(problem(), invariant=True, verb="backward"), "only forward attention is invariant here"),
        (H200, replace(problem(dropout=Dropout(0.1, 1)), invariant=True), "dropout is drawn by a sequence's place in the batch"),
        (H200, replace(problem(), verb="double backward"), "no second gradient"),
    ],
)  # fmt: skip
def test_the_desk_says_why_not(machine: Machine, asked: Problem, says: str) -> None:
    assert says in reasons(asked, machine)


def test_a_machine_that_is_wrong_in_two_ways_hears_of_both() -> None:
    said = reasons(problem(D=12), replace(H200, arch="sm70", triton=(3, 2)))
    assert "sm70" in said and "3.2" in said and "12" in said


def test_one_array_of_a_kind_a_mask() -> None:
    ids = torch.empty(1, 64, dtype=torch.int32, device="meta")
    seen = torch.empty(1, 1, 64, 64, dtype=torch.bool, device="meta")
    asked = problem(mask=Documents(ids, ids) & Dense(seen) & Dense(seen.clone()))
    assert "one Dense a mask; got 2" in reasons(asked, H200)


def test_float8_is_for_those_that_have_it() -> None:
    k = Scaled(torch.empty(1, 64, 2, 64, dtype=torch.float8_e4m3fn, device="meta"), torch.empty(1, 64, 2, device="meta"))
    q = torch.empty(1, 1, 8, 64, dtype=torch.bfloat16, device="meta")
    asked = check(_described(Call(q, Keys(k, k))))
    assert isinstance(offer(asked, H200), Offer)
    assert "float8_e4m3fn keys are read on" in reasons(asked, Machine.named("a100"))


@pytest.mark.parametrize("arch", sizes.SHARED_KIB)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("D", [8, 64, 96, 128])
@pytest.mark.parametrize("mask", [Causal(), Full()], ids=str)
def test_tiles_fit_the_shared_memory(arch: str, dtype: str, D: int, mask: Mask) -> None:
    machine, asked, room = replace(H200, arch=arch), problem(T=4096, S=4096, D=D, dtype=dtype, mask=mask), sizes.SHARED_KIB[arch] * 1024
    for by_box in {False, sizes.boxes(asked, machine)}:
        tile = sizes.forward(asked, machine, by_box)
        # a tile of weights lies in registers where tiles come through the copy engine
        weights = 2 * tile.rows * tile.keys if by_box else 0
        assert tile != sizes.NONE and sizes._forward_bytes(asked, *tile[:2], tile.stages) - weights <= room
        for kind in ("queries", "keys", "bias"):
            tile = sizes.backward(asked, machine, kind, by_box)
            weights = 4 * tile.rows * tile.keys if by_box and kind != "bias" else 0
            assert tile != sizes.NONE and sizes._backward_bytes(asked, kind, *tile[:2], tile.stages) - weights <= room


@pytest.mark.parametrize("name", sorted(set(sizes.MEASURED.values())))
def test_what_was_measured_is_read(name: str) -> None:
    found = sizes.tuned(name)
    assert found["machine"] and found["command"] and found["versions"]["triton"]
    for of, tiles in found["tiles"].items():
        for case, tile in tiles.items():
            best = max(found["measured"][of][case].items(), key=lambda one: one[1])
            assert sizes.Tile(*tile) == sizes.Tile(*json.loads(best[0])), (of, case)


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize(("T", "S", "H", "G"), [(1, 8192, 32, 8), (1, 65536, 8, 1), (16, 4096, 32, 8), (8192, 8192, 32, 8), (1, 100, 8, 8)])
def test_few_queries_fill_the_chip(name: str, T: int, S: int, H: int, G: int) -> None:
    machine = Machine.named(name)
    answer = offer(problem(T=T, S=S, H=H, G=G, D=128, dtype="float16"), machine)
    assert isinstance(answer, Offer)
    programs = -(-T * (H // G) // answer.tile[0]) * G
    assert answer.splits == 1 or programs * answer.splits <= 2 * machine.units
    if S >= 4096 and programs < machine.units:
        assert programs * answer.splits >= machine.units or S // answer.splits < 512
    assert answer.workspace_bytes == (0 if answer.splits == 1 else 4 * answer.splits * T * H * 130)


def test_it_is_asked_before_the_reference() -> None:
    chosen = plan(problem(mask=Causal() & Window(before=9), dropout=Dropout(0.1, 1)), H200)
    assert chosen.room == "triton" and "cpu: " in "; ".join(f"{room}: {why}" for room, why in chosen.refusals)


def test_what_was_asked_for_here_raises_where_it_cannot_run() -> None:
    with pytest.raises(Unsupported, match="triton: runs on a GPU; this is cpu"):
        plan(problem(), Machine.named("amx-2"), "triton")


@needs_interpreter
def test_append_writes_what_has_a_place_and_nothing_else() -> None:
    """The device cannot raise: a token beyond its table, or in a page that is not there, is left out, and no memory is touched."""
    keys, values = torch.zeros(3, 4, 2, 64), torch.zeros(3, 4, 2, 64)
    table, lengths = torch.tensor([[0, 9], [1, -1], [2, 2]], dtype=torch.int32), torch.tensor([6, 5, 9], dtype=torch.int32)
    k = torch.ones(3, 4, 2, 64)
    pages = Paged(keys, values, table, lengths, 8)
    chosen = plan(check_append(map_arrays(pages, describe), describe(k), describe(k)), H200, "triton")
    kernel("triton", chosen.offer.kernel).launch(chosen, pages, k, k)
    for pool in (keys, values):
        assert pool[0, :, 0, 0].tolist() == [0, 0, 1, 1] and pool[1, :, 0, 0].tolist() == [0, 1, 1, 1]
        assert pool[2, :, 0, 0].tolist() == [0, 1, 1, 1]  # tokens 5, 6, 7 in the second column; 8 has no place


ROOT = Path(__file__).parents[2]


@needs_interpreter
@pytest.mark.parametrize("arch", ["sm75", "sm80", "sm89", "sm90", "sm100", "sm120", "gfx90a", "gfx942", "gfx950", "gfx1100"])
def test_kernels_compile_for_a_gpu_that_is_not_here(arch: str) -> None:
    home = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.rooms.triton_targets", "few", arch], cwd=ROOT, env=home | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        print(f"{line['arch']:8} {line['kernel']:12} {line['what']:60} {line['registers']:4} registers, {line['spills']:5} spills, {line['shared']:7} B")
    assert {line["kernel"] for line in lines} == {"attend", "merge_parts", "merge_two", "write_rows", "prepare", "d_queries", "d_keys", "d_bias_of", "read"}
    assert all(line["shared"] <= 1024 * sizes.SHARED_KIB[arch] for line in lines)
    if arch.startswith("sm"):
        spilled = [line for line in lines if line["spills"] and ("D 64" in line["what"] or "D 128" in line["what"])]
        assert not spilled


@pytest.mark.skipif(installed_triton() is None, reason="this machine has no Triton")
def test_triton_hashes_itself_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is used if it is of these files, and computed again if not."""
    from triton import knobs
    from triton.runtime import cache

    from strobe.backends import triton_hash

    whole, kept = cache.triton_key, tmp_path / "strobe-triton.json"
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))

    def computed() -> bool:
        monkeypatch.setattr(cache, "triton_key", whole)
        triton_hash.know.cache_clear()
        triton_hash.know()
        assert cache.triton_key() == whole()
        return cache.triton_key is whole

    assert computed() and not computed()
    for spoilt in ("{", "[]", '{"key": 1, "files": []}', kept.read_text().replace("libtriton", "another")):
        kept.write_text(spoilt)
        assert computed() and not computed(), spoilt
    kept.unlink()
    tmp_path.chmod(0o500)  # nothing can be kept there (but by root)
    computed()
    triton_hash.know.cache_clear()
