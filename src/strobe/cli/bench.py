"""`strobe bench`: measures, shows, writes."""

from __future__ import annotations

import argparse
import math
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from strobe.cli.parser import MOST_THREADS
from strobe.cli.screen import progress, show_table
from strobe.cli.sheet import Sheet
from strobe.errors import Invalid
from strobe.lab import report

if TYPE_CHECKING:
    from strobe.lab.hopper import Flash

LARGEST_SEED = 2**62  # what each case adds to it still fits torch's 64 bits


def cpu(arguments: argparse.Namespace) -> int:
    """Attention on this processor beside torch's ways; writes `cpu.json`, with `--plot` pictures beside it."""
    import torch

    from strobe.lab.cases import suite
    from strobe.lab.cpu import Skipped, gate_all, measure
    from strobe.lab.measure import Effort, last_level_cache_bytes

    counts = thread_counts(arguments.threads, torch.get_num_threads())
    wanted: list[str] = arguments.only or [""]
    cases = [case for case in suite(arguments.quick) if any(text in case.name for text in wanted)]
    if not cases:
        raise Invalid(f"no case's name contains {' or '.join(map(repr, wanted))}; names are like {suite(True)[0].name!r}")
    if not (math.isfinite(arguments.seconds) and arguments.seconds > 0):
        raise Invalid(f"--seconds is a finite number above 0; got {arguments.seconds:g}")
    if not 0 <= arguments.seed <= LARGEST_SEED:
        raise Invalid(f"--seed is an integer, 0 … 2**62; got {arguments.seed}")
    effort = Effort(seconds=arguments.seconds)
    skipped: list[Skipped] = []
    about = {"last_level_cache_bytes": last_level_cache_bytes()}
    with Sheet(Path(arguments.out), "cpu", _command(arguments), max(counts), about) as sheet:
        with progress(len(cases)) as advance:
            gate_all(cases, counts, arguments.seed, advance)
        with progress(len(cases) * len(counts)) as advance:
            for found in measure(cases, counts, effort, arguments.flex, arguments.seed):
                (skipped if isinstance(found, Skipped) else sheet.rows).append(found)  # type: ignore[arg-type]
                advance(found.case)
    show_table(*report.table(sheet.result["rows"]), title=f"{sheet.machine.name}, {sheet.machine.arch}")
    for case in skipped:
        print(f"skipped: {case.case}: {case.why}")
    print(f"\nwritten: {sheet.path}")
    if arguments.plot:
        for ending in (".svg", ".png"):
            report.plot(sheet.result, sheet.path.with_suffix(ending))
            print(f"drawn:   {sheet.path.with_suffix(ending)}")
    return 0


def thread_counts(text: str | None, default: int) -> tuple[int, ...]:
    """The numbers in `--threads 1,2`."""
    if text is None:
        return (default,)
    counts = numbers(text, "--threads")
    if max(counts) > MOST_THREADS:
        raise Invalid(f"--threads is up to {MOST_THREADS}; got {max(counts)}")
    return counts


def _command(arguments: argparse.Namespace) -> str:
    """The command that makes the file again."""
    words = ["strobe bench cpu"]
    words += [f"--{name}" for name in ("quick", "flex") if getattr(arguments, name)]
    words += [f"--threads {arguments.threads}"] * (arguments.threads is not None)
    words += [f"--only {shlex.quote(text)}" for text in arguments.only or ()]
    words += [f"--seconds {arguments.seconds:g}"] * (arguments.seconds != 3.0) + [f"--seed {arguments.seed}"] * (arguments.seed != 0)
    return " ".join(words)


def engine(arguments: argparse.Namespace) -> int:
    """A token's time in Strobe's engine and in transformers' generate; writes `engine.json`."""
    import torch

    from strobe.cli.opening import checkpoint, load_quietly
    from strobe.lab.engine import measure
    from strobe.lab.measure import threads

    contexts = numbers(arguments.contexts, "--contexts")
    counts = thread_counts(arguments.threads, torch.get_num_threads())
    for word in ("tokens", "rounds"):
        if getattr(arguments, word) < 1:
            raise Invalid(f"--{word} is 1 or more; got {getattr(arguments, word)}")
    words = ["strobe bench engine", *(f"--{word} {getattr(arguments, word)}" for word in ("contexts", "dtype", "tokens", "rounds"))]
    words += ["--model DIR"] * (arguments.model is not None) + [f"--threads {arguments.threads}"] * (arguments.threads is not None)
    with Sheet(Path(arguments.out), "engine", " ".join(words), max(counts)) as sheet:
        folder = checkpoint(arguments.model)
        loaded = [load_quietly(folder, arguments.dtype) for _ in (0, 1)]
        models = (loaded[0][0], loaded[1][0], loaded[0][1])
        name = "demo" if arguments.model is None else folder.resolve().name
        with progress(len(contexts) * len(counts)) as advance:
            for count in counts:
                with threads(count):
                    for found in measure(models, name, contexts, arguments.tokens, arguments.rounds):
                        sheet.rows += found
                        advance(found[0].case)
    return _shown(sheet)


