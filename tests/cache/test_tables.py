"""Tables: growing, forking, cutting; who writes a shared page copies it first."""

from __future__ import annotations

import pytest

from strobe import CacheFull, Invalid
from strobe.cache.pages import Pages
from strobe.cache.tables import Table


def test_growing_takes_pages_as_they_fill() -> None:
    pages = Pages(4)
    table = Table(pages, 4)
    assert table.needs(4) == 1 and table.grow(4) == []
    assert table.needs(1) == 1 and table.needs(0) == 0
    table.grow(9)
    assert (table.length, len(table.pages), pages.free) == (13, 4, 0)


def test_a_full_cache_leaves_the_table_as_it_was() -> None:
    pages = Pages(2)
    table = Table(pages, 4)
    table.grow(7)
    with pytest.raises(CacheFull):
        table.grow(2)
    assert (table.length, len(table.pages)) == (7, 2)
    table.grow(1)


def test_a_fork_copies_the_half_filled_page_when_one_of_the_two_writes() -> None:
    pages = Pages(8)
    one = Table(pages, 4)
    one.grow(6)
    two = one.fork()
    assert pages.free == 6
    shared = one.pages[1]
    ((source, target),) = two.grow(1)
    assert source == shared and two.pages[1] == target != shared and two.pages[0] == one.pages[0]
    assert one.grow(1) == []  # it is alone on its page now
    pages.check_integrity([one.pages, two.pages])


def test_a_full_last_page_is_never_copied() -> None:
    pages = Pages(4)
    one = Table(pages, 4)
    one.grow(4)
    two = one.fork()
    assert two.grow(1) == [] and one.grow(1) == []
    pages.check_integrity([one.pages, two.pages])


def test_a_copy_without_a_free_page_changes_nothing() -> None:
    pages = Pages(1)
    one = Table(pages, 4)
    one.grow(3)
    two = one.fork()
    with pytest.raises(CacheFull):
        two.grow(1)
    assert two.pages == one.pages and two.length == 3
    pages.check_integrity([one.pages, two.pages])


def test_cutting_releases_whole_pages_only() -> None:
    pages = Pages(4)
    table = Table(pages, 4)
    table.grow(13)
    table.truncate(5)
    assert (table.length, len(table.pages), pages.free) == (5, 2, 2)
    table.release()
    assert pages.free == 4


def test_mistakes() -> None:
    table = Table(Pages(2), 4)
    with pytest.raises(Invalid, match="call truncate"):
        table.grow(-1)
    with pytest.raises(Invalid, match="cut to 0"):
        table.truncate(1)
    with pytest.raises(Invalid, match="1 token or more"):
        Table(Pages(2), 0)
    table.grow(1)
    with pytest.raises(Invalid, match="only an empty table"):
        table.adopt([0])
