"""Measures on a green contract only: runs the contract's tests, then `strobe bench` with the words given here.

    python benchmarks/run.py cpu --threads 1,2 --plot
    python benchmarks/run.py engine
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(words: list[str]) -> int:
    """The exit code: that of the tests if they fail, else that of the benchmark."""
    if not words:
        print("usage: python benchmarks/run.py cpu|engine [what `strobe bench` takes]", file=sys.stderr)
        return 2
    contract = HERE.parent / "tests" / "contract"
    green = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", str(contract)], check=False).returncode
    if green != 0:
        print("benchmarks/run.py: the contract is red, so nothing is measured", file=sys.stderr)
        return 1
    from strobe.cli import main as strobe

    return strobe(["bench", *words, "--out", str(HERE / "results")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
