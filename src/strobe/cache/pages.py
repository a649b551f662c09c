"""Which pages are free, and how many hold each of the others. No arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from strobe.errors import Broken, CacheFull, Invalid


class Pages:
    """The pages 0 … count − 1, each with the number of its holders; 0 means free.

    >>> pages = Pages(4)
    >>> held = pages.take(3)
    >>> pages.share(held[0]); _ = pages.release(held[0]); pages.free
    1
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise Invalid(f"a cache has 1 page or more; got {count}")
        self._holders = [0] * count
        self._free = list(range(count - 1, -1, -1))  # a stack: the page released last is taken first, still warm

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def holders(self, page: int) -> int:
        """How many hold the page."""
        return self._holders[page]

    def take(self, count: int) -> list[int]:
        """`count` free pages, each now with one holder.

        Raises:
            CacheFull: fewer are free; none was taken.
        """
        if count > len(self._free):
            raise CacheFull(f"{count} page(s) were asked for, {len(self._free)} of {len(self._holders)} are free")
        if count <= 0:
            return []
        taken = self._free[-count:][::-1]
        del self._free[-count:]
        for page in taken:
            self._holders[page] = 1
        return taken

    def share(self, page: int) -> None:
        """One more holder of a page in use."""
        if not self._holders[page]:
            raise Broken(f"page {page} is free and cannot be shared")
        self._holders[page] += 1

    def release(self, page: int) -> bool:
        """One holder fewer; true if that made the page free."""
        if not self._holders[page]:
            raise Broken(f"page {page} was released more often than it was held")
        self._holders[page] -= 1
        if self._holders[page]:
            return False
        self._free.append(page)
        return True

    def check_integrity(self, held: Iterable[Iterable[int]]) -> None:
        """Compares the counts with the pages that each holder says it holds.

        Raises:
            Broken: they differ, or a page is both free and held.
        """
        said = Counter(page for holder in held for page in holder)
        for page, count in enumerate(self._holders):
            if said[page] != count:
                raise Broken(f"page {page} has {count} holder(s) on record, {said[page]} in truth")
        free = set(self._free)
        if len(free) != len(self._free) or free != {page for page, count in enumerate(self._holders) if not count}:
            raise Broken("the list of free pages is not the list of pages without a holder")
