// A call becomes pairs (sequence, key head), pairs become tiles of rows, and the work of all tiles, counted in blocks of
// keys, is one line of numbers that is cut into parts. A tile that a cut goes through leaves partial states, which are
// merged in the order of their keys. Cuts depend on the problem and the thread count alone, so the same plan gives the
// same bits whichever thread takes which part. In the invariant mode every tile is cut at the same places of its sequence,
// and always merged, so that neither the rest of the batch nor the thread count shows.
#include "schedule.hpp"

#include <algorithm>
#include <memory>
#include <new>

#include "check.hpp"
#include "threads.hpp"

namespace strobe {
namespace {

// Of packed keys at once and thread, so that caches keep them; more pairs wait for the next wave.
constexpr size_t PACKED_LIMIT = size_t{4} << 20;
constexpr int64_t PARTS_PER_THREAD = 4;   // with uneven tiles, so that no thread waits long for the last one
constexpr int64_t SIDE_BY_SIDE = 4096;    // bytes of a token's keys that are worth reading in one go
constexpr int64_t ROWS_OF_HEADS = 16;     // with which several heads are taken together
constexpr int64_t LEAST_KEYS = 256;       // a part with fewer costs more to merge than to compute
constexpr int64_t INVARIANT_KEYS = 2048;  // from one place to the next in the invariant mode
constexpr int64_t SUMMED_TOGETHER = 4;    // blocks whose sum a kernel makes apart

struct Pair {
  Rows rows;
  Keys keys;
  int64_t block0, blocks;  // that any row sees
  int64_t tile0;           // its first tile
  size_t packed;           // where its packed blocks start
};
struct Tile {
  int64_t pair, heads, row0, rows, key0, key1;  // the same rows and keys of `heads` pairs from `pair` on
  int64_t start, blocks;                        // its stretch of the line
};

template <class T>
std::unique_ptr<T[]> array(int64_t n) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(n > 0 ? n : 1)]);
}

int32_t check(strobe_attention &c) {
  auto bad = [&](int32_t code, int64_t value) { return fail(c.fault, code, 0, 0, value); };
  if (c.size != sizeof c || c.interface != STROBE_INTERFACE) return STROBE_BAD_STRUCT;
  if (c.extras && (c.extras->size != sizeof *c.extras || c.extras->interface != STROBE_INTERFACE)) return STROBE_BAD_STRUCT;
  if (c.extras && (c.extras->mark_count < 0 || c.extras->mark_count > STROBE_MARKS)) return bad(STROBE_BAD_SHAPE, c.extras->mark_count);
  if (c.extras && !valid_dtype(c.extras->bias_dtype)) return bad(STROBE_BAD_DTYPE, c.extras->bias_dtype);
  if (!valid_dtype(c.dtype)) return bad(STROBE_BAD_DTYPE, c.dtype);
  if (!valid_keys(c)) return bad(STROBE_BAD_DTYPE, c.keys_dtype);
  if (!valid_width(c.D)) return bad(STROBE_BAD_SHAPE, c.D);
  if (!valid_width(c.V)) return bad(STROBE_BAD_SHAPE, c.V);
  if (c.G < 1 || c.H < 1 || c.H % c.G != 0) return bad(STROBE_BAD_SHAPE, c.G);
  if (c.B < 0 || c.T < 0 || c.S < 0 || c.P < 0) return bad(STROBE_BAD_SHAPE, -1);
  if (c.S > INT32_MAX || c.T > INT32_MAX) return bad(STROBE_BAD_SHAPE, c.S);
  if (c.q_offsets)
    if (int32_t code = check_offsets(c.fault, c.q_offsets, c.B, c.T, true)) return code;
  if (c.layout == STROBE_DENSE) return STROBE_OK;
  if (c.layout == STROBE_PACKED) return c.starts ? check_offsets(c.fault, c.starts, c.B, c.S, false) : bad(STROBE_BAD_SHAPE, c.layout);
  bool paged = c.layout == STROBE_PAGED;
  if (!paged && c.layout != STROBE_RANGED) return bad(STROBE_BAD_SHAPE, c.layout);
  if (paged && (c.Z < 1 || c.P * c.Z > INT64_MAX / 2)) return bad(STROBE_BAD_SHAPE, c.Z);
  // an array without elements has no address
  if (c.B > 0 && (!c.lengths || (paged ? !c.table && c.table_width > 0 : !c.starts))) return bad(STROBE_BAD_SHAPE, c.layout);
  for (int64_t b = 0; b < c.B; b++) {
    int64_t length = c.lengths[b], start = paged ? 0 : c.starts[b], room = paged ? least(c.table_width * c.Z, c.S) : c.S;
    if (length < 0 || length > INT32_MAX || start < 0 || start + length > room) return fail(c.fault, STROBE_BAD_LENGTH, b, 0, length);
    if (!paged) continue;
    if (int32_t code = check_pages(c.fault, c.table + b * c.table_stride, b, 0, (length + c.Z - 1) / c.Z, c.P)) return code;
  }
  return STROBE_OK;
}

