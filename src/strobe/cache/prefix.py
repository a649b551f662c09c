"""Which full pages already hold these tokens: a tree of pages, a page of tokens an edge. No arrays.

    (root) ── tokens 0…15 ── tokens 16…31 ── …          a path from the root spells a beginning of some prompt
                         └── other 16…31 ── …

The tree holds one count of each of its pages. Whoever uses a page through `match` holds all pages above it too, so
pages that only the tree holds can be given up from the leaves, the least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from strobe.cache.pages import Pages

Edge = tuple[int, tuple[int, ...]]  # (the page above, or −1 at the root; the tokens of this page)


@dataclass
class _Node:
    page: int
    children: int = 0


class Prefix:
    """Pages of tokens that were computed before, found again by their tokens (compared, not only hashed).

    >>> pages = Pages(8); prefix = Prefix(pages, size=2)
    >>> held = prefix.insert([1, 2, 3, 4, 5], pages.take(3))
    >>> prefix.match([1, 2, 3, 9])
    [0]
    """

    def __init__(self, pages: Pages, size: int) -> None:
        self.size = size
        self._book = pages
        self._nodes: OrderedDict[Edge, _Node] = OrderedDict()  # least recently used first, children before parents
        self._edges: dict[int, Edge] = {}  # page → its edge

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def pages(self) -> list[int]:
        """The pages that the tree holds."""
        return list(self._edges)

    def match(self, tokens: Sequence[int]) -> list[int]:
        """The pages that hold the longest known beginning of `tokens`; the caller now holds each of them."""
        found: list[Edge] = []
        above = -1
        for edge_tokens in self._cut(tokens):
            edge = (above, edge_tokens)
            node = self._nodes.get(edge)
            if node is None:
                break
            found.append(edge)
            above = node.page
        for edge in reversed(found):
            self._nodes.move_to_end(edge)
        held = [self._nodes[edge].page for edge in found]
        for page in held:
            self._book.share(page)
        return held

    def insert(self, tokens: Sequence[int], pages: Sequence[int]) -> list[int]:
        """Remembers the full pages of a sequence; returns its pages, those known before in place of its own.

        The caller holds `pages` before and the returned ones after: where the tree had the same tokens, the caller's
        page is released and the tree's is shared, so a sequence always holds the path above its pages.
        """
        result = list(pages)
        path: list[Edge] = []
        above = -1
        for i, edge_tokens in enumerate(self._cut(tokens[: len(result) * self.size])):
            edge = (above, edge_tokens)
            node = self._nodes.get(edge)
            if node is None:
                node = self._nodes[edge] = _Node(result[i])
                self._edges[node.page] = edge
                self._book.share(node.page)
                if above >= 0:
                    self._nodes[self._edges[above]].children += 1
            elif node.page != result[i]:
                self._book.share(node.page)
                self._book.release(result[i])
                result[i] = node.page
            path.append(edge)
            above = node.page
        for edge in reversed(path):
            self._nodes.move_to_end(edge)
        return result

    def evictable(self) -> int:
        """Pages that only the tree holds."""
        return sum(self._book.holders(node.page) == 1 for node in self._nodes.values())

    def evict(self, count: int) -> int:
        """Gives up to `count` pages that only the tree holds back, the least recently used first; how many it were."""
        gone = 0
        for edge in list(self._nodes):
            if gone >= count:
                break
            node = self._nodes[edge]
            if node.children or self._book.holders(node.page) > 1:
                continue
            del self._nodes[edge], self._edges[node.page]
            if edge[0] >= 0:
                self._nodes[self._edges[edge[0]]].children -= 1
            self._book.release(node.page)
            gone += 1
        return gone

    def clear(self) -> None:
        """Forgets every page that no sequence uses."""
        self.evict(len(self._nodes))

    def _cut(self, tokens: Sequence[int]) -> list[tuple[int, ...]]:
        """The full pages of a sequence's tokens."""
        return [tuple(tokens[i : i + self.size]) for i in range(0, len(tokens) - self.size + 1, self.size)]
