/* Products on the matrix tiles of AMX, which multiply bfloat16 and sum in float32.

   A float32 number is the exact sum of three bfloat16 numbers (8 + 8 + 8 bits): top, middle, bottom. Products of such
   terms are exact, so y @ w summed over the pairs of terms whose size is above 2^-24 is float32's product: Henry, Tang
   & Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations". Here
   the terms of rows are cut off where that is exact, which needs no conversion instructions. Directions that have 16
   bits (two terms) need five tile products instead of six and lose nothing.

   Both products work in blocks that fit the innermost cache. While the tiles multiply one, the next is converted and
   later ones are fetched from memory: parts of the core that would otherwise wait for each other. */

#ifndef SKILLAXES_AMX_H
#define SKILLAXES_AMX_H

#include <string.h>
#include "centred.h"

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

/* The tile instructions read memory behind the compiler's back. */
#define WRITTEN() __asm__ volatile("" ::: "memory")

/* The top term is y with its lower half cleared; the rest is exact. */
INLINE __m512 top(__m512 y) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(y), _mm512_set1_epi32((int)0xffff0000)));
}

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline void terms_of(float x, int64_t terms, uint16_t out[TERMS]) {
    for (int t = 0; t < terms; t++) {
        uint32_t head = (bits_of(x) + 0x8000u) & 0xffff0000u;
        float value;
        memcpy(&value, &head, 4);
        out[t] = (uint16_t)(head >> 16);
        x -= value;
    }
}

/* Tiles 0 to 2 hold sums, 4 to 6 an operand that is used several times, 3 and 7 the other one. */
#define EACH(OP, FIRST, SECOND, THIRD, AT, STRIDE)                                                                     \
    do {                                                                                                               \
        OP(FIRST, AT, STRIDE);                                                                                         \
        if (n > 1) OP(SECOND, (AT) + TILE_OF(AT), STRIDE);                                                             \
        if (n > 2) OP(THIRD, (AT) + 2 * TILE_OF(AT), STRIDE);                                                          \
    } while (0)
#define TILE_OF(AT) (1024 / (int64_t)sizeof *(AT))

int64_t packed_directions_bytes_amx(int64_t d, int64_t l_padded, int64_t terms);
void pack_directions_amx(const float *directions, int64_t d, int64_t l, int64_t l_padded, int64_t terms, void *packed,
                         int64_t *counter);
void project_amx(const panel_t *panel, const void *packed, int64_t l_padded, int64_t terms, float *dots,
                 double *sq_norms, int64_t *counter);
int64_t packed_weights_bytes_amx(int64_t b, int64_t l_padded, int64_t terms);
void pack_weights_amx(const float *weights, int64_t stride, int64_t b, int64_t l, int64_t l_padded, int64_t terms,
                      void *packed);
void accumulate_amx(const panel_t *panel, const void *packed, int64_t l, int64_t l_padded, int64_t terms, float *z,
                    int64_t ldz, int64_t *counter);

#endif
