"""Sentences with choices: `[A fox|One fox] [|slowly ]ran to {p}.` Brackets choose, braces ask the context."""

import re
from collections.abc import Callable, Mapping

Node = tuple  # ("text", str) | ("field", str) | ("choice", tuple of node lists)
_PIECE = re.compile(r"[\[\]|]|\{[^}]*\}|[^\[\]|{]+")
_START = re.compile(r'(^|[.!?] |\n)("?)([a-z])')


def parse(template: str) -> list[Node]:
    """The template as a list of nodes; brackets may nest."""
    pieces = _PIECE.findall(template)
    nodes, end = _sequence(pieces, 0)
    assert end == len(pieces), f"unbalanced brackets: {template}"
    return nodes


def _sequence(pieces: list[str], i: int) -> tuple[list[Node], int]:
    nodes: list[Node] = []
    while i < len(pieces) and pieces[i] not in ("|", "]"):
        piece = pieces[i]
        if piece == "[":
            options = []
            while pieces[i] != "]":
                option, i = _sequence(pieces, i + 1)
                options.append(option)
            nodes.append(("choice", tuple(options)))
        elif piece[0] == "{":
            nodes.append(("field", piece[1:-1]))
        else:
            nodes.append(("text", piece))
        i += 1
    return nodes, i


def expand(nodes: list[Node], context: Mapping[str, str], random: Callable[[], float]) -> str:
    """One text of the template; each choice is made by `random`, each field looked up in `context`."""
    out: list[str] = []
    _expand(nodes, context, random, out)
    return "".join(out)


def _expand(nodes: list[Node], context: Mapping[str, str], random: Callable[[], float], out: list[str]) -> None:
    for what, value in nodes:
        if what == "text":
            out.append(value)
        elif what == "field":
            out.append(context[value])
        else:
            _expand(value[int(random() * len(value))], context, random, out)


def sentence_case(text: str) -> str:
    """Capitals at the start of each sentence; speech that goes on after `,` keeps its small letter."""
    return _START.sub(lambda m: m[1] + m[2] + m[3].upper(), text)


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun
