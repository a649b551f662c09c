"""Which contract cases stand behind each kind of benchmark case: a number counts only where its law is green."""

from __future__ import annotations

from strobe.lab.cases import Case

CONTRACT = {
    "prefill": ("llama-3-8b prefill", "gpt-2", "bert", "one past a tile"),
    "training": ("llama-3-8b prefill", "gpt-2", "bert", "one past a tile"),
    "chunk": ("llama-3-8b chunk over a cache", "verification of 5 drafts"),
    "decode": ("llama-3-8b decode", "group of 8", "many keys, one head"),
    "decode paged": ("llama-3-8b paged decode", "pages of 16", "mixed engine step"),
}


def behind(case: Case) -> tuple[str, ...]:
    """The names of the contract's cases (`tests/contract/cases.py`) that hold for a benchmark case."""
    return CONTRACT[case.kind if case.page is None else f"{case.kind} paged"]
