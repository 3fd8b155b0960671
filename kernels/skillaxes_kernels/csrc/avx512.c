/* Products by fused multiply-adds of AVX-512, in float32 throughout. */

#include "centred.h"
#include <string.h>

#define ROWS 8 /* rows whose dots are summed at once */
#define GROUP                                                                                                          \
    3 /* vectors of 16 directions that are summed at once: 8 x 3 sums, 3 directions, 1 entry: 28 registers             \
       */
#define DEEP   256 /* columns whose centred rows lie in the innermost cache at once, in project */
#define STRIP  48  /* columns that are summed at once, in accumulate: 8 directions x 3 vectors */
#define STRIPS 4
#define TALL   64 /* rows whose centred entries lie in the inner caches at once, in accumulate */
#define LANES  8  /* directions that are summed at once, in accumulate */
#define SPAN   2048 /* columns that are summed at once where the rows themselves are */
#define MOST   96 /* directions whose sums are kept at once, in accumulate */

static int64_t packed_directions_bytes(int64_t d, int64_t l_padded, int64_t terms) {
    (void)terms;
    return d * l_padded * 4;
}

static void pack_directions(const float *directions, int64_t d, int64_t l, int64_t l_padded, int64_t terms,
                            void *packed, int64_t *counter) {
    float *out = packed;
    (void)terms;
    for (int64_t k0; (k0 = take(counter) * DEEP) < d;)
        for (int64_t k = k0; k < least(k0 + DEEP, d); k++) {
            memcpy(out + k * l_padded, directions + k * l, (size_t)l * 4);
            memset(out + k * l_padded + l, 0, (size_t)(l_padded - l) * 4);
        }
}

static int64_t packed_weights_bytes(int64_t b, int64_t l_padded, int64_t terms) {
    (void)terms;
    return b * l_padded * 4;
}

static void pack_weights(const float *weights, int64_t stride, int64_t b, int64_t l, int64_t l_padded, int64_t terms,
                         void *packed) {
    float *out = packed;
    (void)terms;
    for (int64_t r = 0; r < b; r++) {
        memcpy(out + r * l_padded, weights + r * stride, (size_t)l * 4);
        memset(out + r * l_padded + l, 0, (size_t)(l_padded - l) * 4);
    }
}

/* Centred entries of 8 rows, those beyond the panel's last repeating it; the next 8 rows' are fetched. */
INLINE void convert_rows(const panel_t *p, int dtype, int scaled, int64_t r0, int64_t c0, int64_t width,
                         float (*y)[DEEP], double *sums) {
    for (int r = 0; r < ROWS; r++) {
        const void *row = p->rows[least(r0 + r, p->b - 1)], *ahead = p->rows[least(r0 + r + ROWS, p->b - 1)];
        __m512 squares = _mm512_setzero_ps();
        int64_t c = 0;
        for (; c + 32 <= width; c += 32) {
            fetch(dtype, ahead, c0 + c, 32);
            for (int i = 0; i < 32; i += 16) {
                __m512 x = centred16(p, dtype, scaled, row, c0 + c + i, 0xffff);
                squares = _mm512_fmadd_ps(x, x, squares);
                _mm512_store_ps(y[r] + c + i, x);
            }
        }
        for (; c < width; c += 16) {
            __m512 x = centred16(p, dtype, scaled, row, c0 + c, mask_of(width - c));
            squares = _mm512_fmadd_ps(x, x, squares);
            _mm512_store_ps(y[r] + c, x);
        }
        if (sums) sums[r] += (double)_mm512_reduce_add_ps(squares);
    }
}

/* dots of 8 rows with n vectors of directions, over the columns in y. */
INLINE void multiply(const float (*y)[DEEP], int64_t width, const float *packed, int64_t l_padded, int n, float *dots) {
    __m512 sum[ROWS][GROUP];
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < n; j++) sum[r][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < width; k++, packed += l_padded) {
        __m512 w[GROUP];
        for (int j = 0; j < n; j++) w[j] = _mm512_loadu_ps(packed + 16 * j);
        for (int r = 0; r < ROWS; r++) {
            __m512 x = _mm512_set1_ps(y[r][k]);
            for (int j = 0; j < n; j++) sum[r][j] = _mm512_fmadd_ps(x, w[j], sum[r][j]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < n; j++) {
            float *at = dots + r * l_padded + 16 * j;
            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), sum[r][j]));
        }
}

