/* The plain C interface of the CPU room: what library.py mirrors with ctypes. No array library, no Python.
 *
 * Letters: B batch, T queries, S keys, H query heads, G key heads (G divides H), D width of a key, V width of a
 * value, P pages, Z tokens a page. Strides count elements and may be zero or negative; the last axis is contiguous.
 * Any change of a struct, a number or a meaning below raises STROBE_INTERFACE. */
#ifndef STROBE_CPU_INTERFACE_H
#define STROBE_CPU_INTERFACE_H

#include <stdint.h>

#define STROBE_INTERFACE 7

#if defined(_WIN32)
#define STROBE_EXPORT __declspec(dllexport)
#else
#define STROBE_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum strobe_isa { STROBE_SCALAR = 0, STROBE_AVX2 = 1, STROBE_AVX512 = 2, STROBE_AMX = 3, STROBE_NEON = 4 };
/* From int8 on: keys and values with scales, or (int8) weights of a linear layer. Of int4 two numbers are a byte, the even one
 * its low half; strides count bytes. */
enum strobe_dtype { STROBE_F32 = 0, STROBE_BF16 = 1, STROBE_F16 = 2, STROBE_I8 = 3, STROBE_E4M3 = 4, STROBE_E5M2 = 5, STROBE_I4 = 6 };

/* How the keys of a sequence lie:
 *   dense   [B, S, G, D], every sequence has S keys
 *   ranged  [B, S, G, D], sequence b owns keys starts[b] .. starts[b] + lengths[b]
 *   packed  [N, G, D],    sequence b owns tokens starts[b] .. starts[b + 1]; S holds N
 *   paged   [P, Z, G, D], token s of sequence b lies at table[b, s / Z], s % Z; lengths[b] tokens, at most S */
enum strobe_layout { STROBE_DENSE = 0, STROBE_RANGED = 1, STROBE_PACKED = 2, STROBE_PAGED = 3 };

enum strobe_code {
  STROBE_OK = 0,
  STROBE_BAD_STRUCT = 1, /* the caller was built for another interface */
  STROBE_BAD_ISA = 2,    /* value: the instruction set that this machine lacks */
  STROBE_BAD_DTYPE = 3,  /* value: the number that names no dtype, or a pair that does not go together */
  STROBE_BAD_SHAPE = 4,  /* a size is negative, G does not divide H, a width is not a multiple of 8 up to 576 */
  STROBE_BAD_TABLE = 5,  /* sequence, index in its table row, value: the page number that does not exist */
  STROBE_BAD_LENGTH = 6, /* sequence, value: a length or offset outside what there is */
  STROBE_NO_MEMORY = 7,
  STROBE_BAD_POSITION = 8 /* sequence, which of its new tokens, value: a position that cos and sin have no row for */
};

/* What a failing call found; all zero otherwise. */
typedef struct strobe_fault {
  int64_t sequence, index, value;
} strobe_fault;

/* A position without a bound on this side (Window(before=None)). Small enough to be added to a position. */
#define STROBE_UNBOUNDED ((int64_t)1 << 60)

/* A mask that is not an interval of keys. Strides count elements: batch, head, row, column; 0 where it is the same.
 *   documents  at: int32 ids of queries, keys: int32 ids of keys (keys_strides: batch, key); equal ids see each other
 *   blocks     at: bool of (t / rows, s / columns)
 *   tree       at: bool of (t, s - first) for the `columns` last keys; every query sees those before
 *   dense      at: bool of (t, s), rows and columns 1 */
enum strobe_mark_kind { STROBE_DOCUMENTS = 0, STROBE_BLOCKS = 1, STROBE_TREE = 2, STROBE_DENSE_MASK = 3 };
typedef struct strobe_mark {
  int32_t kind, reserved;
  const void *at, *keys;
  int64_t strides[4], keys_strides[2], rows, columns;
} strobe_mark;