Pair pair_of(const strobe_attention &c, int64_t b, int64_t g) {
  Pair pair{};
  int64_t bytes = dtype_bytes(c.dtype), group = c.H / c.G, start = 0, queries = c.T;
  Keys &keys = pair.keys;
  bool paged = c.layout == STROBE_PAGED, packed = c.layout == STROBE_PACKED, dense = c.layout == STROBE_DENSE;
  if (paged) {
    keys.table = c.table + b * c.table_stride, keys.page_tokens = c.Z, keys.count = c.lengths[b];
  } else {
    start = dense ? 0 : c.starts[b];
    keys.count = dense ? c.S : packed ? c.starts[b + 1] - start : c.lengths[b];
  }
  // The first token of one array, whose distances from token to token and from page to page are noted.
  auto side = [&](const void *array, const int64_t *strides, int64_t size, const char **at, int64_t *token, int64_t *page) {
    *token = strides[1] * size, *page = paged ? strides[0] * size : 0;
    *at = static_cast<const char *>(array) + ((paged || packed ? 0 : b * strides[0]) + start * strides[1] + g * strides[2]) * size;
  };
  side(c.k, c.k_strides, dtype_bytes(c.keys_dtype), &keys.k, &keys.k_token, &keys.k_page);
  side(c.v, c.v_strides, dtype_bytes(c.keys_dtype), &keys.v, &keys.v_token, &keys.v_page);
  if (scaled(c)) {
    side(c.k_scale, c.k_scale_strides, sizeof(float), &keys.k_scale, &keys.k_scale_token, &keys.k_scale_page);
    side(c.v_scale, c.v_scale_strides, sizeof(float), &keys.v_scale, &keys.v_scale_token, &keys.v_scale_page);
  }
  Rows &rows = pair.rows;
  int64_t b_dense = b, token = 0;
  if (c.q_offsets) b_dense = 0, token = c.q_offsets[b], queries = c.q_offsets[b + 1] - token;
  auto at = [&](const int64_t *strides) { return b_dense * strides[0] + token * strides[1] + g * group * strides[2]; };
  rows.q = static_cast<const char *>(c.q) + at(c.q_strides) * bytes;
  rows.out = static_cast<char *>(c.out) + at(c.out_strides) * bytes;
  rows.lse = c.lse ? reinterpret_cast<char *>(c.lse + at(c.lse_strides)) : nullptr;
  rows.q_token = c.q_strides[1] * bytes, rows.q_head = c.q_strides[2] * bytes;
  rows.out_token = c.out_strides[1] * bytes, rows.out_head = c.out_strides[2] * bytes;
  rows.lse_token = c.lse_strides[1] * 4, rows.lse_head = c.lse_strides[2] * 4;
  rows.group = group, rows.count = queries * group, rows.head = g * group;
  rows.slopes = c.slopes ? c.slopes + b * c.slopes_stride : nullptr;
  rows.sequence = b;
  rows.prefix = !c.extras ? -1 : c.extras->prefix ? most(0, c.extras->prefix[b]) : c.extras->prefix_all;
  rows.first = c.first ? c.first[b] : c.place_all ? c.first_all : keys.count - queries;
  return pair;
}

// The line of work and where it is cut.
struct Line {
  const Tile *tiles;
  int64_t tile_count, work, parts;
  bool whole;            // part i is tile i, nothing is cut
  const int64_t *fixed;  // where parts begin, and the end; null where they are of one length