def model(arguments: argparse.Namespace) -> int:
    """A token's time in a whole model with random weights, beside transformers' generate and llama.cpp; writes `model.json`."""
    import torch

    from strobe.lab.measure import threads
    from strobe.lab.model import measure

    contexts = numbers(arguments.contexts, "--contexts")
    counts = thread_counts(arguments.threads, torch.get_num_threads())
    command = _words(arguments, "model", ("contexts", "dtype", "layers", "tokens", "rounds"))
    with Sheet(Path(arguments.out), "model", command, max(counts)) as sheet, progress(len(contexts) * len(counts)) as advance:
        for count in counts:
            with threads(count):
                for found in measure(arguments.layers, arguments.dtype, contexts, arguments.tokens, arguments.rounds):
                    sheet.rows += found
                    advance(found[0].case)
    return _shown(sheet)


def training(arguments: argparse.Namespace) -> int:
    """A training step's time and attention's memory, beside torch's attention; writes `training.json`."""
    import torch

    from strobe.lab.measure import threads
    from strobe.lab.training import measure

    counts = thread_counts(arguments.threads, torch.get_num_threads())
    command = _words(arguments, "training", ("steps", "sequences", "length", "long"))
    with Sheet(Path(arguments.out), "training", command, max(counts)) as sheet:
        for count in counts:
            with threads(count):
                for row in measure(arguments.steps, arguments.sequences, arguments.length, arguments.long):
                    sheet.rows.append(row)
    for row in sheet.rows:
        beside = ", ".join(f"{name} {value} {row.unit}" for name, value in row.peers.items())
        print(f"{row.case}: {row.metric} {row.strobe} {row.unit}; {beside}")
    print(f"\nwritten: {sheet.path}")
    return 0


def features(arguments: argparse.Namespace) -> int:
    """What features gain or cost beside the same call without them; writes `features.json`."""
    import torch

    from strobe.lab.features import measure, suite
    from strobe.lab.measure import Effort, threads

    counts = thread_counts(arguments.threads, torch.get_num_threads())
    if not (math.isfinite(arguments.seconds) and arguments.seconds > 0):
        raise Invalid(f"--seconds is a finite number above 0; got {arguments.seconds:g}")
    makers = suite(arguments.quick)
    command = _words(arguments, "features", ("seconds",)) + " --quick" * arguments.quick
    with Sheet(Path(arguments.out), "features", command, max(counts)) as sheet, progress(len(makers) * len(counts)) as advance:
        for count in counts:
            with threads(count):
                for row in measure(makers, Effort(seconds=arguments.seconds)):
                    sheet.rows.append(row)
                    advance(row.case)
    show_table(*report.beside_table(sheet.result["rows"]), title=f"{sheet.machine.name}, {sheet.machine.arch}")
    print(f"\nwritten: {sheet.path}")
    return 0


def gpu(arguments: argparse.Namespace) -> int:
    """Prefill and training on this GPU, in the Triton room; writes `gpu.json`."""
    from strobe import using
    from strobe.lab import gpu as lab

    here = lab.check_gpu()
    works = lab.suite(arguments.quick, arguments.flex)
    command = "strobe bench gpu" + " --flex" * arguments.flex + " --quick" * arguments.quick
    with (
        Sheet(Path(arguments.out), "gpu", command, here, commit=arguments.commit) as sheet,
        progress(len(works)) as advance,
        using("triton"),
    ):
        for row in lab.measure(works):
            sheet.rows.append(row)
            advance(row.case)
    return _gpu_shown(sheet)


def gpu_features(arguments: argparse.Namespace) -> int:
    """What features cost on this GPU, memory, the host's time and the first call, in the Triton room; writes `gpu-features.json`."""
    from strobe import using
    from strobe.lab import gpu
    from strobe.lab import gpu_features as lab

    here = gpu.check_gpu()
    works, others = lab.suite(arguments.quick), (lab.memory, lab.host, lab.first)
    command = "strobe bench gpu-features" + " --quick" * arguments.quick
    with (
        Sheet(Path(arguments.out), "gpu-features", command, here, commit=arguments.commit) as sheet,
        progress(len(works) + len(others)) as advance,
        using("triton"),
    ):
        for row in gpu.measure(works):
            sheet.rows.append(row)
            advance(row.case)
        for make in others:
            sheet.rows.append(make())
            advance(sheet.rows[-1].case)
    return _gpu_shown(sheet)


