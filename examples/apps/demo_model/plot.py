"""Draws the loss curve of one run or of several that went on from each other.

python examples/apps/demo_model/plot.py build/demo/loss.json --out docs/assets/demo-loss.svg
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLOURS = {2048: "#4c72b0", 4096: "#55a868", 8192: "#dd8452", 16384: "#c44e52"}


def draw(runs: list[dict], out: Path) -> None:
    """Loss over tokens seen, in the colour of the context length; runs follow each other, a line between them."""
    plt.rcParams["svg.hashsalt"] = "strobe"
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    start = 0.0
    for run in runs:
        if start:
            axes.axvline(start, color="#999999", linewidth=0.8, linestyle=":")
        for length in dict.fromkeys(row["length"] for row in run["curve"]):
            rows = [row for row in run["curve"] if row["length"] == length]
            tokens, losses = [start + row["tokens"] / 1e6 for row in rows], [row["loss"] for row in rows]
            axes.plot(tokens, losses, color=COLOURS[length], linewidth=1.2, label=f"contexts of {length:,} tokens")
        start += run["curve"][-1]["tokens"] / 1e6
    axes.set(xlabel="million tokens seen", ylabel="training loss, nats per token", yscale="log", yticks=[0.4, 0.5, 0.7, 1, 2, 4, 8])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    lines, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, lines, strict=True))
    axes.legend(once.values(), once.keys(), frameon=False)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="the loss.json of each run, in order; a file may hold a list of runs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    read = [json.loads(path.read_text()) for path in args.runs]
    draw([run for entry in read for run in (entry if isinstance(entry, list) else [entry])], args.out)


if __name__ == "__main__":
    main()
