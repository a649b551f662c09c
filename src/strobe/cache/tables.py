"""A sequence's pages, in order. No arrays: who writes the tokens copies the pages that `grow` names first."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from strobe.cache.pages import Pages
from strobe.errors import Invalid


class Table:
    """Where the tokens of one sequence lie: token s in row s % size of page `pages[s // size]`.

    >>> table = Table(Pages(4), size=16)
    >>> table.grow(20); table.length, len(table.pages)
    []
    (20, 2)
    >>> other = table.fork()
    >>> other.grow(1)  # the half-filled page is shared: it has to be copied before it is written
    [(1, 2)]
    """

    def __init__(self, pages: Pages, size: int) -> None:
        if size < 1:
            raise Invalid(f"a page holds 1 token or more; got {size}")
        self.pages = array("i")
        self.length = 0
        self.size = size
        self._book = pages

    def adopt(self, pages: Sequence[int]) -> None:
        """Begins an empty table with full pages whose tokens are already there; the caller hands over its counts."""
        if self.pages:
            raise Invalid(f"only an empty table adopts pages; this one has {len(self.pages)}")
        self.pages.extend(pages)
        self.length = len(pages) * self.size

    def needs(self, tokens: int) -> int:
        """Pages that `grow(tokens)` would take."""
        return -(-(self.length + tokens) // self.size) - len(self.pages) + (tokens > 0 and self._shared_tail())

    def _shared_tail(self) -> bool:
        return self.length % self.size != 0 and self._book.holders(self.pages[-1]) > 1

    def grow(self, tokens: int) -> list[tuple[int, int]]:
        """Makes room for `tokens` more; returns the (from, to) page copies to make before they are written.

        Raises:
            CacheFull: too few pages are free; nothing was changed.
        """
        if tokens < 0:
            raise Invalid(f"a table grows by 0 tokens or more; got {tokens}. To shorten it call truncate")
        taken = self._book.take(self.needs(tokens))
        copies = []
        if tokens and self._shared_tail():
            old, new = self.pages[-1], taken.pop(0)
            self.pages[-1] = new
            self._book.release(old)
            copies.append((old, new))
        self.pages.extend(taken)
        self.length += tokens
        return copies

    def fork(self) -> Table:
        """A second table over the same pages; the one that writes first copies."""
        other = Table(self._book, self.size)
        for page in self.pages:
            self._book.share(page)
        other.pages.extend(self.pages)
        other.length = self.length
        return other

    def truncate(self, length: int) -> None:
        """Forgets the tokens from `length` on and releases the pages that held only them."""
        if not 0 <= length <= self.length:
            raise Invalid(f"a table of {self.length} token(s) is cut to 0 … {self.length}; got {length}")
        keep = -(-length // self.size)
        for page in self.pages[keep:]:
            self._book.release(page)
        del self.pages[keep:]
        self.length = length

    def release(self) -> None:
        """Gives every page back; the table is empty then."""
        self.truncate(0)
