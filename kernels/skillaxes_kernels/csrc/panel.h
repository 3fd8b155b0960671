/* What a panel is, and how its entries become centred float32 numbers: the same for every instruction set.

   y = (x - shift) * scale - after, in float32; scale and after may be absent. Rows are reached by pointers, so a panel
   may lie in pieces, and a row that does not count may point at zeros.

   Shapes: b rows, d columns, l directions, padded to a multiple of 16. After the b pointers come others, up to a
   multiple of ROOM, to rows that do no harm: what is made of them is not used. */

#ifndef SKILLAXES_PANEL_H
#define SKILLAXES_PANEL_H

#include <stdint.h>

#define ROOM    64
#define LARGEST 256 /* rows of a piece, at most */

enum dtype { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };

typedef struct {
    const void *const *rows; /* pointers to d entries each */
    int64_t b, d;
    int64_t dtype;
    const float *shift; /* d */
    const float *scale; /* d, or NULL */
    const float *after; /* d, or NULL; only with scale */
} panel_t;

/* One kind of product. Work is taken in pieces from a counter that the threads of a call share, so a thread whose core
   is busy elsewhere does less of it; a piece's result does not depend on who computes it.

   project: dots (b, l_padded) = y @ directions, and |y|^2 in double (b) unless sq_norms is NULL. A piece has ``piece``
   rows, a multiple of 16, at most LARGEST.

   accumulate: z (l, d), rows ldz apart, += weights^T @ y.

   terms: with amx, bfloat16 terms of 8 bits each that count: 2 or 3 of directions, 1 to 3 of both operands of a sum. */
typedef struct {
    int64_t (*packed_directions_bytes)(int64_t d, int64_t l_padded, int64_t terms);
    void (*pack_directions)(const float *directions, int64_t d, int64_t l, int64_t l_padded, int64_t terms,
                            void *packed, int64_t *counter);
    int64_t (*packed_weights_bytes)(int64_t b, int64_t l_padded, int64_t terms);
    void (*pack_weights)(const float *weights, int64_t stride, int64_t b, int64_t l, int64_t l_padded, int64_t terms,
                         void *packed);
    void (*project)(const panel_t *panel, const void *packed, int64_t l_padded, int64_t terms, float *dots,
                    double *sq_norms, int64_t piece, int64_t *counter);
    void (*accumulate)(const panel_t *panel, const void *packed, int64_t l, int64_t l_padded, int64_t terms, float *z,
                       int64_t ldz, int64_t *counter);
} products_t;

extern const products_t products_avx512, products_amx;

/* Sums (d) of the rows as they are stored. */
void column_sums_avx512(const panel_t *panel, double *sums, int64_t *counter);

/* |y|^2 of groups of columns, (b, n_groups); ends (n_groups) says where each group ends. */
void sq_norms_avx512(const panel_t *panel, const int64_t *ends, int64_t n_groups, double *sq_norms, int64_t *counter);

static inline int64_t take(int64_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t blocks(int64_t n, int64_t block) { return (n + block - 1) / block; }

#endif