#define STROBE_MARKS 4

/* What few calls have. A query sees what all marks and the interval let it see. */
typedef struct strobe_extras {
  uint32_t size, interface;
  const int32_t *prefix; /* [B] keys that every query sees, or null */
  int64_t prefix_all;    /* the same for all sequences; -1: none */
  int32_t mark_count, bias_dtype;
  strobe_mark marks[STROBE_MARKS];
  const void *bias; /* added to the scores, or null */
  int64_t bias_strides[4];
  uint64_t seed;
  uint32_t drop_below; /* 0: no dropout */
  float keep;          /* what a kept weight is multiplied by */
} strobe_extras;

typedef struct strobe_attention {
  uint32_t size, interface; /* sizeof of this struct, STROBE_INTERFACE */
  int32_t isa, threads;
  int32_t dtype, layout;
  int64_t B, T, S, H, G, D, V;
  const void *q; /* [B, T, H, D], or [N, H, D] with offsets of B + 1 entries (then T holds N) */
  const void *k, *v;
  void *out;                                                                        /* [B, T, H, V] in dtype */
  float *lse;                                                                       /* [B, T, H] natural logarithm, or null */
  int64_t q_strides[3], k_strides[3], v_strides[3], out_strides[3], lse_strides[3]; /* batch (or page), token, head; of int4: bytes */
  const int32_t *q_offsets;                                                         /* null: dense queries */
  const int32_t *starts;                                                            /* ranged, packed */
  const int32_t *lengths;                                                           /* ranged, paged */
  const int32_t *table;                                                             /* paged: [B, table_width], rows table_stride apart */
  int64_t table_stride, table_width, P, Z;
  const int32_t *first;           /* position of each sequence's first query; null: first_all or the default */
  int64_t first_all;              /* used if place_all is 1 */
  int32_t place_all;              /* 0 and first null: the last query stands at the last key */
  int32_t invariant;              /* 1: a sequence's bits depend on itself alone */
  int32_t keys_dtype, reserved;   /* of keys and values: dtype, or a narrow one whose numbers count k_scale, v_scale */
  int64_t before, after;          /* query at position p sees keys p - before .. p + after; causal is after = 0 */
  float scale, cap;               /* cap 0: no soft cap */
  const float *sink;              /* [H] or null */
  const float *slopes;            /* ALiBi slopes [B, H] or null */
  int64_t slopes_stride;          /* from a sequence to the next; 0 for [H] */
  const strobe_extras *extras;    /* or null */
  const float *k_scale, *v_scale; /* [B, S, G], packed [N, G], paged [P, Z, G] with a narrow keys_dtype, else null */
  int64_t k_scale_strides[3], v_scale_strides[3];
  strobe_fault fault;
} strobe_attention;

/* The gradients of a call whose out and lse are known. What lies as the queries do has their B, T or N. */
typedef struct strobe_gradients {
  uint32_t size, interface;
  const strobe_attention *forward; /* its out and lse are read; its fault stays as it is */
  const void *dout;                /* [B, T, H, V] in dtype */
  const float *dlse;               /* [B, T, H] or null */
  void *dq, *dk, *dv;              /* in dtype, as q, k, v; null keys' gradients are not asked for, and pages have none */
  float *delta;                    /* [B, T, H]: the sum of dout * out over V, less dlse; 0 where lse is -inf */
  float *dslope;                   /* [B, T, H]: what a row gives its ALiBi slope, or null */
  double *dbias;                   /* zeros, to which what the bias receives is added; or null */
  int64_t dbias_strides[4];        /* batch, head, row, column; 0 where all share it */
  int64_t dout_strides[3], dlse_strides[3], dq_strides[3], dk_strides[3], dv_strides[3];
  int64_t row_strides[3]; /* of delta and dslope */
  strobe_fault fault;
} strobe_gradients;