def hopper(arguments: argparse.Namespace) -> int:
    """Prompts in the Hopper room; writes `hopper.json`."""
    from strobe import using
    from strobe.lab import gpu, gpu_features
    from strobe.lab import hopper as lab

    here = gpu.check_gpu()
    flash, words = _flash(arguments)
    shapes = gpu.shapes(arguments.quick)
    works, others = lab.suite(shapes, flash), lab.errors(shapes, flash)
    others += [lambda: gpu_features.host("hopper"), lambda: gpu_features.first("hopper")]
    command = f"strobe bench hopper{words}" + " --quick" * arguments.quick
    with (
        Sheet(Path(arguments.out), "hopper", command, here, commit=arguments.commit) as sheet,
        progress(len(works) + len(others)) as advance,
        using("hopper"),
    ):
        for row in gpu.measure(works, "hopper"):
            sheet.rows.append(row)
            advance(row.case)
        for make in others:
            sheet.rows.append(make())
            advance(sheet.rows[-1].case)
    return _gpu_shown(sheet)


def decode(arguments: argparse.Namespace) -> int:
    """Tokens over caches on this GPU; writes `decode.json`, or `decode-ROOM.json` of a room that was asked for."""
    from strobe import using
    from strobe.lab import fa3, gpu, gpu_decode, graphs
    from strobe.rooms import kernel

    here = gpu.check_gpu()
    if arguments.fa3 is not None:
        fa3.load(arguments.fa3)
    works = gpu_decode.suite(gpu_decode.Bench(fa3=arguments.fa3 is not None), arguments.quick)
    room, name = arguments.room, "decode"
    command = "strobe bench decode" + " --fa3 FILE" * (arguments.fa3 is not None) + " --quick" * arguments.quick
    if room is not None:
        name, command = f"decode-{room}", f"{command} --room {room}"
    read = kernel("triton", "reading").launch
    with (
        Sheet(Path(arguments.out), name, command, here, commit=arguments.commit) as sheet,
        progress(len(works)) as advance,
        using(room) if room else nullcontext(),
    ):
        for row in graphs.measure(works, lambda arrays: lambda: read(arrays, here.units)):
            sheet.rows.append(row)
            advance(row.case)
    for title, rows in report.decode_tables(sheet.result["rows"]).items():
        show_table(*rows, title=title)
    print(f"\nwritten: {sheet.path}")
    return 0


def gpu_model(arguments: argparse.Namespace) -> int:
    """A token's time in a whole model on this GPU, by context; writes `gpu-model.json`, with `--plot` a picture beside it."""
    from strobe.lab import gpu
    from strobe.lab import gpu_model as lab

    contexts = numbers(arguments.contexts, "--contexts")
    here = gpu.check_gpu()
    flash, words = _flash(arguments)
    command = f"strobe bench gpu-model --contexts {arguments.contexts}{words}"
    form = lab.small() if arguments.quick else lab.Form()
    command += " --quick" * arguments.quick
    with Sheet(Path(arguments.out), "gpu-model", command, here, commit=arguments.commit) as sheet, progress(len(contexts)) as advance:
        for row in lab.measure(form, contexts, flash, lab.Between().compiled()):
            sheet.rows.append(row)
            advance(row.case)
    show_table(*report.table(sheet.result["rows"]))
    if arguments.plot:
        report.plot_model(sheet.result, sheet.path.with_suffix(".svg"))
    print(f"\nwritten: {sheet.path}")
    return 0


def _flash(arguments: argparse.Namespace) -> tuple[Flash, str]:
    """(which of FlashAttention 3 and 4 are at hand, loaded; the command's words for them)."""
    from strobe.lab import fa3, fa4
    from strobe.lab.hopper import Flash

    if arguments.fa3 is not None:
        fa3.load(arguments.fa3)
    if arguments.fa4 is not None:
        fa4.load(arguments.fa4)
    flash = Flash(arguments.fa3 is not None, arguments.fa4 is not None)
    return flash, " --fa3 FILE" * flash.three + " --fa4 FOLDER" * flash.four


def _words(arguments: argparse.Namespace, suite: str, words: tuple[str, ...]) -> str:
    """The command that makes a suite's file again."""
    command = [f"strobe bench {suite}", *(f"--{word} {getattr(arguments, word)}" for word in words)]
    return " ".join(command + [f"--threads {arguments.threads}"] * (arguments.threads is not None))


def _shown(sheet: Sheet) -> int:
    """Shows what an engine's suite has written."""
    show_table(*report.engine_table(sheet.result["rows"]), title=f"milliseconds a token, {sheet.machine.name}, {sheet.machine.arch}")
    print()
    show_table(*report.first_table(sheet.result["rows"]), title="time to the first token, measured once")
    print(f"\nwritten: {sheet.path}")
    return 0


def _gpu_shown(sheet: Sheet) -> int:
    """Shows what a GPU's suite of long calls has written."""
    for title, rows in report.gpu_tables(sheet.result["rows"]).items():
        show_table(*rows, title=title)
    print(f"\nwritten: {sheet.path}")
    return 0


def numbers(text: str, name: str) -> tuple[int, ...]:
    """The numbers of `512,2048`."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 19 and int(word) > 0 for word in words):
        raise Invalid(f"{name} is a number, or several as in 1,2; got {text!r}")
    return tuple(map(int, words))
