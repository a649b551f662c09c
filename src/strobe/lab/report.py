"""Results as tables and plots: for a terminal, for the README. Reads the one shape of `results.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from strobe.errors import Invalid


def us(value: float | str | None) -> str:
    """Microseconds in the unit that fits; a reason as it is.

    >>> us(87.31), us(4210.0), us(1.5e6), us("no")
    ('87.3 µs', '4.21 ms', '1.50 s', 'no')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    number, unit = (value, "µs") if value < 1e3 else (value / 1e3, "ms") if value < 1e6 else (value / 1e6, "s")
    return f"{number:.{max(0, 2 - len(str(int(number))) + 1)}f} {unit}"


def against(row: dict[str, Any], peer: str) -> str:
    """How many times Strobe's time a peer took, or why there is no number."""
    value = row["peers"].get(peer)
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value / row['strobe']:.2f} ×"


def peers_of(rows: list[dict[str, Any]]) -> list[str]:
    """The peers' names in the order they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row["peers"]))


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(headings, lines) of a suite measured in microseconds."""
    peers = peers_of(rows)
    headings = ["case", "strobe", *(f"{peer} takes" for peer in peers), "floor", "of the floor's rate"]
    lines = []
    for row in rows:
        share = "" if not row["floor"] else f"{100 * row['floor'] / row['strobe']:.0f} %"
        lines.append([row["case"], us(row["strobe"]), *(against(row, peer) for peer in peers), us(row["floor"]), share])
    return headings, lines


