"""Prefixes: found by their tokens, kept while used, given up from the leaves."""

from __future__ import annotations

from strobe.cache.pages import Pages
from strobe.cache.prefix import Prefix


def known(pages: Pages, prefix: Prefix, tokens: list[int]) -> list[int]:
    """Inserts tokens as a sequence that leaves at once."""
    held = prefix.insert(tokens, pages.take(-(-len(tokens) // prefix.size)))
    for page in held:
        pages.release(page)
    return held


def test_only_whole_pages_of_the_same_tokens_match() -> None:
    pages = Pages(8)
    prefix = Prefix(pages, 2)
    first = known(pages, prefix, [1, 2, 3, 4, 5])
    assert len(prefix) == 2
    assert prefix.match([1, 2, 3, 4, 5, 6]) == first[:2]
    assert prefix.match([1, 2, 3, 9]) == first[:1]
    assert prefix.match([1]) == [] and prefix.match([]) == []
    assert prefix.match([3, 4]) == []  # the same page of tokens, but not at the beginning


def test_tokens_whose_hashes_are_equal_are_told_apart() -> None:
    assert hash(-1) == hash(-2)
    pages = Pages(4)
    prefix = Prefix(pages, 1)
    known(pages, prefix, [-1])
    assert prefix.match([-2]) == []


def test_what_is_known_replaces_the_own_page() -> None:
    pages = Pages(8)
    prefix = Prefix(pages, 2)
    one = prefix.insert([1, 2, 3, 4], pages.take(2))
    two = prefix.insert([1, 2, 5, 6], pages.take(2))
    assert two[0] == one[0] and two[1] != one[1]
    assert pages.free == 8 - 3
    pages.check_integrity([one, two, prefix.pages])


def test_pages_in_use_stay_and_leaves_go_first() -> None:
    pages = Pages(8)
    prefix = Prefix(pages, 2)
    known(pages, prefix, [1, 2, 3, 4])
    known(pages, prefix, [5, 6])
    used = prefix.match([1, 2, 3, 4])
    assert prefix.evictable() == 1
    assert prefix.evict(9) == 1 and len(prefix) == 2
    for page in used:
        pages.release(page)
    assert prefix.evict(1) == 1
    assert prefix.match([1, 2, 3, 4]) == used[:1]


def test_the_least_recently_used_goes_first() -> None:
    pages = Pages(8)
    prefix = Prefix(pages, 1)
    for token in (1, 2, 3):
        known(pages, prefix, [token])
    for page in prefix.match([1]):
        pages.release(page)
    prefix.evict(1)
    assert prefix.match([2]) == [] and prefix.match([1]) and prefix.match([3])


def test_clear_gives_everything_back() -> None:
    pages = Pages(8)
    prefix = Prefix(pages, 2)
    known(pages, prefix, [1, 2, 3, 4, 5, 6])
    prefix.clear()
    assert pages.free == 8 and len(prefix) == 0