  int64_t begin(int64_t part) const {
    if (fixed) return fixed[part];
    return whole ? (part < tile_count ? tiles[part].start : work) : work * part / parts;
  }
  int64_t part_of(int64_t unit) const {
    if (fixed) return std::upper_bound(fixed, fixed + parts, unit) - fixed - 1;
    int64_t p = unit * parts / work;
    while (begin(p) > unit) p--;
    while (begin(p + 1) <= unit) p++;
    return p;
  }
  int64_t tile_of(int64_t unit) const {
    int64_t low = 0, high = tile_count;  // the last tile that starts at or before the unit
    while (high - low > 1) {
      int64_t middle = (low + high) / 2;
      (tiles[middle].start <= unit ? low : high) = middle;
    }
    return low;
  }
};

Line cut(const Tile *tiles, int64_t count, int64_t work, int64_t longest, int threads, Shape shape, int block_keys) {
  // Enough tiles, none of them long: they are taken whole.
  bool whole = count >= PARTS_PER_THREAD * threads && longest * threads * 2 <= work;
  if (whole || threads == 1) return {tiles, count, work, count, true, nullptr};
  int64_t wanted = shape == Shape::few ? threads : PARTS_PER_THREAD * threads;
  int64_t worthwhile = most(1, work * block_keys / most(LEAST_KEYS, block_keys));  // never more than the work: no part is empty
  return {tiles, count, work, least(wanted, worthwhile), false, nullptr};
}

class Run {
 public:
  Run(strobe_attention &call, const InstructionSet &set, const Kernel &kernel, Shape shape, int64_t rows)
      : call_(call), set_(set), kernel_(kernel), shape_(shape), rows_(rows) {}

  int32_t all() {
    pairs_ = array<Pair>(call_.B * call_.G);
    lay_out();
    size_t block = packing_ ? kernel_.block_bytes(call_) : 0;
    int64_t count = call_.B * call_.G, code = STROBE_OK;
    for (int64_t first = 0, last; first < count && code == STROBE_OK; first = last) {
      size_t bytes = 0;
      for (last = first; last < count; last++) {
        size_t more = static_cast<size_t>(pairs_[last].blocks) * block;
        if (last > first && bytes + more > PACKED_LIMIT * static_cast<size_t>(call_.threads)) break;
        pairs_[last].packed = bytes;
        bytes += more;
      }
      code = wave(first, last, bytes);
    }
    shared_scratch().trim();
    return static_cast<int32_t>(code);
  }

 private:
  // Pairs, and their tiles with the keys that any of a tile's rows may see, later rows first: under a causal mask these
  // have the most work, and the least should come last.
  void lay_out() {
    int64_t tile_count = 0, step = kernel_.tile_rows, heads = heads_at_once();
    for (int64_t i = 0; i < call_.B * call_.G; i++) {
      pairs_[i] = pair_of(call_, i / call_.G, i % call_.G);
      pairs_[i].tile0 = tile_count;
      if (i % call_.G % heads == 0) tile_count += (pairs_[i].rows.count + step - 1) / step;
    }
    packing_ = kernel_.pack && rows_ > step;
    tiles_ = array<Tile>(tile_count);
    tile_count_ = tile_count;
    for (int64_t i = 0; i < call_.B * call_.G; i++) {
      if (i % call_.G % heads != 0) continue;
      Pair &pair = pairs_[i];
      int64_t tiles = (pair.rows.count + step - 1) / step, low = INT64_MAX, high = 0;
      for (int64_t t = 0; t < tiles; t++) {
        Tile &tile = tiles_[pair.tile0 + tiles - 1 - t];
        tile.pair = i, tile.row0 = t * step, tile.rows = least(step, pair.rows.count - t * step);
        tile.heads = least(heads, call_.G - i % call_.G);
        int64_t ignored, last = tile.row0 + tile.rows - 1;
        visible(call_, pair.rows, pair.keys.count, row_at(pair.rows, tile.row0).t, &tile.key0, &ignored);
        visible(call_, pair.rows, pair.keys.count, row_at(pair.rows, last).t, &ignored, &tile.key1);
        if (call_.invariant) tile.key0 -= tile.key0 % (SUMMED_TOGETHER * kernel_.block_keys);  // not where these rows' window begins
        tile.key1 = most(tile.key0, tile.key1);
        int64_t block0 = tile.key0 / kernel_.block_keys;
        tile.blocks = most(1, (tile.key1 + kernel_.block_keys - 1) / kernel_.block_keys - block0);
        if (tile.key1 > tile.key0) low = least(low, block0), high = most(high, block0 + tile.blocks);
      }
      pair.block0 = low == INT64_MAX ? 0 : low, pair.blocks = high - pair.block0;
    }
  }

