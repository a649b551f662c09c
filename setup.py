"""The compiled CPU library, an optional extension: without a compiler the install succeeds and torch's kernel is used.

The library has a plain C interface and knows neither Python's nor torch's, so one `abi3` wheel serves all versions.
Instruction sets are chosen inside, at run time, so there is no -march.
"""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
CPU = HERE / "src" / "strobe" / "backends" / "cpu"
SOURCES = sorted(str(path.relative_to(HERE)) for path in CPU.rglob("*.cpp"))
HEADERS = sorted(str(path.relative_to(HERE)) for path in CPU.rglob("*.h*"))
FLAGS = ["-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-g0"]
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]


def source_hash() -> str:
    """As `strobe.backends.cpu.library.source_hash`, which compares."""
    found = hashlib.sha256()
    for path in sorted(CPU.rglob("*")):
        if path.suffix in (".cpp", ".hpp", ".h"):
            found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


class Build(build_ext):
    """Compiles the files side by side, and once more without OpenMP where the compiler has none."""

    def build_extension(self, ext: Extension) -> None:
        one_by_one = self.compiler.compile

        def side_by_side(sources, **how):  # noqa: ANN001, ANN003, ANN202 — distutils' signature
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [name for names in pool.map(lambda source: one_by_one([source], **how), sources) for name in names]

        self.compiler.compile = side_by_side
        try:
            super().build_extension(ext)
        except Exception:
            ext.extra_compile_args = [flag for flag in ext.extra_compile_args if flag not in OPENMP]
            ext.extra_link_args = []
            super().build_extension(ext)
        finally:
            self.compiler.compile = one_by_one


setup(
    ext_modules=[
        Extension(
            "strobe.backends.cpu._cpu",
            [*SOURCES],
            depends=HEADERS,
            extra_compile_args=FLAGS + OPENMP,
            extra_link_args=OPENMP,
            define_macros=[("Py_LIMITED_API", "0x030A0000"), ("STROBE_SOURCE_HASH", f'"{source_hash()}"')],
            optional=True,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
