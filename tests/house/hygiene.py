"""What a source file may not contain, as functions from its text to faults; each is tried on a planted fault."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_CALLS = {"list", "dict", "set", "defaultdict", "deque", "OrderedDict", "Counter", "bytearray"}
# Path parts are spelled in pieces so that this file does not hold what it forbids.
PLACES = re.compile("|".join("/" + place + "/" for place in ("work", "root", "home/[a-z]+", "Users/[A-Za-z]+", "tmp")) + "|file:/" + "/")


def environment(tree: ast.Module) -> Iterator[str]:
    """Reads or writes of the environment: rule 10 leaves them to machine.py."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv") and _is(node.value, "os"):
            yield f"line {node.lineno}: os.{node.attr}; the environment is read in machine.py only"
        elif isinstance(node, ast.ImportFrom) and node.module == "os" and {n.name for n in node.names} & {"environ", "getenv", "putenv"}:
            yield f"line {node.lineno}: the environment is read in machine.py only"


def broad_excepts(tree: ast.Module) -> Iterator[str]:
    """Handlers that catch everything: rule 5."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in kinds):
                yield f"line {node.lineno}: this except catches everything"
        elif isinstance(node, ast.Call) and _is(node.func, "suppress") and any(_is(kind, "Exception") for kind in node.args):
            yield f"line {node.lineno}: this suppress catches everything"


def asserts(tree: ast.Module) -> Iterator[str]:
    """Asserts where the caller's mistakes are met: rule 3."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"line {node.lineno}: an assert at the door; the caller's mistake is an Invalid"


def weather(tree: ast.Module) -> Iterator[str]:
    """`globals()`, `global`, and mutable values at the top of a module: rule 10."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is(node.func, "globals"):
            yield f"line {node.lineno}: globals()"
        elif isinstance(node, ast.Global):
            yield f"line {node.lineno}: global {', '.join(node.names)}"
    for node in tree.body:
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        if value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[union-attr]
        called = ", ".join(ast.unparse(target) for target in targets)
        mutable = isinstance(value, MUTABLE) or (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in MUTABLE_CALLS)
        if mutable and called not in ("__all__", "__slots__"):
            yield f"{called}: a mutable value at the top of a module"


def changed(tree: ast.Module, called: str) -> bool:
    """Whether a module writes into the value that it calls so: what makes a constant table state."""
    writes = {"append", "add", "update", "pop", "clear", "extend", "insert", "remove", "setdefault", "popitem", "discard", "sort"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)) and _is(node.value, called):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in writes and _is(node.func.value, called):
            return True
        if isinstance(node, ast.AugAssign) and _is(node.target, called):
            return True
    return False


def unnumbered_todos(text: str) -> Iterator[str]:
    """Marks of unfinished work without an issue."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b(?!\(#\d+\))", line):
            yield f"line {number}: unfinished work has an issue's number, TODO(#12)"


def dead_code(text: str, comment: str = "#") -> Iterator[str]:
    """Comments that are code: what would run if it were not one."""
    statement = re.compile(
        r"^(import \w[\w.]*$|from [\w.]+ import |def \w+\(.*\).*:$|class \w+.*:$|return\b.*\($|(if|for|while|with) .*:$|\w[\w.]*(\[.*\])? = \S.*[()\]]$"
        r"|\w[\w.]*\([^)]*\);?$)" if comment == "#" else r".*[;{]$"
    )  # fmt: skip
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if words.startswith(comment) and statement.match(words.removeprefix(comment).strip()):
            yield f"line {number}: a comment that is code: {words}"


def banners(text: str) -> Iterator[str]:
    """Comments that are a line."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"^\s*(#|//)\s*([-=*#~_/])\2{7,}\s*$", line):
            yield f"line {number}: a banner"


def places(text: str) -> Iterator[str]:
    """Paths of one machine, and words of the place where a change was written."""
    for number, line in enumerate(text.splitlines(), 1):
        if PLACES.search(line):
            yield f"line {number}: a path of one machine"


def swallowed(tree: ast.Module) -> Iterator[str]:
    """`**kwargs` in a signature: an argument that nobody reads."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and node.args.kwarg is not None:
            yield f"line {node.lineno}: **{node.args.kwarg.arg} takes arguments that are not named"


def _is(node: ast.AST, called: str) -> bool:
    return isinstance(node, ast.Name) and node.id == called
