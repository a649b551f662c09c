"""The words of the command line. Each command's own module is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from strobe.errors import Invalid

MOST_THREADS = 4096  # OpenMP dies, without a word that could be caught, where it cannot start as many as it was told
DTYPES = ("float32", "bfloat16", "float16", "float64")


def parser() -> argparse.ArgumentParser:
    """The parser of every command; each sets `run`, which takes the arguments and returns an exit code."""
    from strobe import __version__

    top = argparse.ArgumentParser(prog="strobe", description="Exact attention in tiles, and a generation engine on it.")
    top.add_argument("--version", action="version", version=f"strobe {__version__}")
    commands = top.add_subparsers(metavar="command", required=True)
    for add in (_generate, _chat, _demo, _warm, _explain, _doctor, _bench):
        add(commands)
    return top


def _later(module: str, function: str = "run") -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        if isinstance(getattr(arguments, "threads", None), int):
            _use_threads(arguments.threads)
        return getattr(import_module(f"strobe.cli.{module}"), function)(arguments)

    return run


def _use_threads(count: int) -> None:
    if not 1 <= count <= MOST_THREADS:
        raise Invalid(f"--threads is 1 or more, up to {MOST_THREADS}; got {count}")
    import torch  # the command imports it anyway

    torch.set_num_threads(count)


def _explain(commands: Any) -> None:
    command = commands.add_parser("explain", help="print the plan of a call, for this machine or another", description=(
        "Prints which file would compute an attention, why, and why nothing better does. Nothing is computed."))  # fmt: skip
    command.add_argument("--machine", default="here", help="here, or a known machine: h200, a100, amx-2, …")
    for letter, default, meaning in (
        ("B", 1, "batch"), ("T", 1, "queries"), ("S", 1024, "keys"), ("H", 8, "query heads"), ("G", None, "key heads, H unless given"),
        ("D", 64, "width of a key"), ("V", None, "width of a value, D unless given"),
    ):  # fmt: skip
        command.add_argument(f"--{letter}", type=int, default=default, metavar="N", help=meaning)
    command.add_argument("--dtype", default="float32", choices=DTYPES)
    command.add_argument("--causal", action="store_true", help="the last query sees the last key, none sees a later one")
    command.add_argument("--window", type=int, metavar="N", help="N keys before the query's own position (and after it, unless causal)")
    command.add_argument("--paged", type=int, metavar="Z", help="keys lie in pages of Z tokens")
    command.add_argument("--draw", action="store_true", help="draw the mask (small sizes)")
    command.set_defaults(run=_later("explain"))


def _doctor(commands: Any) -> None:
    command = commands.add_parser("doctor", help="what this machine has, what runs, and whether it is right", description=(
        "Shows what this machine has, and compares every room that runs here with float64 on small problems. "
        "Exit code 1 if a room is wrong."))  # fmt: skip
    command.add_argument("--all", action="store_true", help="show every comparison, not each room's worst")
    command.set_defaults(run=_later("doctor"))


def _bench(commands: Any) -> None:
    says = "Measures, and writes DIR/<machine>/<suite>.json; the rows of a suite that is stopped go to <suite>.partial.json."
    command = commands.add_parser("bench", help="measure, and write the results", description=says)
    suites = command.add_subparsers(metavar="suite", required=True)
    cpu = suites.add_parser("cpu", help="attention on this processor beside torch's ways")
    cpu.add_argument("--quick", action="store_true", help="a few cases only")
    cpu.add_argument("--threads", metavar="N[,N]", help="numbers of threads to measure with; torch's own unless given")
    cpu.add_argument("--flex", action="store_true", help="FlexAttention as another peer (compiles for minutes)")
    cpu.add_argument("--only", metavar="TEXT", action="append", help="only cases whose name contains this, or another one given")
    cpu.add_argument("--plot", action="store_true", help="draw the results beside them (cpu.svg and cpu.png)")
    cpu.add_argument("--seconds", type=float, default=3.0, metavar="S", help="longest time a case, after at least five rounds")
    cpu.add_argument("--seed", type=int, default=0, metavar="N", help="of the arrays that are drawn")
    _common(cpu)
    cpu.set_defaults(run=_later("bench", "cpu"))
    _bench_gpu(suites)
    features = suites.add_parser("features", help="what a feature gains or costs beside the same call without it")
    features.add_argument("--quick", action="store_true", help="short contexts only")
    features.add_argument("--threads", metavar="N[,N]", help="numbers of threads to measure with; torch's own unless given")
    features.add_argument("--seconds", type=float, default=3.0, metavar="S", help="longest time a row, after at least five rounds")
    _common(features)
    features.set_defaults(run=_later("bench", "features"))
    engine = suites.add_parser("engine", help="a token's time beside transformers' generate")
    engine.add_argument("--model", metavar="DIR", help="a checkpoint's folder; the demonstration model unless given")
    engine.add_argument("--dtype", default="float32", choices=("auto", *DTYPES[:3]), help="float32 decides whether tokens are the same")
    engine.add_argument("--contexts", default="512,2048,8192", metavar="N[,N]")
    engine.add_argument("--threads", metavar="N[,N]", help="numbers of threads to measure with; torch's own unless given")
    engine.add_argument("--tokens", type=int, default=16, metavar="N", help="tokens a round")
    engine.add_argument("--rounds", type=int, default=5, metavar="N")
    _common(engine)
    engine.set_defaults(run=_later("bench", "engine"))
    model = suites.add_parser("model", help="the same for random weights in Qwen3-0.6B's shape, and llama.cpp")
    model.add_argument("--layers", type=int, default=28, metavar="N", help="fewer for a try")
    model.add_argument("--dtype", default="bfloat16", choices=DTYPES[:3])
    model.add_argument("--contexts", default="1024,8192,32768", metavar="N[,N]")
    model.add_argument("--threads", metavar="N[,N]", help="numbers of threads to measure with; torch's own unless given")
    model.add_argument("--tokens", type=int, default=8, metavar="N", help="tokens a round")
    model.add_argument("--rounds", type=int, default=3, metavar="N")
    _common(model)
    model.set_defaults(run=_later("bench", "model"))
    training = suites.add_parser("training", help="a training step and attention's memory, beside torch's attention")
    training.add_argument("--steps", type=int, default=200, metavar="N")
    training.add_argument("--sequences", type=int, default=4, metavar="N", help="of a batch")
    training.add_argument("--length", type=int, default=1024, metavar="N", help="tokens of a sequence")
    training.add_argument("--long", type=int, default=8192, metavar="N", help="tokens at which memory is measured")
    training.add_argument("--threads", metavar="N[,N]", help="numbers of threads to measure with; torch's own unless given")
    _common(training)
    training.set_defaults(run=_later("bench", "training"))


def _bench_gpu(suites: Any) -> None:
    gpu = suites.add_parser("gpu", help="attention on this GPU beside torch's kernels")
    gpu.add_argument("--quick", action="store_true", help="short lengths only")
    gpu.add_argument("--flex", action="store_true", help="FlexAttention as another peer (compiles for seconds a row)")
    gpu.add_argument("--commit", metavar="HASH", help="of a checkout that was copied here without its history")
    _common(gpu)
    gpu.set_defaults(run=_later("bench", "gpu"))
    features = suites.add_parser("gpu-features", help="what features cost on this GPU, memory, the host's time and the first call")
    features.add_argument("--quick", action="store_true", help="short lengths only")
    features.add_argument("--commit", metavar="HASH", help="of a checkout that was copied here without its history")
    _common(features)
    features.set_defaults(run=_later("bench", "gpu_features"))
    decode = suites.add_parser("decode", help="tokens over caches on this GPU beside torch's kernels")
    decode.add_argument("--quick", action="store_true", help="short caches only")
    decode.add_argument("--room", choices=("hopper", "triton"), help="whose kernels; written to decode-triton.json, say")
    decode.add_argument("--fa3", metavar="FILE", help="FlashAttention 3 as another peer: vLLM's _vllm_fa3_C.abi3.so")
    decode.add_argument("--commit", metavar="HASH", help="of a checkout that was copied here without its history")
    _common(decode)
    decode.set_defaults(run=_later("bench", "decode"))
    hopper = suites.add_parser("hopper", help="prompts in the Hopper room beside torch's kernels and the Triton room")
    hopper.add_argument("--quick", action="store_true", help="short lengths only")
    hopper.add_argument("--fa3", metavar="FILE", help="FlashAttention 3 as another peer: vLLM's _vllm_fa3_C.abi3.so")
    hopper.add_argument("--fa4", metavar="FOLDER", help="FlashAttention 4 as another peer: where flash-attn-4 and its needs lie")
    hopper.add_argument("--commit", metavar="HASH", help="of a checkout that was copied here without its history")
    _common(hopper)
    hopper.set_defaults(run=_later("bench", "hopper"))
    whole = suites.add_parser("gpu-model", help="a token's time in a whole model on this GPU, by context")
    whole.add_argument("--contexts", default="1024,4096,16384,65536,131072", metavar="N[,N]")
    whole.add_argument("--quick", action="store_true", help="a small model")
    whole.add_argument("--fa3", metavar="FILE", help="FlashAttention 3, not split, as another way: vLLM's _vllm_fa3_C.abi3.so")
    whole.add_argument("--fa4", metavar="FOLDER", help="FlashAttention 4, not split, likewise: where flash-attn-4 and its needs lie")
    whole.add_argument("--plot", action="store_true", help="draw the results beside them (gpu-model.svg)")
    whole.add_argument("--commit", metavar="HASH", help="of a checkout that was copied here without its history")
    _common(whole)
    whole.set_defaults(run=_later("bench", "gpu_model"))


def _generate(commands: Any) -> None:
    command = commands.add_parser("generate", help="text from prompts, as it comes", description=(
        "Answers prompts. A tokenizer's chat template is used where there is one. Without --model: the demonstration model."))  # fmt: skip
    command.add_argument("prompt", nargs="*", metavar="PROMPT")
    command.add_argument("--file", metavar="FILE", help="prompts, one a line")
    _model(command)
    command.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the answer, is no part of it; may be repeated")
    command.add_argument("--raw", action="store_true", help="continue the text as it is, without the chat template")
    command.add_argument("--compare", action="store_true", help="run transformers too, compare the tokens; 1 if they differ in float32")
    command.add_argument("--json", action="store_true", help="one JSON object a prompt in place of a stream")
    command.set_defaults(run=_later("generate"))


def _chat(commands: Any) -> None:
    command = commands.add_parser("chat", help="a conversation in the terminal", description="/reset, /stats and /quit are commands.")
    _model(command)
    command.set_defaults(run=_later("chat"), stop=[])


def _demo(commands: Any) -> None:
    command = commands.add_parser("demo", help="a story, a question about a long text, and a comparison with transformers", description=(
        "Shows the engine with the demonstration model: a story as it is told, a question about a text of thousands of tokens, "
        "and the time a token takes beside transformers' growing cache."))  # fmt: skip
    command.add_argument("--contexts", default="512,2048,8192", metavar="N[,N]", help="context lengths of the comparison")
    _threads(command)
    command.set_defaults(run=_later("demo"))


def _warm(commands: Any) -> None:
    command = commands.add_parser("warm", help="compile the kernels a model needs on this GPU", description=(
        "Runs an engine once in every way in which it will run, so that nothing is compiled while it serves. "
        "The kernels stay in Triton's cache on the disk."))  # fmt: skip
    _checkpoint(command)
    _threads(command)
    command.set_defaults(run=_later("warm"))


def _checkpoint(command: argparse.ArgumentParser) -> None:
    """Which model, where, and what it is held in."""
    command.add_argument("--model", metavar="DIR", help="a checkpoint's folder; nothing is downloaded")
    command.add_argument("--device", default="auto", metavar="D", help="cpu, cuda, cuda:1, …; auto is a GPU where there is one")
    command.add_argument("--dtype", default="auto", choices=("auto", *DTYPES[:3]), help="auto is what the checkpoint says")
    command.add_argument("--weights", default="as-loaded", choices=("as-loaded", "int8"), help="int8 reads fewer bytes a token")
    caches = ("as-computed", "int8", "int4", "float8")
    command.add_argument("--cache", default="as-computed", choices=caches, help="narrow keys and values take less memory")


def _model(command: argparse.ArgumentParser) -> None:
    """What every command that generates takes."""
    _checkpoint(command)
    command.add_argument("--max-tokens", type=int, default=400, metavar="N")
    command.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0, the default, takes the likeliest token")
    command.add_argument("--top-k", type=int, metavar="N")
    command.add_argument("--top-p", type=float, default=1.0, metavar="X")
    command.add_argument("--seed", type=int, metavar="N")
    _threads(command)


def _threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, metavar="N", help="threads to use; torch's own number unless given")


def _common(suite: argparse.ArgumentParser) -> None:
    suite.add_argument("--out", default="benchmarks/results", metavar="DIR", help="where results lie (benchmarks/results)")
