// Gradients. A call becomes pairs (sequence, key head), and a pair with much of the work is cut into ranges of keys. A range
// owns dK and dV of its keys; what it adds to dQ is a share, and shares are added in the order of their keys. Cuts depend
// on the problem and the thread count alone, so the same plan gives the same bits.
#include <memory>
#include <new>
#include <vector>

#include "check.hpp"
#include "gradients.hpp"
#include "schedule.hpp"
#include "threads.hpp"

namespace strobe {
namespace {

constexpr int64_t RANGES_PER_THREAD = 2;  // under a causal mask early keys have more work: the first and the last range even out
constexpr int64_t ROWS_AT_ONCE = 192;     // of the steps before and after the keys; a multiple of every kernel's rows

struct Range {
  int64_t pair, key0, key1;
  bool whole;    // all keys of the pair: its share is dQ, and needs no place of its own
  size_t share;  // else where it lies
};
struct BiasPart {  // of the bias; what all share is in every part
  int64_t b0, b1, g0, g1, t0, t1, key0, key1;
};
struct Shared {
  int64_t pair, first, last;  // the ranges of a pair that was cut
};

class Backward {
 public:
  Backward(const strobe_gradients &call, const strobe_attention &forward, const BackwardKernel &kernel)
      : call_(call), forward_(forward), kernel_(kernel) {}

