"""Any history of the cache against a model of it in plain lists: what each table's tokens are, nothing else."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from strobe import CacheFull
from strobe.cache.pages import Pages
from strobe.cache.prefix import Prefix
from strobe.cache.tables import Table

SIZE, COUNT = 3, 12
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=8)  # two tokens only: prefixes meet often


class History(RuleBasedStateMachine):
    """Pages hold tokens here, so that what a table reads can be compared with what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = Pages(COUNT)
        self.prefix = Prefix(self.pages, SIZE)
        self.memory = [[None] * SIZE for _ in range(COUNT)]
        self.tables: list[tuple[Table, list[int]]] = []

    def write(self, table: Table, written: list[int], tokens: list[int]) -> None:
        before = (table.length, list(table.pages), self.pages.free)
        try:
            copies = table.grow(len(tokens))
        except CacheFull:
            assert before == (table.length, list(table.pages), self.pages.free)
            return
        for source, target in copies:
            self.memory[target] = list(self.memory[source])
        for token in tokens:
            page, row = table.pages[len(written) // SIZE], len(written) % SIZE
            assert self.pages.holders(page) == 1, "a shared page is written"
            self.memory[page][row] = token
            written.append(token)

    @rule(tokens=TOKENS)
    def begin(self, tokens: list[int]) -> None:
        table = Table(self.pages, SIZE)
        table.adopt(self.prefix.match(tokens[:-1]))
        written = tokens[: table.length]
        self.write(table, written, tokens[table.length :])
        self.tables.append((table, written))

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), tokens=TOKENS)
    def extend(self, data: st.DataObject, tokens: list[int]) -> None:
        self.write(*data.draw(st.sampled_from(self.tables)), tokens)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        table, written = data.draw(st.sampled_from(self.tables))
        self.tables.append((table.fork(), list(written)))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        table, written = data.draw(st.sampled_from(self.tables))
        length = data.draw(st.integers(0, table.length))
        table.truncate(length)
        del written[length:]

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def remember(self, data: st.DataObject) -> None:
        table, written = data.draw(st.sampled_from(self.tables))
        full = len(written) // SIZE
        table.pages[:full] = type(table.pages)("i", self.prefix.insert(written[: full * SIZE], table.pages[:full]))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.tables) - 1))
        self.tables.pop(at)[0].release()

    @rule(count=st.integers(1, 4))
    def evict(self, count: int) -> None:
        can, free = self.prefix.evictable(), self.pages.free
        assert self.prefix.evict(count) == min(count, can) == self.pages.free - free

    @invariant()
    def books_agree(self) -> None:
        self.pages.check_integrity([*(table.pages for table, _ in self.tables), self.prefix.pages])

    @invariant()
    def tables_read_what_was_written(self) -> None:
        for table, written in self.tables:
            assert table.length == len(written)
            assert [self.memory[table.pages[s // SIZE]][s % SIZE] for s in range(table.length)] == written


TestHistories = History.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
