"""Barrier pairs with a name: how the warps of a program hand each other tiles and numbers in shared memory.

    Producer.send   waits until the slot is empty │ the copy engine fills it  │ full
    Consumer.wait   waits until the slot is full  │ products read it          │ release: empty

A slot has two barriers, `full` and `empty`, and is used again and again. A barrier turns from one phase to the next each time it
has been arrived at often enough; the step, a number that both sides count, tells the slot and the phase to wait for.
"""

# no postponed annotations: an aggregate looks at the types of its fields

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from strobe.backends.hopper.compat import aggregate, fetch


@aggregate
class Channel:
    """Tiles `[slots · lanes · beside, 1, …]`: `slots` in flight for each of `lanes` receivers, or for all receivers together (one lane); as
    many boxes `beside` each other, where the columns are not a power of two."""

    tiles: gl.shared_memory_descriptor
    full: gl.shared_memory_descriptor
    empty: gl.shared_memory_descriptor
    slots: gl.constexpr
    lanes: gl.constexpr
    beside: gl.constexpr

    @gluon.constexpr_function
    def __init__(self, tiles, full, empty, slots, lanes, beside=1):
        self.tiles = tiles
        self.full = full
        self.empty = empty
        self.slots = gl.constexpr(slots)
        self.lanes = gl.constexpr(lanes)
        self.beside = gl.constexpr(beside)

    @gluon.jit
    def slot(self, step, lane):
        """Where the tile of a step lies."""
        return step % self.slots * self.lanes + lane

    @gluon.jit
    def phase(self, step):
        """0 the first time a slot is used, 1 the second, 0 the third."""
        return step // self.slots & 1


@aggregate
class Producer:
    """The side that fills."""

    channel: Channel

    @gluon.constexpr_function
    def __init__(self, channel):
        self.channel = channel

    @gluon.jit
    def send(self, array, batch, token, head, step, lane):
        """Lets the copy engine fill the slot with the box of an array `[batch, token, head, width]` that begins there, or with those beside
        it; it writes zeros for what lies outside of the array."""
        BESIDE: gl.constexpr = self.channel.beside
        full, tile = self.begin(step, lane, BESIDE * array.block_type.nbytes)
        fetch(array, [batch, token, head, 0], full, tile)
        for i in gl.static_range(1, BESIDE):
            tile = self.channel.tiles.index(self.channel.slot(step, lane) * BESIDE + i)
            fetch(array, [batch, token, head, i * array.block_type.shape[3]], full, tile)

    @gluon.jit
    def begin(self, step, lane, BYTES: gl.constexpr):
        """(barrier, tile) of the slot, once it is empty; so many bytes will come, as one box or as several."""
        slot = self.channel.slot(step, lane)
        mbarrier.wait(self.channel.empty.index(slot), self.channel.phase(step) ^ 1)
        full = self.channel.full.index(slot)
        mbarrier.expect(full, BYTES)
        return full, self.channel.tiles.index(slot * self.channel.beside)


@aggregate
class Consumer:
    """The side that reads; of a channel with lanes, one of them."""

    channel: Channel
    lane: gl.constexpr

    @gluon.constexpr_function
    def __init__(self, channel, lane):
        self.channel = channel
        self.lane = gl.constexpr(lane)

    @gluon.jit
    def wait(self, step):
        """The tile of a step, once it has come."""
        mbarrier.wait(self.channel.full.index(self.channel.slot(step, self.lane)), self.channel.phase(step))
        return self.tile(step)

    @gluon.jit
    def tile(self, step, BOX: gl.constexpr = 0):
        """The tile of a step that was waited for; of several boxes beside each other, one."""
        return self.channel.tiles.index(self.channel.slot(step, self.lane) * self.channel.beside + BOX)

    @gluon.jit
    def release(self, step):
        """Nothing reads the tile any more."""
        mbarrier.arrive(self.channel.empty.index(self.channel.slot(step, self.lane)), count=1)

    @gluon.jit
    def skip(self, step):
        """Lets a tile go unread, for others read it."""
        self.wait(step)
        self.release(step)


@gluon.jit
def barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """Barriers that turn when they have been arrived at so often."""
    made = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(made.index(i), count=ARRIVALS)
    return made