  int32_t all() {
    for (int64_t i = 0; i < forward_.B * forward_.G; i++) pairs_.push_back(pair_of(i / forward_.G, i % forward_.G));
    cut();
    cut_bias();
    char *shares = shared_scratch().reserve(share_bytes_);
    if (!shares) return STROBE_NO_MEMORY;
    int64_t count = static_cast<int64_t>(pairs_.size()), steps = (longest_ + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    size_t own = round_up(static_cast<int64_t>(kernel_.scratch_bytes(forward_)), 64);
    std::atomic<int32_t> code{STROBE_OK};
    Counter before(count * steps), ranges(static_cast<int64_t>(ranges_.size())), after(static_cast<int64_t>(cut_.size()) * steps),
        biased(static_cast<int64_t>(bias_.size()));
    int team = static_cast<int>(least(team_size(forward_.threads), most(1, static_cast<int64_t>(ranges_.size()))));
    auto work_on = [&](auto barrier) {
      FlushSubnormals mode;
      char *scratch = thread_scratch().reserve(own + kernel_.share_bytes(forward_, longest_));
      if (!scratch) code = STROBE_NO_MEMORY;
      int64_t i;
      while (scratch && before.take(&i)) deltas(pairs_[i / steps], i % steps);
      barrier();
      while (scratch && ranges.take(&i)) take(ranges_[i], shares, scratch, scratch + own);
      while (scratch && biased.take(&i)) add_bias(bias_[i], scratch);
      barrier();
      while (scratch && after.take(&i)) sum(cut_[i / steps], i % steps, shares, scratch);
      thread_scratch().trim();
    };
    if (team == 1) {
      work_on([] {});
    } else {
#pragma omp parallel num_threads(team)
      work_on([] {
#pragma omp barrier
      });
    }
    shared_scratch().trim();
    return code;
  }

 private:
  GradientPair pair_of(int64_t b, int64_t g) const {
    const strobe_attention &f = forward_;
    GradientPair pair{};
    pair.call = &f;
    rows_and_keys(f, b, g, &pair.rows, &pair.keys);
    int64_t bytes = dtype_bytes(f.dtype), sequence = f.q_offsets ? 0 : b, token = f.q_offsets ? f.q_offsets[b] : 0;
    auto side = [&](void *p, const int64_t *strides, int64_t size) -> QuerySide {
      if (!p) return {nullptr, 0, 0};
      int64_t at = sequence * strides[0] + token * strides[1] + pair.rows.head * strides[2];
      return {static_cast<char *>(p) + at * size, strides[1] * size, strides[2] * size};
    };
    pair.dout = side(const_cast<void *>(call_.dout), call_.dout_strides, bytes);
    pair.dlse = side(const_cast<float *>(call_.dlse), call_.dlse_strides, sizeof(float));
    pair.dq = side(call_.dq, call_.dq_strides, bytes);
    pair.delta = side(call_.delta, call_.row_strides, sizeof(float));
    pair.dslope = side(call_.dslope, call_.row_strides, sizeof(float));
    int64_t start = f.layout == STROBE_RANGED || f.layout == STROBE_PACKED ? f.starts[b] : 0;
    auto keys = [&](void *p, const int64_t *strides) {
      return p ? static_cast<char *>(p) + (b * strides[0] + start * strides[1] + g * strides[2]) * bytes : nullptr;
    };
    pair.dk = keys(call_.dk, call_.dk_strides), pair.dk_token = call_.dk_strides[1] * bytes;
    pair.dbias = call_.dbias, pair.dbias_strides = call_.dbias_strides;
    pair.dv = keys(call_.dv, call_.dv_strides), pair.dv_token = call_.dv_strides[1] * bytes;
    return pair;
  }

  // Pairs of rows and keys that see each other, within a sub-block's rounding.
  int64_t work_of(const GradientPair &pair) const {
    int64_t work = 1;
    for (int64_t row = 0; row < pair.rows.count; row += kernel_.rows) {
      int64_t lo, hi, ignored;
      visible(forward_, pair.rows, pair.keys.count, row_at(pair.rows, row).t, &lo, &ignored);
      visible(forward_, pair.rows, pair.keys.count, row_at(pair.rows, least(row + kernel_.rows, pair.rows.count) - 1).t, &ignored, &hi);
      work += kernel_.rows * most(0, hi - lo);
    }
    return work;
  }

  void cut() {
    int64_t all = 0, threads = forward_.threads;
    std::vector<int64_t> work;
    for (const GradientPair &pair : pairs_) work.push_back(work_of(pair)), all += work.back(), longest_ = most(longest_, pair.rows.count);
    for (size_t i = 0; i < pairs_.size(); i++) {
      int64_t count = pairs_[i].keys.count, chunks = most(1, (count + kernel_.keys - 1) / kernel_.keys);
      bool long_one = threads > 1 && work[i] * RANGES_PER_THREAD * threads > all;
      int64_t parts = long_one ? clamp((work[i] * RANGES_PER_THREAD * threads + all - 1) / all, 1, chunks) : 1;
      int64_t first = static_cast<int64_t>(ranges_.size());
      for (int64_t p = 0; p < parts; p++) {
        int64_t key0 = chunks * p / parts * kernel_.keys, key1 = least(count, chunks * (p + 1) / parts * kernel_.keys);
        ranges_.push_back({static_cast<int64_t>(i), key0, key1, parts == 1, share_bytes_});
        if (parts > 1) share_bytes_ += kernel_.share_bytes(forward_, pairs_[i].rows.count);
      }
      if (parts > 1) cut_.push_back({static_cast<int64_t>(i), first, static_cast<int64_t>(ranges_.size())});
    }
  }

  // Parts that share no number of the bias, so that each is one thread's.
  void cut_bias() {
    if (!call_.dbias) return;
    const int64_t *own = call_.dbias_strides;
    int64_t group = forward_.G ? forward_.H / forward_.G : 1, keys = 0, queries = longest_ / most(1, group);
    for (const GradientPair &pair : pairs_) keys = most(keys, pair.keys.count);
    int64_t by_b = own[0] ? 1 : forward_.B, by_g = own[1] ? 1 : forward_.G, by_t = own[2] ? most(1, ROWS_AT_ONCE / group) : queries,
            by_key = own[3] ? kernel_.keys : keys;
    for (int64_t b = 0; b < forward_.B; b += by_b)
      for (int64_t g = 0; g < forward_.G; g += by_g)
        for (int64_t t = 0; t < queries; t += by_t)
          for (int64_t key = 0; key < keys; key += by_key) bias_.push_back({b, b + by_b, g, g + by_g, t, t + by_t, key, key + by_key});
  }

  void add_bias(const BiasPart &part, char *scratch) const {
    for (int64_t b = part.b0; b < part.b1; b++)
      for (int64_t g = part.g0; g < part.g1; g++) {
        const GradientPair &pair = pairs_[b * forward_.G + g];
        kernel_.add_bias(pair, part.t0 * pair.rows.group, part.t1 * pair.rows.group, part.key0, part.key1, scratch);
      }
  }

  void deltas(const GradientPair &pair, int64_t step) const {
    int64_t row0 = step * ROWS_AT_ONCE, row1 = least(pair.rows.count, row0 + ROWS_AT_ONCE);
    if (row0 < row1) kernel_.deltas(pair, row0, row1);
  }

  void take(const Range &range, char *shares, char *scratch, char *own_share) const {
    const GradientPair &pair = pairs_[range.pair];
    char *share = range.whole ? own_share : shares + range.share;
    kernel_.take_keys(pair, range.key0, range.key1, share, scratch);
    if (range.whole) kernel_.sum_shares(pair, &share, 1, 0, pair.rows.count, scratch);
  }

  void sum(const Shared &cut, int64_t step, const char *shares, char *scratch) const {
    const GradientPair &pair = pairs_[cut.pair];
    int64_t row0 = step * ROWS_AT_ONCE, row1 = least(pair.rows.count, row0 + ROWS_AT_ONCE);
    std::vector<const char *> list;
    for (int64_t i = cut.first; i < cut.last; i++) list.push_back(shares + ranges_[i].share);
    if (row0 < row1) kernel_.sum_shares(pair, list.data(), static_cast<int>(list.size()), row0, row1, scratch);
  }

  const strobe_gradients &call_;
  const strobe_attention &forward_;
  const BackwardKernel &kernel_;
  std::vector<GradientPair> pairs_;
  std::vector<Range> ranges_;
  std::vector<Shared> cut_;
  std::vector<BiasPart> bias_;
  int64_t longest_ = 0;
  size_t share_bytes_ = 0;
};

}  // namespace
}  // namespace strobe

extern "C" int32_t strobe_backward(strobe_gradients *call) {
  using namespace strobe;
  call->fault = {};
  if (call->size != sizeof *call || call->interface != STROBE_INTERFACE) return STROBE_BAD_STRUCT;
  strobe_attention forward = *call->forward;
  int32_t code = check_call(forward);
  call->fault = forward.fault;
  if (code) return code;
  if (scaled(forward)) return fail(call->fault, STROBE_BAD_DTYPE, 0, 0, forward.keys_dtype);
  const InstructionSet *set = instruction_set(forward.isa);
  if (!set) return fail(call->fault, STROBE_BAD_ISA, 0, 0, forward.isa);
  while (!set->backward || !set->backward->takes(forward)) set = set->below;
  try {
    return Backward(*call, forward, *set->backward).all();
  } catch (const std::bad_alloc &) {
    return STROBE_NO_MEMORY;
  }
}
