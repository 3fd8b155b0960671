/* Products on the matrix tiles of AMX, which multiply bfloat16 and sum in float32.

   A float32 number is the exact sum of three bfloat16 numbers (8 + 8 + 8 bits): top, middle, bottom. Products of such
   terms are exact, so y @ w summed over the pairs of terms whose size is above 2^-24 is float32's product: Henry, Tang
   & Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations". Here
   the terms of rows are cut off where that is exact, which needs no conversion instructions. Directions that have 16
   bits (two terms) need five tile products instead of six and lose nothing.

   Both products work in blocks that fit the innermost cache. While the tiles multiply one, the next is converted and
   later ones are fetched from memory: parts of the core that would otherwise wait for each other. The processor
   overlaps what lies within a few hundred instructions of each other, so a few rows are converted after each group of
   tile products, in one stretch of code for each kind of panel. */

#ifndef SKILLAXES_AMX_H
#define SKILLAXES_AMX_H

#include "centred.h"
#include <string.h>

#define STEP  32  /* entries of the summed axis in a tile */
#define TILE  512 /* bfloat16 numbers in a tile of 16 x 32 */
#define SUMS  256 /* float32 numbers in a tile of 16 x 16 */
#define TERMS 3
/* bfloat16 numbers from one row of a converted tile to the next: the block under way and the next one share the lines
   between them, so that none stores where the other loads, modulo 4 KiB */
#define LINE  64
#define GROUP 3 /* tiles of directions that are summed at once */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) tile_config_t;

static inline void configure(void) {
    tile_config_t config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) config.rows[i] = 16, config.bytes[i] = 64;
    _tile_loadconfig(&config);
}

/* The tile instructions read memory behind the compiler's back, and conversions are to stay between them. */
#define WRITTEN() __asm__ volatile("" ::: "memory")

/* The top term is y with its lower half cleared; the rest is exact. */
INLINE __m512 top(__m512 y) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(y), _mm512_set1_epi32((int)0xffff0000)));
}

/* The conversions between tile products lie in one stretch of code: before a loop of few turns. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* Two vectors' terms side by side: low halves from a, high halves from b. */
INLINE __m512i paired(__m512 a, __m512 b) {
    __m512i low = _mm512_srli_epi32(_mm512_castps_si512(a), 16);
    return _mm512_ternarylogic_epi32(low, _mm512_castps_si512(b), _mm512_set1_epi32((int)0xffff0000),
                                     0xf8 /* low | (b & mask) */);
}

/* To nearest, where it is cut off next. */
INLINE __m512 rounded(__m512 y) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(y), _mm512_set1_epi32(0x8000)));
}

/* out[t * stride]: term t of a, beside term t of b. As many terms as are asked for; two or one are rounded each: what
   is left out has any sign, where truncation would leave out a little of the same sign in every product. */
INLINE void store_terms(__m512 a, __m512 b, int terms, int exact, uint16_t *out, int64_t stride) {
    for (int t = 0; t < terms; t++) {
        __m512 x = exact ? a : rounded(a), y = exact ? b : rounded(b);
        _mm512_store_si512(out + t * stride, paired(x, y));
        a = _mm512_sub_ps(a, top(x));
        b = _mm512_sub_ps(b, top(y));
    }
}

/* n tiles that lie after one another, in the registers FIRST, SECOND and THIRD. */
#define EACH(OP, FIRST, SECOND, THIRD, AT)                                                                             \
    do {                                                                                                               \
        OP(FIRST, AT, 64);                                                                                             \
        if (n > 1) OP(SECOND, (AT) + 1024 / sizeof *(AT), 64);                                                         \
        if (n > 2) OP(THIRD, (AT) + 2 * 1024 / sizeof *(AT), 64);                                                      \
    } while (0)

/* For each kind of panel: DEFINE(dtype, scaled), and a table [scaled][dtype] of FUNCTION(dtype, scaled). */
#define EACH_KIND(DEFINE)                                                                                              \
    DEFINE(FLOAT32, 0) DEFINE(FLOAT16, 0) DEFINE(BFLOAT16, 0) DEFINE(FLOAT32, 1) DEFINE(FLOAT16, 1) DEFINE(BFLOAT16, 1)
#define FOR_KINDS(FUNCTION)                                                                                            \
    {                                                                                                                  \
        {FUNCTION(FLOAT32, 0), FUNCTION(FLOAT16, 0), FUNCTION(BFLOAT16, 0)}, {                                         \
            FUNCTION(FLOAT32, 1), FUNCTION(FLOAT16, 1), FUNCTION(BFLOAT16, 1)                                          \
        }                                                                                                              \
    }

int64_t packed_directions_bytes_amx(int64_t d, int64_t l_padded, int64_t terms);
void pack_directions_amx(const float *directions, int64_t d, int64_t l, int64_t l_padded, int64_t terms, void *packed,
                         int64_t *counter);
void project_amx(const panel_t *panel, const void *packed, int64_t l_padded, int64_t terms, float *dots,
                 double *sq_norms, int64_t piece, int64_t *counter);
int64_t packed_weights_bytes_amx(int64_t b, int64_t l_padded, int64_t terms);
void pack_weights_amx(const float *weights, int64_t stride, int64_t b, int64_t l, int64_t l_padded, int64_t terms,
                      void *packed);
void accumulate_amx(const panel_t *panel, const void *packed, int64_t l, int64_t l_padded, int64_t terms, float *z,
                    int64_t ldz, int64_t *counter);

#endif
