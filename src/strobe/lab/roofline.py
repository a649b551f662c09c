"""The roofline of a cpu suite: operations a byte against operations a second, beneath what the machine was measured to do.

    rate ≤ min(operations a byte × bytes read a second, the rate of torch.matmul in the dtype)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from strobe.errors import Invalid
from strobe.lab.cases import BYTES, SHORT, Case
from strobe.lab.report import COLOURS, letters

LONG = {short: name for name, short in SHORT.items()}


def case_of(name: str) -> Case:
    """The case that a row of a cpu suite names.

    >>> case_of("chunk B1 H8 G2 T512 S4096 D128 bf16 causal 2T").T
    512
    """
    of = letters(name)
    B, S, H, G, D = (int(of[letter]) for letter in "BSHGD")
    T = 1 if of["kind"] == "decode" else int(of.get("T", S))
    words = name.split()
    page = int(words[words.index("paged") + 1]) if "paged" in words else None
    return Case(of["kind"], B, T, S, H, G, D, LONG[of["dtype"]], "causal" in words, page)


def moved_bytes(case: Case) -> int:
    """What has to be read or written once: queries, keys, values and out."""
    return 2 * case.B * case.T * case.H * case.D * BYTES[case.dtype] + case.key_bytes


def roofs(rows: list[dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """(bytes read a microsecond, {dtype: operations a microsecond}): the best that was measured beside any of the rows."""
    cases = [(case_of(row["case"]), row["floor"]) for row in rows if row["floor"]]
    reads = [case.key_bytes / floor for case, floor in cases if case.kind == "decode"]
    products: dict[str, float] = {}
    for case, floor in cases:
        if case.kind != "decode":
            products[case.dtype] = max(products.get(case.dtype, 0.0), case.flops / floor)
    return max(reads, default=0.0), products


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws it, a panel for each number of threads.

    Raises:
        Invalid: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise Invalid("plots need matplotlib: pip install 'strobe-attention[lab]'") from None
    from matplotlib.figure import Figure

    by_threads: dict[int, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        by_threads.setdefault(int(row["case"].rsplit(" ", 1)[1].removesuffix("T")), []).append(row)
    style: dict[Any, Any] = {"svg.hashsalt": "strobe", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        panels = figure.subplots(1, len(by_threads), sharey=True, squeeze=False)[0]
        for axes, (threads, rows) in zip(panels, sorted(by_threads.items()), strict=True):
            _panel(axes, rows)
            axes.set(xlabel="operations a byte", title=f"{threads} thread{'s' * (threads > 1)}")
        panels[0].set_ylabel("GFLOP/s")
        panels[0].legend(handles=_legend(), frameon=False, fontsize=8, loc="upper left")
        figure.suptitle(f"{result['machine']['name']}, {result['machine']['arch']}", fontsize=9, color="#555")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Roofs as lines, Strobe's rows filled, torch's hollow; round for prefill, a diamond for decode."""
    read, products = roofs(rows)
    for row in rows:
        case = case_of(row["case"])
        if case.page is not None:
            continue
        x, colour, mark = case.flops / moved_bytes(case), COLOURS[SHORT[case.dtype]], "D" if case.kind == "decode" else "o"
        theirs = row["peers"].get("torch sdpa")
        if isinstance(theirs, float):
            axes.plot(x, case.flops / theirs / 1e3, mark, mfc="none", mec=colour, ms=4, alpha=0.45, mew=0.8)
        axes.plot(x, case.flops / row["strobe"] / 1e3, mark, color=colour, ms=4.5, mew=0, zorder=3)
    left, right = 0.4, 6000.0
    lowest, highest = min(products.values()), max(products.values())
    axes.plot([left, highest / read], [left * read / 1e3, highest / 1e3], color="#555", linewidth=1, zorder=1)
    for dtype, rate in products.items():
        colour, below = COLOURS[SHORT[dtype]], "top" if rate == lowest else "bottom"
        axes.plot([rate / read, right], [rate / 1e3, rate / 1e3], color=colour, linewidth=1, zorder=1)
        axes.annotate(f"{rate / 1e3:,.0f}", (right, rate / 1e3), ha="right", va=below, fontsize=7, color=colour)
    axes.annotate(
        f"{read / 1e3:.0f} GB/s", (1.1, 1.25 * read / 1e3), rotation=38, ha="center", va="bottom", fontsize=7, color="#555"
    )
    axes.set(xscale="log", yscale="log", xlim=(left, right))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    def sign(label: str, marker: str, colour: str, filled: bool = True) -> Any:
        face = colour if filled else "none"
        return Line2D([], [], linestyle="", markersize=5, label=label, marker=marker, mec=colour, mfc=face)

    return [
        *(sign(short, "s", colour) for short, colour in COLOURS.items()),
        sign("prefill", "o", "#555"),
        sign("decode", "D", "#555"),
        sign("torch sdpa", "o", "#555", filled=False),
    ]
