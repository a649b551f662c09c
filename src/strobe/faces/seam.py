"""The honest seam: operators carry tensors, strings and integers, so a call is flattened into them and rebuilt.

    q, k, v, bias, slopes, sink      what may have a gradient
    rest                             every other array, in the order of `unflatten`
    words                            the structure: "keys=Paged;mask=Causal,Window:63:;scale=0.125"
    sizes                            integers the caller vouched for (`longest`)

`append` has an operator too; what it writes into stands first: keys, values, their scales.

A test holds the round trip. No other file knows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from strobe import masks as m
from strobe.appending import Rotary
from strobe.layouts import Dense, Packed, PackedKeys, Paged, Ranged
from strobe.problem import Call
from strobe.terms import Alibi, Dropout, Scaled, Sink, SoftCap


def flatten(call: Call) -> tuple[Any, Any, Any, Any, Any, Any, list[Any], str, list[int]]:
    """(q, k, v, bias, slopes, sink, rest, words, sizes) of a call."""
    rest: list[Any] = []
    sizes: list[int] = []
    words = ""
    q = call.q
    if isinstance(q, Packed):
        words += "q=Packed;"
        rest.append(q.offsets)
        sizes.append(q.longest)
        q = q.tokens
    elif isinstance(q, Scaled):
        words += "q=Scaled;"
        rest.append(q.scale)
        q = q.data
    keys = call.keys
    k, v = (keys.keys, keys.values) if isinstance(keys, Paged) else (keys.k, keys.v)
    if isinstance(k, Scaled):
        words += "k=Scaled;"
        rest.append(k.scale)
        k = k.data
    if isinstance(v, Scaled):
        words += "v=Scaled;"
        rest.append(v.scale)
        v = v.data
    if isinstance(keys, Ranged):
        words += "keys=Ranged;"
        rest += [keys.starts, keys.lengths]
    elif isinstance(keys, PackedKeys):
        words += "keys=PackedKeys;"
        rest.append(keys.offsets)
        sizes.append(keys.longest)
    elif isinstance(keys, Paged):
        words += "keys=Paged;"
        rest += [keys.table, keys.lengths]
        sizes.append(keys.longest)
    words += f"mask={_mask_words(call.mask, rest)};"
    if call.scale is not None:
        words += f"scale={call.scale};"
    if call.cap is not None:
        words += f"cap={call.cap.limit};"
    if call.dropout is not None:
        words += f"dropout={call.dropout.p}:{call.dropout.seed};"
    if isinstance(call.first, int):
        words += f"first={call.first};"
    elif call.first is not None:
        words += "first=array;"
        rest.append(call.first)
    slopes = None if call.alibi is None else call.alibi.slopes
    sink = None if call.sink is None else call.sink.logits
    return q, k, v, call.bias, slopes, sink, rest, words, sizes


def _mask_words(mask: m.Mask, rest: list[Any]) -> str:
    if isinstance(mask, m.Both):
        words = ""
        for part in mask.masks:
            words += f"{',' if words else ''}{_mask_words(part, rest)}"
        return words
    if isinstance(mask, m.Causal):
        return "Causal"
    if isinstance(mask, m.Window):
        return f"Window:{'' if mask.before is None else mask.before}:{'' if mask.after is None else mask.after}"
    if isinstance(mask, m.Prefix):
        if isinstance(mask.length, int):
            return f"Prefix:{mask.length}"
        rest.append(mask.length)
        return "Prefix:array"
    if isinstance(mask, m.Documents):
        rest += [mask.queries, mask.keys]
        return "Documents"
    if isinstance(mask, m.Blocks):
        rest.append(mask.kept)
        return f"Blocks:{mask.rows}:{mask.columns}"
    if isinstance(mask, m.Tree):
        rest.append(mask.visible)
        return "Tree"
    if isinstance(mask, m.Dense):
        rest.append(mask.visible)
        return "Dense"
    return "Full"


@lru_cache(maxsize=1024)
def _parsed(words: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words.split(";") if word)


def unflatten(
    q: Any, k: Any, v: Any, bias: Any, slopes: Any, sink: Any, rest: list[Any], words: str, sizes: list[int]
) -> Call:
    """The call that `flatten` flattened."""
    said = _parsed(words)
    left, numbers = iter(rest), iter(sizes)
    if said.get("q") == "Scaled":
        q = Scaled(q, next(left))
    elif "q" in said:
        q = Packed(q, next(left), int(next(numbers)))
    if "k" in said:
        k = Scaled(k, next(left))
    if "v" in said:
        v = Scaled(v, next(left))
    layout = said.get("keys")
    keys: Any
    if layout == "Ranged":
        keys = Ranged(k, v, next(left), next(left))
    elif layout == "PackedKeys":
        keys = PackedKeys(k, v, next(left), int(next(numbers)))
    elif layout == "Paged":
        keys = Paged(k, v, next(left), next(left), int(next(numbers)))
    else:
        keys = Dense(k, v)
    parts = [_mask(word, left) for word in said["mask"].split(",")]
    first: Any = said.get("first")
    if first is not None:
        first = next(left) if first == "array" else int(first)
    return Call(
        q, keys,
        mask=parts[0] if len(parts) == 1 else m.Both(tuple(parts)),
        scale=float(said["scale"]) if "scale" in said else None,
        cap=SoftCap(float(said["cap"])) if "cap" in said else None,
        bias=bias,
        alibi=None if slopes is None else Alibi(slopes),
        sink=None if sink is None else Sink(sink),
        dropout=_dropout(said["dropout"]) if "dropout" in said else None,
        first=first,
    )  # fmt: skip


def _dropout(word: str) -> Dropout:
    p, seed = word.split(":")
    return Dropout(float(p), int(seed))


def _mask(word: str, left: Any) -> m.Mask:
    name, *numbers = word.split(":")
    if name == "Window":
        before, after = (int(n) if n else None for n in numbers)
        return m.Window(before, after)
    if name == "Prefix":
        return m.Prefix(next(left) if numbers[0] == "array" else int(numbers[0]))
    if name == "Documents":
        return m.Documents(next(left), next(left))
    if name == "Blocks":
        return m.Blocks(next(left), int(numbers[0]), int(numbers[1]))
    if name == "Tree":
        return m.Tree(next(left))
    if name == "Dense":
        return m.Dense(next(left))
    return m.Causal() if name == "Causal" else m.Full()


def flatten_append(
    pages: Paged, k: Any, v: Any, rotary: Rotary | None
) -> tuple[Any, Any, Any, Any, Any, Any, list[Any], str, list[int]]:
    """(keys, values, key_scale, value_scale, k, v, rest, words, sizes) of a call of `append`."""
    keys, key_scale = (pages.keys.data, pages.keys.scale) if isinstance(pages.keys, Scaled) else (pages.keys, None)
    values, value_scale = (pages.values.data, pages.values.scale) if isinstance(pages.values, Scaled) else (pages.values, None)
    rest, sizes, words = [pages.table, pages.lengths], [pages.longest], ""
    if isinstance(k, Packed):
        words += "k=Packed;"
        rest.append(k.offsets)
        sizes.append(k.longest)
        k = k.tokens
    if rotary is not None:
        words += f"rotary={'neighbours' if rotary.interleaved else 'halves'};"
        rest += [rotary.cos, rotary.sin]
        if rotary.positions is not None:
            words += "positions=array;"
            rest.append(rotary.positions)
    return keys, values, key_scale, value_scale, k, v, rest, words, sizes


def unflatten_append(
    keys: Any, values: Any, key_scale: Any, value_scale: Any, k: Any, v: Any, rest: list[Any], words: str, sizes: list[int]
) -> tuple[Paged, Any, Any, Rotary | None]:
    """(pages, k, v, rotary) of the call that `flatten_append` flattened."""
    said = _parsed(words)
    left, numbers = iter(rest), iter(sizes)
    keys, values = (x if scale is None else Scaled(x, scale) for x, scale in ((keys, key_scale), (values, value_scale)))
    pages = Paged(keys, values, next(left), next(left), int(next(numbers)))
    if "k" in said:
        k = Packed(k, next(left), int(next(numbers)))
    rotary = None
    if "rotary" in said:
        cos, sin = next(left), next(left)
        rotary = Rotary(cos, sin, next(left) if "positions" in said else None, said["rotary"] == "neighbours")
    return pages, k, v, rotary