  // Where the heads of a token lie side by side and few rows read each key once, several heads are taken together: one at
  // a time would jump over the others' keys, a token at a time. With more rows it is these that caches must keep.
  int64_t heads_at_once() const {
    auto beside = [](const int64_t *strides) { return strides[2] > 0 && strides[2] < strides[1]; };
    if (shape_ == Shape::many || rows_ > ROWS_OF_HEADS || !beside(call_.k_strides) || !beside(call_.v_strides)) return 1;
    return clamp(SIDE_BY_SIDE / row_bytes(call_.keys_dtype, call_.D), 1, MOST_HEADS);
  }

  int32_t wave(int64_t first, int64_t last, size_t packed_bytes) {
    int64_t tile0 = pairs_[first].tile0, tile1 = last < call_.B * call_.G ? pairs_[last].tile0 : tile_count_, work = 0, longest = 0;
    for (int64_t i = tile0; i < tile1; i++) tiles_[i].start = work, work += tiles_[i].blocks, longest = most(longest, tiles_[i].blocks);
    if (work == 0) return STROBE_OK;
    Line line = cut(tiles_.get() + tile0, tile1 - tile0, work, longest, call_.threads, shape_, kernel_.block_keys);
    if (call_.invariant && !line.whole) cut_at_places(line);
    slot_floats_ = line.whole && !call_.invariant ? 0 : static_cast<size_t>(round_up(longest_rows() * (2 + call_.V), 16));
    size_t slot_bytes = slot_floats_ * sizeof(float) * static_cast<size_t>(heads_at_once());
    size_t slots = line.whole ? 0 : static_cast<size_t>(2 * line.parts) * slot_bytes;
    packed_bytes = static_cast<size_t>(round_up(static_cast<int64_t>(packed_bytes), 64));
    char *shared = shared_scratch().reserve(packed_bytes + slots);
    if (!shared) return STROBE_NO_MEMORY;
    packed_ = packing_ ? shared : nullptr;
    slots_ = reinterpret_cast<float *>(shared + packed_bytes);

    size_t scratch_bytes = static_cast<size_t>(round_up(static_cast<int64_t>(kernel_.scratch_bytes(call_)), 64));
    size_t list_bytes = static_cast<size_t>(line.parts) * sizeof(float *), own_bytes = 0;
    if (call_.invariant && line.whole) {  // a tile's partials beside the kernel's scratch
      places_ = longest / place_blocks() + 2;
      own_bytes = static_cast<size_t>(places_) * (slot_bytes + sizeof(float *));
    }
    std::atomic<int32_t> code{STROBE_OK};
    int64_t most_blocks = 0;
    for (int64_t i = first; i < last; i++) most_blocks = most(most_blocks, pairs_[i].blocks);
    Counter packs(packing_ ? (last - first) * most_blocks : 0), parts(line.parts), merges(line.whole ? 0 : line.parts - 1);
    int team = static_cast<int>(least(team_size(call_.threads), packing_ ? call_.threads : line.parts));
    auto work_on = [&](auto barrier) {
      FlushSubnormals mode;
      char *scratch = thread_scratch().reserve(std::max(scratch_bytes + own_bytes, list_bytes));
      if (!scratch) code = STROBE_NO_MEMORY;
      int64_t i;
      while (scratch && packs.take(&i)) pack(pairs_[first + i / most_blocks], i % most_blocks);
      if (packing_) barrier();
      while (scratch && parts.take(&i))
        own_bytes ? tile_in_places(line.tiles[i], scratch, scratch + scratch_bytes) : part(line, i, scratch);
      if (line.whole) return;
      barrier();
      while (scratch && merges.take(&i)) merge(line, i + 1, reinterpret_cast<const float **>(scratch));
    };
    if (team == 1) {
      work_on([] {});
    } else {
#pragma omp parallel num_threads(team)
      work_on([] {
#pragma omp barrier
      });
    }
    return code;
  }

