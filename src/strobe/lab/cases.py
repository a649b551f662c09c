"""What `strobe bench cpu` measures: problems from life, as numbers. `benchmarks/cases.py` names the contract's cases for each."""

from __future__ import annotations

from dataclasses import dataclass

from strobe.masks import Causal, Full, Mask

SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Case:
    """One problem to be timed: letters as everywhere, `page` the tokens of a page where keys lie in pages.

    >>> Case("decode", 1, 1, 8192, 32, 8, 128, "bfloat16").name
    'decode B1 H32 G8 S8192 D128 bf16'
    """

    kind: str  # "prefill", "chunk", "decode", "training": forward and backward
    B: int
    T: int
    S: int
    H: int
    G: int
    D: int
    dtype: str
    causal: bool = False
    page: int | None = None

    @property
    def name(self) -> str:
        """The case as results name it."""
        queries = f"T{self.T} " if self.kind == "chunk" else ""
        words = [f"{self.kind} B{self.B} H{self.H} G{self.G} {queries}S{self.S} D{self.D} {SHORT[self.dtype]}"]
        if self.kind != "decode":
            words.append("causal" if self.causal else "full")
        if self.page is not None:
            words.append(f"paged {self.page}")
        return " ".join(words)

    @property
    def mask(self) -> Mask:
        """Which keys a query sees."""
        return Causal() if self.causal else Full()

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products, two of the forward pass and five of the backward pass, over
        the pairs that the mask lets through."""
        pairs = self.T * self.S - (self.T * (self.T - 1) // 2 if self.causal else 0)
        return 2 * (7 if self.kind == "training" else 2) * self.B * self.H * self.D * pairs

    @property
    def key_bytes(self) -> int:
        """Keys and values of one call."""
        return 2 * self.B * self.S * self.G * self.D * BYTES[self.dtype]


def suite(quick: bool) -> list[Case]:
    """The cases of `strobe bench cpu`, or the few of `--quick`."""
    dtypes = ("bfloat16", "float32") if quick else ("bfloat16", "float16", "float32")
    return [*_prefill(quick, dtypes), *_training(quick, dtypes), *_decode(quick, dtypes)]


def _prefill(quick: bool, dtypes: tuple[str, ...]) -> list[Case]:
    lengths = (512, 2048) if quick else (512, 1024, 2048, 4096, 8192)
    widths = (128,) if quick else (64, 128)
    cases = [
        # 8k takes two heads instead of eight, so that a round stays well under a second
        Case("prefill", 1, S, S, 8 if S < 8192 else 2, 8 if S < 8192 else 2, D, dtype, causal)
        for dtype in dtypes
        for D in widths
        for S in lengths
        for causal in (True, False)
    ]
    cases.append(Case("prefill", 1, 2048, 2048, 32, 8, 128, "bfloat16", True))
    cases.append(Case("chunk", 1, 512, 4096, 8, 2, 128, "bfloat16", True))
    return cases


def _training(quick: bool, dtypes: tuple[str, ...]) -> list[Case]:
    return [
        Case("training", 1, S, S, 8, 8, D, dtype, causal)
        for dtype in dtypes
        for D in ((128,) if quick else (64, 128))
        for S in ((512,) if quick else (512, 1024, 2048, 4096))
        for causal in (True, False)
    ]


def _decode(quick: bool, dtypes: tuple[str, ...]) -> list[Case]:
    lengths = (1024, 8192) if quick else (1024, 8192, 65536)
    heads = ((32, 8), (32, 32)) if quick else ((32, 8), (32, 32), (8, 1))
    batches = (1,) if quick else (1, 16)
    cases = [
        Case("decode", B, 1, S, H, G, 128, dtype)
        for dtype in dtypes
        for H, G in heads
        for B in batches
        for S in lengths
        if B * S <= 16 * 8192  # beyond it a laptop's memory is full and a round takes minutes
    ]
    pages = (16,) if quick else (16, 64, 256)
    cases += [
        Case("decode", B, 1, S, 32, 8, 128, "bfloat16", page=Z)
        for B, S in ((1, 8192),) + (() if quick else ((1, 65536), (16, 8192)))
        for Z in pages
    ]
    return cases
