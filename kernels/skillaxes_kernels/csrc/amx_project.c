/* Dots of centred rows with directions, and squared norms.

   Blocks of 16 rows x 64 columns, LONG columns of a piece's rows after one another. In a tile of rows, column c lies
   beside column c + 16, and so do the rows of the directions. */

#include "amx.h"

#define ROWS  16 /* of a block */
#define STEPS 2  /* of 32 columns in a block */
#define DEEP  (STEPS * STEP)
#define LONG  1024 /* columns that are summed in the tiles before the sums join the dots */
#define MANY  1024 /* directions at most, as native.py knows */

/* ---- directions: [step of d][term][tile of l] tiles of 16 pairs of rows x 16 columns ---- */

int64_t packed_directions_bytes_amx(int64_t d, int64_t l_padded, int64_t terms) {
    return blocks(d, STEP) * terms * (l_padded / 16) * TILE * 2;
}

void pack_directions_amx(const float *directions, int64_t d, int64_t l, int64_t l_padded, int64_t terms, void *packed,
                         int64_t *counter) {
    int64_t tiles = l_padded / 16;
    for (int64_t step; (step = take(counter)) < blocks(d, STEP);) {
        uint16_t *out = (uint16_t *)packed + step * terms * tiles * TILE;
        for (int64_t k = step * STEP, i = 0; i < 16; i++, k++)
            for (int64_t j = 0; j < tiles; j++) {
                __mmask16 mask = mask_of(l - 16 * j);
                __m512 a = _mm512_maskz_loadu_ps(k < d ? mask : 0, directions + k * l + 16 * j),
                       b = _mm512_maskz_loadu_ps(k + 16 < d ? mask : 0, directions + (k + 16) * l + 16 * j);
                store_terms(a, b, (int)terms, 0, out + j * TILE + i * 32, tiles * TILE);
            }
    }
    _mm256_zeroupper();
}

/* What one call works on: products of a block that is converted, beside the conversion of the next one. */
typedef struct {
    const panel_t *p;
    const uint16_t *a, *packed;
    int64_t tiles;
    const void *const *rows, *const *far; /* rows to convert, and those that are fetched from memory */
    int64_t c, far_c;
    uint16_t *out;
    __m512 *squares; /* of the rows to convert; NULL where nobody asks */
} project_t;

/* Terms of 32 columns of a row. */
INLINE void convert_row(const panel_t *p, int dtype, int scaled, const void *row, int64_t c, __mmask32 mask,
                        uint16_t *out, __m512 *squares) {
    __m512 x = centred16(p, dtype, scaled, row, c, (__mmask16)mask);
    __m512 y = centred16(p, dtype, scaled, row, c + 16, (__mmask16)(mask >> 16));
    if (squares) *squares = _mm512_fmadd_ps(y, y, _mm512_fmadd_ps(x, x, *squares));
    store_terms(x, y, TERMS, 1, out, 16 * LINE);
}

/* Products of n tiles of directions with a term of the rows, then the conversion of some of the next rows. */
#define DOTS(A, SOME)                                                                                                  \
    do {                                                                                                               \
        _tile_dpbf16ps(0, A, 4);                                                                                       \
        if (n > 1) _tile_dpbf16ps(1, A, 5);                                                                            \
        if (n > 2) _tile_dpbf16ps(2, A, 6);                                                                            \
        WRITTEN();                                                                                                     \
        UNROLL                                                                                                         \
        for (int end = row + (SOME); row < end && converting; row++) {                                                 \
            fetch(dtype, b.far[row], b.far_c + s * STEP, STEP);                                                        \
            convert_row(&p, dtype, scaled, b.rows[row], b.c + s * STEP, 0xffffffff,                                    \
                        b.out + s * TERMS * 16 * LINE + row * LINE, b.squares ? b.squares + row : 0);                  \
        }                                                                                                              \
        WRITTEN();                                                                                                     \
    } while (0)

INLINE void multiply(const project_t *call, int converting, int dtype, int scaled, int64_t terms, int64_t n,
                     int64_t steps) {
    const project_t b = *call; /* copies stay in registers, whatever the tiles read and write */
    const panel_t p = *b.p;
    for (int64_t s = 0; s < steps; s++) {
        const uint16_t *a = b.a + s * TERMS * 16 * LINE, *w = b.packed + s * terms * b.tiles * TILE;
        int row = 0;
        EACH(_tile_loadd, 4, 5, 6, w);
        _tile_loadd(7, a + 2 * 16 * LINE, LINE * 2);
        DOTS(7, 4);
        _tile_loadd(3, a + 16 * LINE, LINE * 2);
        DOTS(3, 3);
        _tile_loadd(7, a, LINE * 2);
        DOTS(7, 3);
        EACH(_tile_loadd, 4, 5, 6, w + b.tiles * TILE);
        DOTS(7, 3);
        DOTS(3, 3);
        if (terms > 2) {
            EACH(_tile_loadd, 4, 5, 6, w + 2 * b.tiles * TILE);
            DOTS(7, 0);
        }
    }
}

typedef void multiply_t(const project_t *b);
#define NAMED(DTYPE, SCALED, TERMS_, N) multiply_##DTYPE##_##SCALED##_##TERMS_##_##N
#define DEFINE(DTYPE, SCALED, TERMS_, N)                                                                               \
    static void NAMED(DTYPE, SCALED, TERMS_, N)(const project_t *b) { multiply(b, 1, DTYPE, SCALED, TERMS_, N, STEPS); }