  int64_t longest_rows() const {
    int64_t rows = 0;
    for (int64_t i = 0; i < tile_count_; i++) rows = most(rows, tiles_[i].rows);
    return rows;
  }

  void pack(const Pair &pair, int64_t i) const {
    if (i >= pair.blocks) return;
    int64_t s0 = (pair.block0 + i) * kernel_.block_keys;
    kernel_.pack(call_, pair.keys, s0, least(pair.keys.count, s0 + kernel_.block_keys),
                 packed_ + pair.packed + static_cast<size_t>(i) * kernel_.block_bytes(call_));
  }

  Piece piece_of(const Tile &tile, int64_t head) const {
    const Pair &pair = pairs_[tile.pair + head];
    Piece piece{};
    piece.call = &call_, piece.rows = &pair.rows, piece.keys = &pair.keys;
    piece.row0 = tile.row0, piece.row_count = static_cast<int>(tile.rows);
    piece.key0 = tile.key0, piece.key1 = tile.key1;
    if (packed_) piece.packed = packed_ + pair.packed, piece.packed_block0 = pair.block0;
    return piece;
  }

  // In blocks, from one place where the invariant mode cuts to the next, and from a tile's first block to its next place.
  int64_t place_blocks() const { return most(1, INVARIANT_KEYS / kernel_.block_keys); }
  int64_t first_place(const Tile &tile) const { return place_blocks() - tile.key0 / kernel_.block_keys % place_blocks(); }

  void cut_at_places(Line &line) {
    int64_t parts = 0;
    for (int64_t i = 0; i < line.tile_count; i++) parts += line.tiles[i].blocks / place_blocks() + 2;
    fixed_ = array<int64_t>(parts + 1);
    line.parts = 0;
    for (int64_t i = 0; i < line.tile_count; i++) {
      const Tile &tile = line.tiles[i];
      for (int64_t at = 0; at < tile.blocks; at += at ? place_blocks() : first_place(tile)) fixed_[line.parts++] = tile.start + at;
    }
    fixed_[line.parts] = line.work;
    line.fixed = fixed_.get();
  }

  // A whole tile as the invariant mode computes it: a partial from place to place, then merged, though one thread does it all.
  void tile_in_places(const Tile &tile, char *scratch, char *own) const {
    float *slots = reinterpret_cast<float *>(own);
    const float **list =
        reinterpret_cast<const float **>(own + static_cast<size_t>(places_ * heads_at_once()) * slot_floats_ * sizeof(float));
    int64_t count = 0;
    auto slot_of = [&](int64_t place, int64_t head) { return slots + static_cast<size_t>(place * heads_at_once() + head) * slot_floats_; };
    for (int64_t from = 0, to; from < tile.blocks; from = to, count++) {
      to = least(tile.blocks, from + (from ? place_blocks() : first_place(tile)));
      Piece pieces[MOST_HEADS];
      for (int64_t h = 0; h < tile.heads; h++) {
        pieces[h] = piece_between(tile, h, from, to);
        pieces[h].scratch = scratch;
        if (from > 0 || to < tile.blocks) pieces[h].partial = slot_of(count, h);
      }
      kernel_.attend(pieces, static_cast<int>(tile.heads));
    }
    for (int64_t h = 0; h < tile.heads && count > 1; h++) {
      for (int64_t i = 0; i < count; i++) list[i] = slot_of(i, h);
      set_.merge(piece_of(tile, h), list, static_cast<int>(count));
    }
  }

  // The blocks [from, to) of a tile.
  Piece piece_between(const Tile &tile, int64_t head, int64_t from, int64_t to) const {
    Piece piece = piece_of(tile, head);
    int64_t block0 = tile.key0 / kernel_.block_keys;
    piece.key0 = most(tile.key0, (block0 + from) * kernel_.block_keys);
    piece.key1 = most(piece.key0, least(tile.key1, (block0 + to) * kernel_.block_keys));
    return piece;
  }

