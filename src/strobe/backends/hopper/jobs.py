"""What a tile is: numbers that the warp which loads puts on a board, and all others read."""

# no postponed annotations: an aggregate looks at the types of its fields

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from strobe.backends.hopper.channel import barriers
from strobe.backends.hopper.compat import aggregate, barrier

# the numbers of a job
MORE = gl.constexpr(0)  # 0 tells that there is no job any more
BATCH = gl.constexpr(1)  # of queries, 0 where they lie end to end
TOKEN = gl.constexpr(2)  # first query of the tile, as a row of its array
QUERIES = gl.constexpr(3)  # from there to the sequence's end
HEAD = gl.constexpr(4)  # first of the tile
POSITION = gl.constexpr(5)  # of the first query
LENGTH = gl.constexpr(6)  # keys of the sequence
PREFIX = gl.constexpr(7)
SHARED = gl.constexpr(7)  # not 0 tells that the blocks are a part of the tile's, in kernels that share tiles; those have no prefix
LOW = gl.constexpr(8)  # blocks of the tile
HIGH = gl.constexpr(9)
K_BATCH = gl.constexpr(10)
K_HEAD = gl.constexpr(11)
K_FIRST = gl.constexpr(12)  # first key of the sequence, as a row of its array
ROW = gl.constexpr(13)  # place of the first row's lse, or of the first row of a part
HEADS = gl.constexpr(14)  # or rows of all parts; the same in every job, as what follows: on the board they take no registers
BEFORE = gl.constexpr(15)
AFTER = gl.constexpr(16)
NUMBERS = gl.constexpr(17)  # of a job, but for the next one
ONLINE = gl.constexpr(17)  # not 0 tells that a tile is passed again, by online softmax (`consuming.steadily`)
THREADS = gl.constexpr(128)  # of a warpgroup


@aggregate
class Board:
    """Numbers that one warp writes and all others read: the job of a turn; two turns are on it at a time. Each thread of those that read
    them says whether it wants the job again, and the warp that writes learns that once all have released it."""

    numbers: gl.shared_memory_descriptor
    wishes: gl.shared_memory_descriptor  # [2 · receivers, threads of a warpgroup], where there are any
    full: gl.shared_memory_descriptor
    empty: gl.shared_memory_descriptor
    receivers: gl.constexpr
    each: gl.constexpr  # numbers of a turn

    @gluon.constexpr_function
    def __init__(self, numbers, wishes, full, empty, receivers, each):
        self.numbers = numbers
        self.wishes = wishes
        self.full = full
        self.empty = empty
        self.receivers = gl.constexpr(receivers)
        self.each = gl.constexpr(each)

    @gluon.jit
    def clear(self, turn):
        """Waits until the turn's half of the board may be written."""
        mbarrier.wait(self.empty.index(turn & 1), (turn >> 1 & 1) ^ 1)

    @gluon.jit
    def put(self, turn, which: gl.constexpr, number):
        """Writes a number, by one warp."""
        layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
        self.numbers.index((turn & 1) * self.each + which).store(gl.full([1], 0, gl.int32, layout=layout) + number)

    @gluon.jit
    def read(self, turn, which: gl.constexpr):
        """A number, read by the warp that writes."""
        layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
        return gl.max(self.numbers.index((turn & 1) * self.each + which).load(layout), 0)

    @gluon.jit
    def show(self, turn):
        """All numbers of the turn are written."""
        barrier()
        mbarrier.arrive(self.full.index(turn & 1), count=1)

    @gluon.jit
    def wait(self, turn):
        """Waits until they are."""
        mbarrier.wait(self.full.index(turn & 1), turn >> 1 & 1)

    @gluon.jit
    def get(self, turn, which: gl.constexpr):
        """A number, read by a warpgroup."""
        layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        return gl.max(self.numbers.index((turn & 1) * self.each + which).load(layout), 0)

    @gluon.jit
    def wish(self, turn, GROUP: gl.constexpr, b_again):
        """Says which threads want the job again, by a warpgroup that still holds it. No thread waits for another."""
        self.wishes.index((turn & 1) * self.receivers + GROUP).store(b_again)

    @gluon.jit
    def wished(self, turn, GROUP: gl.constexpr):
        """Whether a thread of this warpgroup did."""
        layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        return gl.max(self.wishes.index((turn & 1) * self.receivers + GROUP).load(layout), 0) != 0

    @gluon.jit
    def release(self, turn):
        """Nothing reads the turn's numbers any more."""
        mbarrier.arrive(self.empty.index(turn & 1), count=1)

    @gluon.jit
    def asked(self, turn):
        """Whether the job of a turn is wanted again, once all have released it; of one that was done again no one is asked."""
        mbarrier.wait(self.empty.index(turn & 1), turn >> 1 & 1)
        layout: gl.constexpr = gl.BlockedLayout([4], [32], [1], [0])
        RECEIVERS: gl.constexpr = self.receivers
        b_again = gl.full([THREADS], 0, gl.int32, layout=layout)
        for group in gl.static_range(RECEIVERS):
            b_again = b_again | self.wishes.index((turn & 1) * self.receivers + group).load(layout)
        return (gl.max(b_again, 0) != 0) & (self.read(turn, ONLINE) == 0)

    @gluon.jit
    def repeat(self, old, turn):
        """The job of an old turn that is wanted again is the one of this turn, whose half of the board may be the same."""
        layout: gl.constexpr = gl.BlockedLayout([4], [32], [1], [0])
        RECEIVERS: gl.constexpr = self.receivers
        EACH: gl.constexpr = self.each
        if (old ^ turn) & 1 != 0:
            for which in gl.static_range(EACH):
                self.put(turn, which, self.read(old, which))
            for group in gl.static_range(RECEIVERS):
                b_again = self.wishes.index((old & 1) * self.receivers + group).load(layout)
                self.wishes.index((turn & 1) * self.receivers + group).store(b_again)
        self.put(turn, ONLINE, 1)


@gluon.jit
def board(RECEIVERS: gl.constexpr, ONLINE_TOO: gl.constexpr = False, WISHES: gl.constexpr = False):
    """A board that is clear when all receivers have released it; with or without ONLINE among its numbers, and WISHES for a job again."""
    EACH: gl.constexpr = NUMBERS + ONLINE_TOO
    numbers = gl.allocate_shared_memory(gl.int32, [2 * EACH, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    wishes = numbers
    if WISHES:
        wishes = gl.allocate_shared_memory(gl.int32, [2 * RECEIVERS, THREADS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    return Board(numbers, wishes, barriers(2, 1), barriers(2, RECEIVERS), RECEIVERS, EACH)
