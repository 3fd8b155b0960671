/* Sixteen centred entries of a row, in AVX-512. */

#ifndef SKILLAXES_CENTRED_H
#define SKILLAXES_CENTRED_H

#include "panel.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* Entries c to c + 15 of a row as they are stored, those beyond the mask 0. */
INLINE __m512 stored16(int dtype, const void *row, int64_t c, __mmask16 mask) {
    if (dtype == FLOAT32) return _mm512_maskz_loadu_ps(mask, (const float *)row + c);
    __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)row + c);
    if (dtype == FLOAT16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE int64_t size_of(int dtype) { return dtype == FLOAT32 ? 4 : 2; }

/* Asks for n entries from c on to come to the second cache; harmless beyond the row's end. */
INLINE void fetch(int dtype, const void *row, int64_t c, int64_t n) {
    const char *at = (const char *)row + c * size_of(dtype);
    for (int64_t i = 0; i < n * size_of(dtype); i += 64) _mm_prefetch(at + i, _MM_HINT_T1);
}

/* The same, centred; ``scaled`` is a constant wherever this is called. Entries beyond the mask are 0. */
INLINE __m512 centred16(const panel_t *p, int dtype, int scaled, const void *row, int64_t c, __mmask16 mask) {
    __m512 y = stored16(dtype, row, c, mask);
    y = _mm512_sub_ps(y, _mm512_maskz_loadu_ps(mask, p->shift + c));
    if (scaled) {
        y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(mask, p->scale + c));
        if (p->after) y = _mm512_sub_ps(y, _mm512_maskz_loadu_ps(mask, p->after + c));
    }
    return y;
}

INLINE __mmask16 mask_of(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1); }

/* Calls body(dtype, scaled) with constants, so that each combination is compiled for itself. */
#define FOR_EACH_KIND(panel, BODY)                                                                                     \
    do {                                                                                                               \
        int scaled_ = (panel)->scale != 0;                                                                             \
        if ((panel)->dtype == FLOAT16) {                                                                               \
            if (scaled_) {                                                                                             \
                BODY(FLOAT16, 1);                                                                                      \
            } else {                                                                                                   \
                BODY(FLOAT16, 0);                                                                                      \
            }                                                                                                          \
        } else if ((panel)->dtype == BFLOAT16) {                                                                       \
            if (scaled_) {                                                                                             \
                BODY(BFLOAT16, 1);                                                                                     \
            } else {                                                                                                   \
                BODY(BFLOAT16, 0);                                                                                     \
            }                                                                                                          \
        } else {                                                                                                       \
            if (scaled_) {                                                                                             \
                BODY(FLOAT32, 1);                                                                                      \
            } else {                                                                                                   \
                BODY(FLOAT32, 0);                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

#endif