  // A part leaves at most two partials: of a tile that began before it, and of one that goes on after it.
  float *slot(const Line &line, int64_t part, const Tile &tile, int64_t head) const {
    int64_t which = 2 * part + (tile.start > line.begin(part));
    return slots_ + static_cast<size_t>(which * heads_at_once() + head) * slot_floats_;
  }

  void part(const Line &line, int64_t part, char *scratch) const {
    int64_t unit = line.begin(part), end = line.begin(part + 1);
    if (unit == end) return;
    for (int64_t i = line.whole ? part : line.tile_of(unit); unit < end; i++) {
      const Tile &tile = line.tiles[i];
      bool goes_on = tile.start + tile.blocks < end || (line.whole && call_.threads == 1 && i + 1 < line.tile_count);
      const Tile *then = goes_on ? &line.tiles[i + 1] : nullptr;
      int64_t stop = least(end, tile.start + tile.blocks);
      Piece pieces[MOST_HEADS];
      for (int64_t h = 0; h < tile.heads; h++) {
        Piece &piece = pieces[h] = piece_between(tile, h, unit - tile.start, stop - tile.start);
        piece.scratch = scratch;
        if (unit > tile.start || stop < tile.start + tile.blocks) piece.partial = slot(line, part, tile, h);
        if (then) piece.then = &pairs_[then->pair].keys, piece.then_key0 = then->key0, piece.then_key1 = then->key1;
      }
      kernel_.attend(pieces, static_cast<int>(tile.heads));
      unit = stop;
    }
  }

  // The tile that the cut before `part` goes through, if this is its first cut.
  void merge(const Line &line, int64_t part, const float **list) const {
    int64_t unit = line.begin(part);
    const Tile &tile = line.tiles[line.tile_of(unit)];
    if (unit == tile.start || part != line.part_of(tile.start) + 1) return;
    int64_t last = line.part_of(tile.start + tile.blocks - 1);
    for (int64_t h = 0; h < tile.heads; h++) {
      int count = 0;
      for (int64_t p = part - 1; p <= last; p++) list[count++] = slot(line, p, tile, h);
      set_.merge(piece_of(tile, h), list, count);
    }
  }

  strobe_attention &call_;
  const InstructionSet &set_;
  const Kernel &kernel_;
  Shape shape_;
  int64_t rows_;  // of the longest pair
  bool packing_ = false;
  std::unique_ptr<Pair[]> pairs_;
  std::unique_ptr<Tile[]> tiles_;
  int64_t tile_count_ = 0;
  char *packed_ = nullptr;
  float *slots_ = nullptr;
  size_t slot_floats_ = 0;
  std::unique_ptr<int64_t[]> fixed_;
  int64_t places_ = 0;  // most partials of a tile that one thread takes whole
};

}  // namespace

int32_t check_call(strobe_attention &call) { return check(call); }

void rows_and_keys(const strobe_attention &call, int64_t b, int64_t g, Rows *rows, Keys *keys) {
  Pair pair = pair_of(call, b, g);
  *rows = pair.rows, *keys = pair.keys;
}

int32_t attend(strobe_attention &call, Shape shape) {
  call.fault = {};
  if (int32_t code = check(call)) return code;
  const InstructionSet *set = instruction_set(call.isa);
  if (!set) return fail(call.fault, STROBE_BAD_ISA, 0, 0, call.isa);
  int64_t queries = call.T;
  if (call.q_offsets) {
    queries = 0;
    for (int64_t b = 0; b < call.B; b++) queries = most(queries, call.q_offsets[b + 1] - call.q_offsets[b]);
  }
  int64_t rows = queries * (call.H / call.G);
  if (call.invariant) shape = Shape::few;
  const InstructionSet *few = set;  // invariantly, one kernel, whatever the number of rows
  while (few && !few->few_takes(call, call.invariant ? 1 : rows)) few = few->below;
  while (!set->many_takes(call)) set = set->below;
  if (shape == Shape::few && few) set = few;
  if (!few) shape = Shape::many;
  try {
    return Run(call, *set, shape == Shape::few ? set->few : set->many, shape, rows).all();
  } catch (const std::bad_alloc &) {
    return STROBE_NO_MEMORY;
  }
}

}  // namespace strobe
