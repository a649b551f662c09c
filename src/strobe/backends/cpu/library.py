"""The compiled library: found beside this file, checked to be ours, opened once; its C structs and its errors.

The library knows neither Python nor torch, so one build serves every version of both (`interface.h` is the seam).
`import torch` comes first, so that the library finds torch's OpenMP already loaded and shares its threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch  # noqa: F401 — first, see above

from strobe.errors import Broken, Invalid
from strobe.machine import compiled_library

INTERFACE = 7  # STROBE_INTERFACE of interface.h
ISAS = {"scalar": 0, "avx2": 1, "avx512": 2, "amx": 3, "neon": 4}
DTYPES_BY_NAME = {"float32": 0, "bfloat16": 1, "float16": 2}
NARROW_BY_NAME = {"int8": 3, "float8_e4m3fn": 4, "float8_e5m2": 5, "uint8": 6}  # of keys and values with scales
DENSE, RANGED, PACKED, PAGED = range(4)
UNBOUNDED = 1 << 60

OK, BAD_STRUCT, BAD_ISA, BAD_DTYPE, BAD_SHAPE, BAD_TABLE, BAD_LENGTH, NO_MEMORY, BAD_POSITION = range(9)
_REBUILD = "rebuild it: pip install . (or pip install -e . --no-build-isolation)"


class Record:
    """A C struct as one packing format: `I` and `i` are 32 bits, `q` and `Q` 64, `P` a pointer, `f` a float; a digit repeats."""

    def __init__(self, fields: str) -> None:
        self._names, self._formats = zip(*(field.split(":") for field in fields.split()), strict=True)
        self._struct = struct.Struct("@" + "".join(self._formats))
        self.size = self._struct.size
        self.pack = self._struct.pack

    def part(self, first: str, last: str) -> Part:
        """The fields from `first` to `last`."""
        low, high = self._names.index(first), self._names.index(last) + 1
        before, within = "".join(self._formats[:low]), "".join(self._formats[low:high])
        part = struct.Struct("@" + within)
        return Part(struct.calcsize("@" + before + within) - part.size, part.pack_into)

    def fault(self, buffer: bytes) -> tuple[int, int, int]:
        """The last three fields: sequence, index, value."""
        return self._struct.unpack(buffer)[-3:]


class Part(NamedTuple):
    """Fields that lie side by side in a struct: `write(struct, at, *values)`."""

    at: int
    write: Callable[..., None]


ATTENTION = Record(
    "size:I interface:I isa:i threads:i dtype:i layout:i B:q T:q S:q H:q G:q D:q V:q q:P k:P v:P out:P lse:P "
    "q_strides:3q k_strides:3q v_strides:3q out_strides:3q lse_strides:3q q_offsets:P starts:P lengths:P table:P "
    "table_stride:q table_width:q P:q Z:q first:P first_all:q place_all:i invariant:i keys_dtype:i reserved:i "
    "before:q after:q scale:f cap:f sink:P slopes:P slopes_stride:q extras:P "
    "k_scale:P v_scale:P k_scale_strides:3q v_scale_strides:3q fault:3q"
)
_MARK = "kind:i reserved:i at:P keys:P strides:4q keys_strides:2q rows:q columns:q "
EXTRAS = Record(
    "size:I interface:I prefix:P prefix_all:q mark_count:i bias_dtype:i " + 4 * _MARK + "bias:P bias_strides:4q seed:Q drop_below:I keep:f"
)
GRADIENTS = Record(
    "size:I interface:I forward:P dout:P dlse:P dq:P dk:P dv:P delta:P dslope:P dbias:P dbias_strides:4q "
    "dout_strides:3q dlse_strides:3q dq_strides:3q dk_strides:3q dv_strides:3q row_strides:3q fault:3q"
)
APPEND = Record(
    "size:I interface:I isa:i threads:i from_dtype:i to_dtype:i B:q T:q G:q D:q V:q k:P v:P k_pages:P v_pages:P "
    "k_strides:3q v_strides:3q k_pages_strides:3q v_pages_strides:3q offsets:P table:P lengths:P table_stride:q "
    "table_width:q P:q Z:q k_scale:P v_scale:P k_scale_strides:3q v_scale_strides:3q cos:P sin:P positions:P cos_stride:q sin_stride:q "
    "positions_stride:q rows:q rotated:q interleaved:i reserved:i fault:3q"
)
MERGE = Record(
    "size:I interface:I isa:i threads:i dtype:i reserved:i B:q T:q H:q V:q out_a:P out_b:P lse_a:P lse_b:P out:P lse:P "
    "out_a_strides:3q out_b_strides:3q out_strides:3q lse_a_strides:3q lse_b_strides:3q lse_strides:3q fault:3q"
)
LINEAR = Record(
    "size:I interface:I isa:i threads:i dtype:i weights_dtype:i M:q N:q K:q x_stride:q x:P weights:P scales:P bias:P y:P fault:3q"
)
NO_FAULT = (0, 0, 0)
TENSORS = ATTENTION.part("q", "v_strides")  # what of a struct each call of a plan writes anew
INDEX = ATTENTION.part("q_offsets", "table_stride")
FIRST = ATTENTION.part("first", "first")
TERMS = ATTENTION.part("sink", "slopes")
MORE = ATTENTION.part("extras", "extras")
SCALES = ATTENTION.part("k_scale", "v_scale_strides")
APPENDED = APPEND.part("T", "v_scale_strides")
TURNED = APPEND.part("cos", "rows")


def source_hash(folder: Path) -> str:
    """Of the C++ sources in a folder; `setup.py` computes the same and builds it in."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".cpp", ".hpp", ".h"):
            found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The opened library.

    Raises:
        Broken: it is not there, or was built from other sources than these.
    """
    path = compiled_library()
    if path is None:
        raise Broken(f"the compiled CPU library is not installed; {_REBUILD}")
    return opened(path, source_hash(Path(__file__).parent))


def opened(path: Path, sources: str) -> ctypes.CDLL:
    """The library at `path`, if it is of this interface and these sources."""
    try:
        found = ctypes.CDLL(str(path))
        found.strobe_source_hash.restype = ctypes.c_char_p
        interface, built_from = found.strobe_interface(), found.strobe_source_hash().decode()
    except (OSError, AttributeError) as error:
        raise Broken(f"the compiled CPU library {path.name} cannot be opened ({error}); {_REBUILD}") from error
    if interface != INTERFACE:
        raise Broken(f"the compiled CPU library has interface {interface}, this package needs {INTERFACE}; {_REBUILD}")
    if built_from != sources:
        raise Broken(f"the compiled CPU library was built from other sources ({built_from}, here {sources}); {_REBUILD}")
    return found


@lru_cache(maxsize=None)
def function(name: str):  # noqa: ANN201 — ctypes' function type is private
    """A function of the library, found once. Each takes one pointer; a buffer is one without being told so, in half the time."""
    return getattr(library(), name)


def run(name: str, record: Record, packed: bytes) -> None:
    """Calls a function with its struct; a code that is not 0 becomes an error."""
    buffer = ctypes.create_string_buffer(packed, record.size)
    code = function(name)(buffer)
    if code != OK:
        raise error_of(code, *record.fault(buffer.raw))


class Form:
    """A function with its struct, filled in but for what changes from call to call.

    Each call takes a copy, so threads may call at once, and gives it back for the next one. A call that fails keeps its
    copy, which then holds the fault.
    """

    def __init__(self, name: str, record: Record, packed: bytes) -> None:
        self._function, self._record, self._packed = function(name), record, packed
        self._copies: list[Any] = []

    def copy(self) -> Any:
        """A copy that nobody else holds."""
        try:
            return self._copies.pop()
        except IndexError:
            return ctypes.create_string_buffer(self._packed, self._record.size)

    def run(self, copy: Any) -> None:
        """Calls the function; a code that is not 0 becomes an error."""
        code = self._function(copy)
        if code != OK:
            raise error_of(code, *self._record.fault(copy.raw))
        self._copies.append(copy)


def error_of(code: int, sequence: int, index: int, value: int) -> Exception:
    """What a code of `interface.h` means to a caller."""
    if code == BAD_TABLE:
        return Invalid(f"table[{sequence}, {index}] = {value} is not a page: no page has that number")
    if code == BAD_LENGTH:
        return Invalid(
            f"sequence {sequence} has a length or offset of {value}, outside its array, its table's pages, or `longest`; "
            "offsets rise from 0 to N"
        )
    if code == BAD_POSITION:
        return Invalid(
            f"token {index} of the new ones of sequence {sequence} stands at position {value}, for which rotary has no row: "
            "cos and sin have a row for each position, from 0 on"
        )
    if code == NO_MEMORY:
        return MemoryError("no memory for the scratch space of an attention kernel")
    if code == BAD_ISA:
        name = next((name for name, number in ISAS.items() if number == value), str(value))
        return Broken(f"the plan asks for {name}, which this machine has not got")
    what = {BAD_STRUCT: "a struct of another interface", BAD_DTYPE: "a dtype it does not know", BAD_SHAPE: "a size it does not take"}
    return Broken(f"the CPU library was handed {what.get(code, f'something wrong (code {code})')} ({value}); its desk should have refused")
