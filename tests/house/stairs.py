"""Who may import whom: a table «kind of file → what it may import», and how a file is read against it.

    cli → everything            engine → models, cache, the export list          api → faces → hall
    lab → all but cli           models → the export list; no cache, no room      rooms → hall and themselves
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "strobe"
HALL = tuple(
    "errors masks layouts terms machine state problem merging appending answers rooms plan".split()
)
BOOKKEEPING = ("cache.pages", "cache.prefix", "cache.tables")


@dataclass(frozen=True)
class Kind:
    """Files that match `pattern` may import these parts of Strobe (a name, or `name.*`) and these third parties."""

    pattern: str
    strobe: tuple[str, ...]
    others: tuple[str, ...] = ()


# The first kind that matches counts. `strobe` is the export list; {room} is the room that the file lies in.
KINDS = (
    Kind("__init__.py", ("api", *HALL)),
    Kind("api.py", (*HALL, "faces", "faces.*")),
    Kind("faces/__init__.py", ()),
    Kind("faces/seam.py", HALL),
    Kind("faces/torch.py", (*HALL, "faces.seam"), ("torch",)),
    Kind("faces/recording.py", (*HALL, "faces.seam", "faces.torch"), ("torch",)),
    Kind("faces/append.py", (*HALL, "faces.seam", "faces.torch"), ("torch",)),
    Kind("backends/__init__.py", ()),
    Kind("backends/triton_hash.py", (), ("triton",)),  # of no room: what Triton is, whichever room asks it to compile
    Kind("backends/triton/offer.py", (*HALL, "backends.triton.sizes", "backends.triton.splitting")),
    Kind("backends/triton/splitting.py", (*HALL, "backends.triton.sizes")),  # the half of the desk that cuts keys
    Kind("backends/triton/sizes.py", HALL),  # the desk's second file: as pure
    Kind("backends/hopper/offer.py", (
        *HALL, "backends.hopper", "backends.hopper.forms", "backends.hopper.tiles", "backends.hopper.decoding", "backends.hopper.latent_desk", "backends.hopper.predicting",
    )),
    Kind("backends/hopper/decoding.py", (*HALL, "backends.hopper.predicting")),  # the half of the desk that is decode's
    Kind("backends/hopper/predicting.py", ()),
    Kind("backends/hopper/latent_desk.py", (*HALL, "backends.hopper.decoding", "backends.hopper.predicting")),  # the part that is latent attention's
    Kind("backends/hopper/forms.py", (*HALL, "backends.hopper.tiles")),  # the same there
    Kind("backends/hopper/tiles.py", ()),
    Kind("backends/*/offer.py", HALL),
    Kind("backends/triton/*", (*HALL, "backends.triton_hash", "backends.{room}", "backends.{room}.*"), ("torch", "triton")),
    Kind("backends/hopper/*", (*HALL, "backends.triton_hash", "backends.{room}", "backends.{room}.*"), ("torch", "triton")),
    Kind("backends/*", (*HALL, "backends.{room}", "backends.{room}.*"), ("torch",)),
    Kind("cache/pages.py", ("errors",)),
    Kind("cache/prefix.py", ("errors", *BOOKKEEPING)),
    Kind("cache/tables.py", ("errors", *BOOKKEEPING)),
    Kind("cache/*", ("strobe", *HALL, "cache", "cache.*"), ("torch",)),
    Kind("models/*", ("strobe", *HALL, "models", "models.*"), ("torch", "transformers", "huggingface_hub", "tokenizers", "safetensors", "jinja2")),
    Kind("engine/*", ("strobe", *HALL, "models", "models.*", "cache", "cache.*", "engine", "engine.*"), ("torch",)),
    Kind("lab/onnx.py", (), ("torch", "onnx", "onnxruntime")),
    Kind("lab/llama_file.py", ("errors",), ("torch", "gguf")),
    Kind("lab/llama.py", ("errors", "lab.conventional", "lab.llama_file"), ("torch", "llama_cpp")),
    Kind("lab/fa4.py", ("errors",), ("torch", "flash_attn")),
    Kind("lab/*", ("strobe", *HALL, "faces.torch", "models.*", "cache.*", "engine.*", "lab", "lab.*"), ("torch", "transformers", "matplotlib", "rich")),
    Kind("cli/*", ("strobe", *HALL, "cache.formats", "models.*", "engine.*", "lab", "lab.*", "cli", "cli.*"), ("torch", "transformers", "rich")),
    Kind("*.py", HALL),  # the hall itself
)  # fmt: skip

OPENERS = ("rooms.py", "cli/parser.py")  # the only files that import by a name in a string


def kind_of(path: str) -> Kind:
    """The kind of a file, given its path below `src/strobe`."""
    for kind in KINDS:
        if fnmatch(path, kind.pattern) and path.count("/") >= kind.pattern.count("/"):
            return kind
    raise AssertionError(f"no kind of file in the table matches {path}")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, wherever it stands; a name from the export list is `strobe`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            elif (node.module or "").split(".")[0] != "strobe":
                yield node.lineno, node.module or ""
            else:
                for name in node.names:
                    yield node.lineno, _module(node.module or "", name.name)


def _module(package: str, name: str) -> str:
    """`from package import name`: the submodule if there is one, else the package."""
    folder = SOURCE.joinpath(*package.split(".")[1:])
    there = (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()
    return f"{package}.{name}" if there else package


def faults(path: str, text: str) -> list[str]:
    """What a file imports and may not, with lines."""
    kind = kind_of(path)
    room = path.split("/")[1] if path.startswith("backends/") else ""
    allowed = [name.replace("{room}", room) for name in kind.strobe]
    found = []
    tree = ast.parse(text)
    for line, module in imports(tree):
        top, _, rest = module.partition(".")
        if top == "strobe":
            if not any(fnmatch(rest or "strobe", name) for name in allowed):
                found.append(f"{path}:{line} imports {module}; it may import {', '.join(allowed) or 'nothing of Strobe'}")
        elif top not in sys.stdlib_module_names and top not in kind.others:
            found.append(f"{path}:{line} imports {module}; beyond the standard library it may import {', '.join(kind.others) or 'nothing'}")
    if path not in OPENERS and "import_module" in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}:
        found.append(f"{path} imports by a name in a string; that is done in {', '.join(OPENERS)}")
    return found