INLINE void project_kind(const panel_t *p, int dtype, int scaled, const float *packed, int64_t l_padded, float *dots,
                         double *sq_norms, int64_t piece, int64_t *counter, float (*y)[DEEP]) {
    int64_t vectors = l_padded / 16;
    for (int64_t first; (first = take(counter) * piece) < p->b;) {
        int64_t last = least(first + piece, p->b);
        double sums[LARGEST] = {0};
        memset(dots + first * l_padded, 0, (size_t)(blocks(last - first, ROWS) * ROWS * l_padded * 4));
        for (int64_t c0 = 0; c0 < p->d; c0 += DEEP) {
            int64_t width = least(DEEP, p->d - c0);
            for (int64_t r0 = first; r0 < last; r0 += ROWS) {
                convert_rows(p, dtype, scaled, r0, c0, width, y, sq_norms ? sums + (r0 - first) : 0);
                for (int64_t j = 0; j < vectors; j += GROUP) {
                    const float *at = packed + c0 * l_padded + 16 * j;
                    float *mine = dots + r0 * l_padded + 16 * j;
                    int64_t n = least(GROUP, vectors - j);
                    if (n == 3) multiply(y, width, at, l_padded, 3, mine);
                    else if (n == 2) multiply(y, width, at, l_padded, 2, mine);
                    else multiply(y, width, at, l_padded, 1, mine);
                }
            }
        }
        if (sq_norms) memcpy(sq_norms + first, sums, (size_t)(last - first) * 8);
    }
}

static void project(const panel_t *p, const void *packed, int64_t l_padded, int64_t terms, float *dots,
                    double *sq_norms, int64_t piece, int64_t *counter) {
    float y[ROWS][DEEP] __attribute__((aligned(64)));
    (void)terms;
#define BODY(DTYPE, SCALED) project_kind(p, DTYPE, SCALED, packed, l_padded, dots, sq_norms, piece, counter, y)
    FOR_EACH_KIND(p, BODY);
#undef BODY
}

/* 8 directions x 48 columns of sums += those over the rows in y. */
INLINE void sum_up(const float (*y)[STRIP], int64_t n_rows, const float *w, int64_t l_padded, float (*sums)[STRIP]) {
    __m512 sum[LANES][3];
    for (int i = 0; i < LANES; i++)
        for (int v = 0; v < 3; v++) sum[i][v] = _mm512_setzero_ps();
    for (int64_t r = 0; r < n_rows; r++, w += l_padded) {
        __m512 x[3];
        for (int v = 0; v < 3; v++) x[v] = _mm512_load_ps(y[r] + 16 * v);
        for (int i = 0; i < LANES; i++) {
            __m512 weight = _mm512_set1_ps(w[i]);
            for (int v = 0; v < 3; v++) sum[i][v] = _mm512_fmadd_ps(weight, x[v], sum[i][v]);
        }
    }
    for (int i = 0; i < LANES; i++)
        for (int v = 0; v < 3; v++) {
            float *at = sums[i] + 16 * v;
            _mm512_store_ps(at, _mm512_add_ps(_mm512_load_ps(at), sum[i][v]));
        }
}

/* Centred entries of some rows by strips of columns; the rows below are fetched. */
INLINE void convert_strips(const panel_t *p, int dtype, int scaled, int64_t r0, int64_t n_rows, int64_t c0,
                           int64_t width, float (*y)[TALL][STRIP]) {
    for (int64_t r = 0; r < n_rows; r++) {
        const void *row = p->rows[r0 + r];
        fetch(dtype, p->rows[least(r0 + r + TALL, p->b - 1)], c0, width);
        if (width == STRIP * STRIPS)
            for (int64_t c = 0; c < STRIP * STRIPS; c += 16)
                _mm512_store_ps(&y[c / STRIP][r][c % STRIP], centred16(p, dtype, scaled, row, c0 + c, 0xffff));
        else
            for (int64_t c = 0; c < STRIP * STRIPS; c += 16)
                _mm512_store_ps(&y[c / STRIP][r][c % STRIP],
                                centred16(p, dtype, scaled, row, c0 + c, mask_of(width - c)));
    }
}

/* Sums are built beside z and join it once a panel: rows of z lie a power of two apart, in the same places of a cache.
 */