@gluon.jit
def channel(
    array, TOKENS: gl.constexpr, WIDTH: gl.constexpr, SLOTS: gl.constexpr, LANES: gl.constexpr, RECEIVERS: gl.constexpr,
    BESIDE: gl.constexpr = 1,
):  # fmt: skip
    """A channel for tiles of so many tokens and columns, each an array's box or several, BESIDE each other in tiles of their own or not; a
    slot is empty when all its receivers have released it."""
    shape: gl.constexpr = [SLOTS * LANES * BESIDE, 1, TOKENS, array.block_type.shape[2], WIDTH // BESIDE]
    tiles = gl.allocate_shared_memory(array.dtype, shape, array.layout)
    return Channel(tiles, barriers(SLOTS * LANES, 1), barriers(SLOTS * LANES, RECEIVERS), SLOTS, LANES, BESIDE)


@aggregate
class Addresses:
    """Where keys and values lie: of each its address and its strides of sequence or page, token and head; behind them where a tree lies and
    its stride of sequence; or where documents of queries and of keys lie and what `span_documents` wrote, queries and keys; or, of keys in
    pages, which have neither, the table's address and stride, the last page there is, and the last key a table tells; or where scales of
    queries, keys and values lie, with their strides. In shared memory, for what is hardly ever used would take registers from the loop."""

    numbers: gl.shared_memory_descriptor

    @gluon.constexpr_function
    def __init__(self, numbers):
        self.numbers = numbers

    @gluon.jit
    def get(self, which):
        """A number."""
        layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        return gl.max(self.numbers.index(which).load(layout), 0)

    @gluon.jit
    def of(self, SIDE: gl.constexpr, batch, token, head, dtype: gl.constexpr):
        """(address of a row, stride from one token to the next) of keys, SIDE 0, or values, 1."""
        step = self.get(4 * SIDE + 2)
        first = batch * self.get(4 * SIDE + 1) + token * step + head * self.get(4 * SIDE + 3)
        return gl.cast(self.get(4 * SIDE), gl.pointer_type(dtype), bitcast=True) + first, step

    @gluon.jit
    def bits(self, batch):
        """The address of a sequence's tree."""
        return gl.cast(self.get(8), gl.pointer_type(gl.uint8), bitcast=True) + batch * self.get(9)

    @gluon.jit
    def integers(self, which):
        """The address of some."""
        return gl.cast(self.get(which), gl.pointer_type(gl.int32), bitcast=True)

    @gluon.jit
    def scale(self, SIDE: gl.constexpr, sequence, head, o_token):
        """Addresses of scales of tokens of a sequence and head: queries' (SIDE 0), keys' (1) or values' (2); heads may be several."""
        p_scale = gl.cast(self.get(8 + 4 * SIDE), gl.pointer_type(gl.float32), bitcast=True)
        return p_scale + sequence * self.get(9 + 4 * SIDE) + o_token * self.get(10 + 4 * SIDE) + head * self.get(11 + 4 * SIDE)

    @gluon.jit
    def page(self, sequence, token, PAGE: gl.constexpr):
        """The page of a sequence's key."""
        column = gl.minimum(token, self.get(11)) // PAGE
        entry = gl.cast(self.get(8), gl.pointer_type(gl.int32), bitcast=True) + sequence * self.get(9) + column
        return gl.minimum(gl.maximum(gl.load(entry), 0), self.get(10))


@gluon.jit
def addresses(
    k_data, k_strides, v_data, v_strides, tree, tree_step, q_documents, k_documents, spans, table, table_step, pages, T, S, scales,
    form: gl.constexpr,
):  # fmt: skip
    """The addresses, if the kernel may need them."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    COUNT: gl.constexpr = 20 if form.narrow else 13 if form.documents else 12 if form.page is not None else 10 if form.tree else 8
    numbers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    if form.unseen:
        for side in gl.static_range(2):
            data, strides = (k_data, k_strides) if side == 0 else (v_data, v_strides)
            zero = gl.full([1], 0, gl.int64, layout=layout)
            numbers.index(4 * side).store(zero + gl.cast(data, gl.int64, bitcast=True))
            for i in gl.static_range(3):
                numbers.index(4 * side + 1 + i).store(zero + strides[i])
        if form.page is not None:
            zero = gl.full([1], 0, gl.int64, layout=layout)
            numbers.index(8).store(zero + gl.cast(table, gl.int64, bitcast=True))
            numbers.index(9).store(zero + table_step)
            numbers.index(10).store(zero + pages - 1)
            numbers.index(11).store(zero + S - 1)
    if form.narrow:
        begin = gl.full([1], 0, gl.int64, layout=layout)
        for side in gl.static_range(3):
            numbers.index(8 + 4 * side).store(begin + gl.cast(scales[side][0], gl.int64, bitcast=True))
            for i in gl.static_range(3):
                numbers.index(9 + 4 * side + i).store(begin + scales[side][1][i])
    if form.documents:
        none = gl.full([1], 0, gl.int64, layout=layout)
        numbers.index(8).store(none + gl.cast(q_documents, gl.int64, bitcast=True))
        numbers.index(9).store(none + gl.cast(k_documents, gl.int64, bitcast=True))
        numbers.index(10).store(none + gl.cast(spans, gl.int64, bitcast=True))
        numbers.index(11).store(none + T)
        numbers.index(12).store(none + S)
    if form.tree:
        nothing = gl.full([1], 0, gl.int64, layout=layout)
        numbers.index(8).store(nothing + gl.cast(tree, gl.int64, bitcast=True))
        numbers.index(9).store(nothing + tree_step)
    return Addresses(numbers)