#define DEFINE_KIND(DTYPE, SCALED)                                                                                     \
    DEFINE(DTYPE, SCALED, 2, 1)                                                                                        \
    DEFINE(DTYPE, SCALED, 2, 2) DEFINE(DTYPE, SCALED, 2, 3) DEFINE(DTYPE, SCALED, 3, 1) DEFINE(DTYPE, SCALED, 3, 2)    \
        DEFINE(DTYPE, SCALED, 3, 3)
EACH_KIND(DEFINE_KIND)
#define LISTED(DTYPE, SCALED)                                                                                          \
    {                                                                                                                  \
        {NAMED(DTYPE, SCALED, 2, 1), NAMED(DTYPE, SCALED, 2, 2), NAMED(DTYPE, SCALED, 2, 3)}, {                        \
            NAMED(DTYPE, SCALED, 3, 1), NAMED(DTYPE, SCALED, 3, 2), NAMED(DTYPE, SCALED, 3, 3)                         \
        }                                                                                                              \
    }
static multiply_t *const converting_products[2][3][2][GROUP] = FOR_KINDS(LISTED);

/* The next block, at once: the first of a piece, and one that the columns end in. */
static __attribute__((noinline)) void convert_block(const project_t *b) {
    for (int i = 0; i < STEPS * ROWS; i++) {
        int s = i / ROWS, r = i % ROWS;
        int64_t c = b->c + s * STEP, left = b->p->d - c;
        if (left <= 0) continue;
        __mmask32 mask = left >= 32 ? 0xffffffff : (1u << left) - 1;
        uint16_t *out = b->out + s * TERMS * 16 * LINE + r * LINE;
#define BODY(DTYPE, SCALED) convert_row(b->p, DTYPE, SCALED, b->rows[r], c, mask, out, b->squares ? b->squares + r : 0)
        FOR_EACH_KIND(b->p, BODY);
#undef BODY
    }
}

/* At the end of LONG columns: the squares of 16 rows, of which some count, join the others in double. */
INLINE void add_squares(__m512 *squares, int64_t some, double *sq_norms, int first) {
    for (int r = 0; r < ROWS; r++) {
        double sum = (double)_mm512_reduce_add_ps(squares[r]);
        if (r < some) sq_norms[r] = first ? sum : sq_norms[r] + sum;
        squares[r] = _mm512_setzero_ps();
    }
}

/* dots of 16 rows = or += n tiles of sums. LONG columns at a time, so that float32 sums stay short. */
INLINE void add_dots(const float *sums, int64_t n, float *dots, int64_t l_padded, int first) {
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < n; j++) {
            float *at = dots + r * l_padded + 16 * j;
            __m512 sum = _mm512_load_ps(sums + j * SUMS + r * 16);
            _mm512_storeu_ps(at, first ? sum : _mm512_add_ps(_mm512_loadu_ps(at), sum));
        }
}

/* Rows [first, last). */
static void project_piece(const panel_t *p, int64_t first, int64_t last, const uint16_t *packed, int64_t l_padded,
                          int64_t terms, float *dots, double *sq_norms) {
    uint16_t room[STEPS * TERMS * 16 * LINE] __attribute__((aligned(4096)));
    float sums[MANY / 16 / GROUP + 1][GROUP * SUMS] __attribute__((aligned(64)));
    __m512 squares[ROWS];
    int64_t tiles = l_padded / 16, r = first, c = 0, c0 = 0;
    multiply_t *const *products = converting_products[p->scale != 0][p->dtype][terms - 2];
    for (int i = 0; i < ROWS; i++) squares[i] = _mm512_setzero_ps();
    project_t b = {.p = p, .tiles = tiles, .rows = p->rows + first, .out = room, .squares = sq_norms ? squares : 0};
    convert_block(&b);
    for (int which = 0; c0 < p->d; which ^= 1) {
        int64_t end = least(c0 + LONG, p->d), steps = least(STEPS, blocks(p->d - c, STEP));
        int64_t next_r = r, next_c = c + DEEP, next_c0 = c0;
        if (b.squares && next_c >= end) add_squares(squares, last - r, sq_norms + r, !c0);
        if (next_c >= end) next_c = c0, next_r += ROWS;
        if (next_r >= last) next_r = first, next_c = next_c0 = end;
        b.rows = p->rows + next_r, b.c = next_c, b.out = room + (which ^ 1) * STEP;
        b.far = p->rows + (r + ROWS < last ? r + ROWS : first), b.far_c = r + ROWS < last ? c : c + LONG;
        int beside = steps == STEPS && next_c + DEEP <= p->d;
        if (!beside) convert_block(&b);
        for (int64_t j = 0; j < tiles; j += GROUP) {
            int64_t n = least(GROUP, tiles - j);
            float *into = sums[j / GROUP];
            b.a = room + which * STEP, b.packed = packed + (c / STEP * terms * tiles + j) * TILE;
            WRITTEN();
            if (c == c0) {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
            } else if (tiles > GROUP) EACH(_tile_loadd, 0, 1, 2, into);
            if (beside && !j) products[n - 1](&b);
            else multiply(&b, 0, FLOAT32, 0, terms, n, steps);
            if (c + DEEP >= end || tiles > GROUP) EACH(_tile_stored, 0, 1, 2, into);
            WRITTEN();
            if (c + DEEP >= end) add_dots(into, n, dots + r * l_padded + j * 16, l_padded, !c0);
        }
        r = next_r, c = next_c, c0 = next_c0;
    }
}

void project_amx(const panel_t *p, const void *packed, int64_t l_padded, int64_t terms, float *dots, double *sq_norms,
                 int64_t piece, int64_t *counter) {
    configure();
    for (int64_t first; (first = take(counter) * piece) < p->b;)
        project_piece(p, first, least(first + piece, p->b), packed, l_padded, terms, dots, sq_norms);
    _tile_release();
    _mm256_zeroupper();
}