INLINE void accumulate_kind(const panel_t *p, int dtype, int scaled, const float *w, int64_t l, int64_t l_padded,
                            float *z, int64_t ldz, int64_t *counter, float (*y)[TALL][STRIP],
                            float (*sums)[MOST][STRIP]) {
    int64_t wide = STRIP * STRIPS;
    for (int64_t block; (block = take(counter)) < blocks(p->d, wide);) {
        int64_t c0 = block * wide, width = least(wide, p->d - c0);
        for (int64_t j = 0; j < l; j += MOST) {
            int64_t some = least(MOST, l - j);
            memset(sums, 0, sizeof *sums * STRIPS);
            for (int64_t r0 = 0; r0 < p->b; r0 += TALL) {
                int64_t n_rows = least(TALL, p->b - r0);
                convert_strips(p, dtype, scaled, r0, n_rows, c0, width, y);
                for (int64_t strip = 0; strip < blocks(width, STRIP); strip++)
                    for (int64_t i = 0; i < some; i += LANES)
                        sum_up(y[strip], n_rows, w + r0 * l_padded + j + i, l_padded, sums[strip] + i);
            }
            for (int64_t i = 0; i < some; i++)
                for (int64_t c = 0; c < width; c += 16) {
                    float *at = z + (j + i) * ldz + c0 + c;
                    __mmask16 mask = mask_of(width - c);
                    __m512 sum = _mm512_load_ps(&sums[c / STRIP][i][c % STRIP]);
                    _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sum));
                }
        }
    }
}

static void accumulate(const panel_t *p, const void *w, int64_t l, int64_t l_padded, int64_t terms, float *z,
                       int64_t ldz, int64_t *counter) {
    float y[STRIPS][TALL][STRIP] __attribute__((aligned(64)));
    float sums[STRIPS][MOST][STRIP] __attribute__((aligned(64)));
    (void)terms;
#define BODY(DTYPE, SCALED) accumulate_kind(p, DTYPE, SCALED, w, l, l_padded, z, ldz, counter, y, sums)
    FOR_EACH_KIND(p, BODY);
#undef BODY
}

const products_t products_avx512 = {
    packed_directions_bytes, pack_directions, packed_weights_bytes, pack_weights, project, accumulate};

INLINE void column_sums_kind(const panel_t *p, int dtype, double *sums, int64_t *counter) {
    for (int64_t c0; (c0 = take(counter) * SPAN) < p->d;) {
        int64_t width = least(SPAN, p->d - c0);
        memset(sums + c0, 0, (size_t)width * 8);
        for (int64_t r0 = 0; r0 < p->b; r0 += TALL) {
            float part[SPAN] __attribute__((aligned(64))) = {0};
            for (int64_t r = r0; r < least(r0 + TALL, p->b); r++)
                for (int64_t c = 0; c < width; c += 16) {
                    __m512 x = stored16(dtype, p->rows[r], c0 + c, mask_of(width - c));
                    _mm512_store_ps(part + c, _mm512_add_ps(_mm512_load_ps(part + c), x));
                }
            for (int64_t c = 0; c < width; c++) sums[c0 + c] += (double)part[c];
        }
    }
}

void column_sums_avx512(const panel_t *p, double *sums, int64_t *counter) {
    if (p->dtype == FLOAT16) column_sums_kind(p, FLOAT16, sums, counter);
    else if (p->dtype == BFLOAT16) column_sums_kind(p, BFLOAT16, sums, counter);
    else column_sums_kind(p, FLOAT32, sums, counter);
}

INLINE void sq_norms_kind(const panel_t *p, int dtype, int scaled, const int64_t *ends, int64_t n_groups,
                          double *sq_norms, int64_t *counter) {
    for (int64_t r; (r = take(counter)) < p->b;) {
        int64_t c = 0;
        for (int64_t g = 0; g < n_groups; g++) {
            double sum = 0;
            while (c < ends[g]) {
                int64_t end = least(c + DEEP, ends[g]);
                __m512 squares = _mm512_setzero_ps();
                for (; c < end; c += 16) {
                    __m512 x = centred16(p, dtype, scaled, p->rows[r], c, mask_of(end - c));
                    squares = _mm512_fmadd_ps(x, x, squares);
                }
                c = end;
                sum += (double)_mm512_reduce_add_ps(squares);
            }
            sq_norms[r * n_groups + g] = sum;
        }
    }
}

void sq_norms_avx512(const panel_t *p, const int64_t *ends, int64_t n_groups, double *sq_norms, int64_t *counter) {
#define BODY(DTYPE, SCALED) sq_norms_kind(p, DTYPE, SCALED, ends, n_groups, sq_norms, counter)
    FOR_EACH_KIND(p, BODY);
#undef BODY
}