/* Writes new tokens [B, T, G, D] (or packed [N, G, D] with offsets; then T holds N): token t of T stands at
 * lengths[b] - T + t, lengths already counting the new ones. The first `rotated` numbers of each key are turned before:
 * pair c, numbers c and c + rotated / 2 (or 2c and 2c + 1), by column c of the row of the token's position. */
typedef struct strobe_append {
  uint32_t size, interface;
  int32_t isa, threads;
  int32_t from_dtype, to_dtype; /* equal, or float32 to a narrower one, or any to one with scales */
  int64_t B, T, G, D, V;
  const void *k, *v;                                                          /* new keys and values */
  void *k_pages, *v_pages;                                                    /* [P, Z, G, D], [P, Z, G, V] */
  int64_t k_strides[3], v_strides[3], k_pages_strides[3], v_pages_strides[3]; /* batch (or page), token, head */
  const int32_t *offsets;                                                     /* null: dense new tokens */
  const int32_t *table, *lengths;
  int64_t table_stride, table_width, P, Z;
  float *k_scale, *v_scale; /* [P, Z, G] where to_dtype has scales, else null */
  int64_t k_scale_strides[3], v_scale_strides[3];
  const float *cos, *sin;   /* [rows, rotated / 2], rows cos_stride, sin_stride apart; null without rows */
  const int32_t *positions; /* of the new tokens, [B, T] or packed [N]; null: their places in their sequences */
  int64_t cos_stride, sin_stride, positions_stride, rows, rotated; /* rotated 0: keys stay as they are */
  int32_t interleaved, reserved;
  strobe_fault fault;
} strobe_append;

/* Merges two states over [B, T, H]: out = (e^lse_a out_a + e^lse_b out_b) / (e^lse_a + e^lse_b). */
typedef struct strobe_merge {
  uint32_t size, interface;
  int32_t isa, threads;
  int32_t dtype, reserved;
  int64_t B, T, H, V;
  const void *out_a, *out_b;
  const float *lse_a, *lse_b;
  void *out;
  float *lse;
  int64_t out_a_strides[3], out_b_strides[3], out_strides[3];
  int64_t lse_a_strides[3], lse_b_strides[3], lse_strides[3];
  strobe_fault fault;
} strobe_merge;

/* y = x Wᵀ + bias for 1 to 16 rows: x [M, K] rows x_stride apart, W [N, K] and y [M, N] contiguous, bias [N] or null, all of
 * dtype. Or W in int8, and row n of it counts scales[n]. */
typedef struct strobe_linear_call {
  uint32_t size, interface;
  int32_t isa, threads;
  int32_t dtype, weights_dtype;
  int64_t M, N, K, x_stride;
  const void *x, *weights;
  const float *scales; /* [N] with int8 weights, else null */
  const void *bias;
  void *y;
  strobe_fault fault;
} strobe_linear_call;

STROBE_EXPORT int32_t strobe_interface(void);       /* STROBE_INTERFACE of the library */
STROBE_EXPORT const char *strobe_source_hash(void); /* of the C++ sources it was built from */
STROBE_EXPORT int32_t strobe_best_isa(void);        /* the best instruction set that runs here */
STROBE_EXPORT int32_t strobe_has_isa(int32_t isa);
STROBE_EXPORT int32_t strobe_has_threads(void); /* 0 where it was built without OpenMP */

STROBE_EXPORT int32_t strobe_forward(strobe_attention *call); /* many queries */
STROBE_EXPORT int32_t strobe_decode(strobe_attention *call);  /* few queries: T * H / G rows of one tile */
STROBE_EXPORT int32_t strobe_backward(strobe_gradients *call);
STROBE_EXPORT int32_t strobe_append_tokens(strobe_append *call);
STROBE_EXPORT int32_t strobe_merge_states(strobe_merge *call);
STROBE_EXPORT int32_t strobe_linear(strobe_linear_call *call);

#ifdef __cplusplus
}
#endif
#endif