def gpu_tables(rows: list[dict[str, Any]]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """{title: (headings, lines)} of a GPU's suite of long calls, for what it has: TFLOP/s of the passes, what features cost, the rest. A
    pass beside others than the first one of its kind is a feature: the table would have a column for it alone."""
    found: dict[str, tuple[list[str], list[list[str]]]] = {}
    others = [row for row in rows if "tflops" not in row]
    for verb in ("forward", "backward"):
        every = [row for row in rows if row["case"].startswith(f"{verb} B")]
        passes = [row for row in every if set(row["peers"]) <= set(every[0]["peers"])]
        others += [row for row in every if row not in passes]
        if not passes:
            continue
        peers = peers_of(passes)
        lines = []
        for row in passes:
            work = row["tflops"] * row["strobe"]
            rates = (f"{work / row['peers'][p]:.0f}" if p in row["peers"] else "" for p in peers)
            lines.append([row["case"].removeprefix(f"{verb} "), f"{row['tflops']:.0f}", *rates, *(against(row, p) for p in peers)])
        found[f"{verb}, TFLOP/s"] = ["shape", "strobe", *peers, *(f"{peer} takes" for peer in peers)], lines
    if not others:
        return found
    found["features, memory, host"] = (
        ["case", "strobe", "beside", "takes", "which is"],
        [[row["case"], _measured(row, row["strobe"]), peer, _measured(row, value), against(row, peer)] for row in others
         for peer, value in row["peers"].items()],
    )  # fmt: skip
    return found


def decode_tables(rows: list[dict[str, Any]]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """{title: (headings, lines)} of the decode suite: rows beside other kernels, and what features cost."""
    theirs = [row for row in rows if "cuDNN" in row["peers"]]
    ours = [row for row in rows if "cuDNN" not in row["peers"]]
    lines = []
    for row in ours:
        for peer, value in row["peers"].items() or (("", None),):
            above = f"{row['strobe'] / row['floor']:.2f} ×" if row["floor"] else ""
            lines.append([row["case"].removeprefix("decode "), us(row["strobe"]), peer, us(value), against(row, peer), above])
    headings, plain = table(theirs)
    return {
        "one query": (headings, [[line[0].removeprefix("decode "), *line[1:]] for line in plain]),
        "features": (["case", "strobe", "beside", "takes", "which is", "of the floor's time"], lines),
    }


def model_tables(rows: list[dict[str, Any]]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """{title: (headings, lines)} of the gpu-model suite: a token's time by the number of tokens before it."""
    headings, lines = table(rows)
    cases = (f"{row['context']:,} tokens before" for row in rows)
    return {"a token": (headings[:-2], [[case, *line[1:-2]] for case, line in zip(cases, lines, strict=True)])}  # which has no floor


def _measured(row: dict[str, Any], value: float | str) -> str:
    return us(value) if row["unit"] == "us" else f"{value} {row['unit']}"


def beside_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(headings, lines) of the features suite: each row beside its yardstick, and how many times its time was wished for."""
    lines = []
    for row in rows:
        for peer, value in row["peers"].items():
            bar = row.get("bars", {}).get(peer)
            lines.append([row["case"], us(row["strobe"]), peer, us(value), against(row, peer), "" if bar is None else f"{bar:.2f} ×"])
    return ["case", "strobe", "beside", "takes", "which is", "wished for"], lines


def engine_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(headings, lines) of an engine suite: a line a context, the caches beside the times."""
    speed = [row for row in rows if row["unit"] == "ms"]
    caches = {row["case"]: row for row in rows if row["unit"] == "MiB"}
    peers = peers_of(speed)
    headings = ["case", "strobe", *peers, "floor", "cache, strobe", f"cache, {peers[0].split()[0] if peers else ''}", "the same tokens"]
    lines = []
    for row in speed:
        cache = caches[row["case"]]
        same = min(row["tokens_the_same"].values(), default=row["tokens"])
        times = [us(1e3 * row["strobe"]), *(_in_us(row["peers"].get(peer), 1e3) for peer in peers), us(1e3 * row["floor"])]
        theirs = [size for peer, size in cache["peers"].items() if peer.split()[0] == peers[0].split()[0]]
        sizes = [f"{cache['strobe']:.1f} MiB", f"{max(theirs, default=0):.1f} MiB"]
        lines.append([row["case"], *times, *sizes, f"{same} of {row['tokens']}"])
    return headings, lines


def first_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(headings, lines) of an engine suite's times to the first token."""
    firsts = [row for row in rows if row["unit"] == "s"]
    peers = peers_of(firsts)
    lines = [[row["case"], us(1e6 * row["strobe"]), *(_in_us(row["peers"].get(peer), 1e6) for peer in peers)] for row in firsts]
    return ["case", "strobe", *peers], lines


def _in_us(value: float | str | None, times: float) -> str:
    """What was measured in a larger unit, `times` microseconds, in the unit that fits."""
    return us(times * value if isinstance(value, (int, float)) else value)


def markdown(headings: list[str], lines: list[list[str]]) -> str:
    """A table as GitHub draws it; columns after the first stand to the right."""
    rule = ["---", *("---:" for _ in headings[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))


def letters(case: str) -> dict[str, str]:
    """The letters of a case's name: {"B": "1", "S": "8192", …, "kind": "decode", "dtype": "bf16"}."""
    found = {match[1]: match[2] for match in re.finditer(r"\b([BTSHGDV])(\d+)\b", case)}
    words = case.split()
    return found | {"kind": words[0], "dtype": next((w for w in words if w in ("bf16", "f16", "f32")), "")}


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws a cpu suite: how many times Strobe's time torch takes, prefill by length and decode by context.

    Raises:
        Invalid: matplotlib is not installed, or the file's ending names no picture format.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise Invalid("plots need matplotlib: pip install 'strobe-attention[lab]'") from None
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise Invalid(f"plots are .png, .svg or .pdf files; got {path.name}")
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"svg.hashsalt": "strobe", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        most = max(int(row["case"].rsplit(" ", 1)[1].removesuffix("T")) for row in result["rows"])
        rows = [row for row in result["rows"] if row["case"].endswith(f" {most}T")]
        _prefill(left, [row for row in rows if letters(row["case"])["kind"] == "prefill"])
        _decode(right, [row for row in rows if letters(row["case"])["kind"] == "decode" and "paged" not in row["case"]])
        about = result["machine"]
        figure.suptitle(f"{about['name']}, {about['arch']}, {most} thread(s)", fontsize=9, color="#555")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def plot_model(result: dict[str, Any], path: Path) -> None:
    """Draws a gpu-model suite: a token's time by the length of what came before."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    style: dict[Any, Any] = {"svg.hashsalt": "strobe", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes: Any = figure.subplots()
        rows = sorted(result["rows"], key=lambda row: row["context"])
        for peer, colour in zip(peers_of(rows), ("#bbbbbb", "#d1495b", "#e0a030", "#7a5195", "#5a9a5a"), strict=False):
            points = [(row["context"], row["peers"][peer]) for row in rows if isinstance(row["peers"].get(peer), float)]
            size = {"linewidth": 5, "markersize": 10} if peer == "torch SDPA" else {}  # which lies under Strobe's line
            axes.loglog(*zip(*points, strict=True), "o-", color=colour, label=peer, **size)
        at = [row["context"] for row in rows]
        axes.loglog(at, [row["strobe"] for row in rows], "o-", color=COLOURS["bf16"], label="strobe", zorder=3)
        axes.set_xticks(at, [f"{S:,}" for S in at])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: us(value)))
        axes.minorticks_off()
        axes.set(xlabel="tokens before", ylabel="time of a token", title=f"Llama-3.1-8B's shape, bf16, {result['machine']['name']}")
        _tidy(axes, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


COLOURS = {"bf16": "#1b6ca8", "f16": "#7a5195", "f32": "#d1495b"}


def _prefill(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Times torch's time, bars by length: the widest D, eight heads or so, causal."""
    known = [(r, letters(r["case"])) for r in rows]
    chosen = [r for r, of in known if "causal" in r["case"] and of["D"] == "128" and of["H"] == of["G"]]
    lengths = sorted({int(letters(r["case"])["S"]) for r in chosen})
    dtypes = [d for d in COLOURS if any(letters(r["case"])["dtype"] == d for r in chosen)]
    for place, dtype in enumerate(dtypes):
        by_length = {int(letters(r["case"])["S"]): r for r in chosen if letters(r["case"])["dtype"] == dtype}
        apart = min(0.3, 0.8 / len(dtypes))
        shift, width = (place - (len(dtypes) - 1) / 2) * apart, 0.9 * apart
        for i, S in enumerate(lengths):
            row = by_length.get(S)
            if row is not None and isinstance(row["peers"].get("torch sdpa"), float):
                ratio = row["peers"]["torch sdpa"] / row["strobe"]
                axes.bar(i + shift, ratio, width, color=COLOURS[dtype], label=dtype if i == 0 else None)
                axes.annotate(f"{ratio:.1f}", (i + shift, ratio), ha="center", va="bottom", fontsize=7)
    axes.axhline(1, color="#333", linewidth=0.8)
    axes.set_xticks(range(len(lengths)), [f"{S:,}" for S in lengths])
    axes.set(xlabel="tokens", ylabel="× faster than torch SDPA", title="prefill, causal, D 128")
    axes.set_xlim(-0.6, max(0.6, len(lengths) - 0.4))
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # room for the legend
    _tidy(axes, len(dtypes))


def _decode(axes: Any, rows: list[dict[str, Any]]) -> None:
    """The time of one decode step by context: Strobe, torch's ways, and the time to read the keys once."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    chosen = [r for r in rows if all(part in r["case"] for part in ("B1 ", "H32 G8", "bf16"))]
    chosen.sort(key=lambda r: int(letters(r["case"])["S"]))
    at = [int(letters(r["case"])["S"]) for r in chosen]
    axes.loglog(at, [r["strobe"] for r in chosen], "o-", color=COLOURS["bf16"], label="strobe", zorder=3)
    for peer, colour in (("torch sdpa", "#999999"), ("torch packed", "#e0a030"), ("torch flex", "#5aa469")):
        points = [(S, r["peers"][peer]) for S, r in zip(at, chosen, strict=True) if isinstance(r["peers"].get(peer), float)]
        if points:
            axes.loglog(*zip(*points, strict=True), "o-", color=colour, label=peer)
    axes.loglog(at, [r["floor"] for r in chosen], "k:", linewidth=1, label="reading the keys once")
    axes.set_xticks(at, [f"{S:,}" for S in at])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: us(value)))
    axes.minorticks_off()
    axes.set(xlabel="keys", ylabel="time of a step", title="decode, bf16, 32 heads on 8, D 128")
    _tidy(axes, 1)


def _tidy(axes: Any, columns: int) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, ncols=columns, loc="upper left")
