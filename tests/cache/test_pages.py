"""Pages: taken, shared, released; the books agree after any history."""

from __future__ import annotations

import pytest

from strobe import Broken, CacheFull, Invalid
from strobe.cache.pages import Pages


def test_a_cache_without_pages_makes_no_sense() -> None:
    with pytest.raises(Invalid, match="1 page or more"):
        Pages(0)


def test_a_full_cache_changes_nothing() -> None:
    pages = Pages(3)
    held = pages.take(2)
    with pytest.raises(CacheFull, match="2 page.s. were asked for, 1 of 3 are free"):
        pages.take(2)
    assert pages.free == 1
    pages.check_integrity([held])


def test_a_shared_page_is_free_when_its_last_holder_goes() -> None:
    pages = Pages(1)
    (page,) = pages.take(1)
    pages.share(page)
    assert not pages.release(page)
    assert pages.release(page)
    assert pages.free == 1


def test_our_own_mistakes_are_broken_not_silent() -> None:
    pages = Pages(2)
    with pytest.raises(Broken, match="released more often"):
        pages.release(0)
    with pytest.raises(Broken, match="cannot be shared"):
        pages.share(0)
    pages.take(1)
    with pytest.raises(Broken, match="on record"):
        pages.check_integrity([])
