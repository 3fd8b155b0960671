/* Dots of centred rows with directions, and squared norms.

   Blocks of 16 rows x 64 columns, LONG columns of CHUNK rows after one another. */

#include "amx.h"

#define ROWS  16   /* of a block in project */
#define DEEP  64   /* columns of a block in project */
#define LONG  1024 /* columns that are summed in the tiles before the sums join the dots */
#define CHUNK 128  /* rows that meet LONG columns of directions while these lie in the second cache */
#define FAR   256  /* columns ahead of those that are converted, which are fetched from memory in project */
#define MANY  1024 /* directions at most, as native.py knows */

/* 32 consecutive entries of one row: the upper halves of a, then those of b. */
INLINE __m512i in_order(__m512 a, __m512 b, __m512i odd) {
    return _mm512_permutex2var_epi16(_mm512_castps_si512(a), odd, _mm512_castps_si512(b));
}

/* ---- directions: [step of d][term][tile of l] tiles of 16 pairs of rows x 16 columns ---- */

int64_t packed_directions_bytes_amx(int64_t d, int64_t l_padded, int64_t terms) {
    return blocks(d, STEP) * terms * (l_padded / 16) * TILE * 2;
}

void pack_directions_amx(const float *directions, int64_t d, int64_t l, int64_t l_padded, int64_t terms, void *packed,
                         int64_t *counter) {
    int64_t tiles = l_padded / 16;
    for (int64_t step; (step = take(counter)) < blocks(d, STEP);) {
        uint16_t *out = (uint16_t *)packed + step * terms * tiles * TILE;
        memset(out, 0, (size_t)(terms * tiles * TILE * 2));
        for (int64_t k = step * STEP; k < least((step + 1) * STEP, d); k++)
            for (int64_t j = 0; j < l; j++) {
                uint16_t term[TERMS];
                terms_of(directions[k * l + j], terms, term);
                for (int64_t t = 0; t < terms; t++)
                    out[(t * tiles + j / 16) * TILE + ((k % STEP) / 2) * 32 + (j % 16) * 2 + k % 2] = term[t];
            }
    }
}

typedef struct {
    int64_t first, last; /* the chunk of rows; no more blocks where first is beyond the panel's last row */
    int64_t c0;          /* where the LONG columns begin */
    int64_t r, c;        /* the block */
} project_block_t;

INLINE project_block_t first_project_block(const panel_t *p, int64_t *counter) {
    int64_t first = take(counter) * CHUNK;
    return (project_block_t){first, least(first + CHUNK, p->b), 0, first, 0};
}

INLINE project_block_t after_project_block(const panel_t *p, project_block_t at, int64_t *counter) {
    if (at.first >= p->b) return at;
    at.c += DEEP;
    if (at.c < least(at.c0 + LONG, p->d)) return at;
    at.c = at.c0, at.r += ROWS;
    if (at.r < at.last) return at;
    at.r = at.first, at.c = at.c0 += LONG;
    return at.c0 < p->d ? at : first_project_block(p, counter);
}

/* Terms of 32 columns of two rows; squares (2) grow by theirs. */
typedef void rows_converter_t(const panel_t *p, const void *one, const void *two, int64_t c, uint16_t *out,
                              __m512 *squares);

INLINE void convert_rows(const panel_t *p, int dtype, int scaled, const void *one, const void *two, int64_t c,
                         __mmask32 mask, uint16_t *out, __m512 *squares) {
    static const uint16_t odd_[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const __m512i odd = _mm512_loadu_si512(odd_);
    for (int r = 0; r < 2; r++) {
        const void *row = r ? two : one;
        fetch(dtype, row, c + FAR, STEP);
        __m512 x = centred16(p, dtype, scaled, row, c, (__mmask16)mask);
        __m512 y = centred16(p, dtype, scaled, row, c + 16, (__mmask16)(mask >> 16));
        squares[r] = _mm512_fmadd_ps(y, y, _mm512_fmadd_ps(x, x, squares[r]));
        for (int t = 0; t < TERMS; t++) {
            _mm512_store_si512(out + r * LINE + t * 16 * LINE, in_order(x, y, odd));
            x = _mm512_sub_ps(x, top(x));
            y = _mm512_sub_ps(y, top(y));
        }
    }
}

#define CONVERT(NAME, DTYPE, SCALED)                                                                                   \
    static __attribute__((noinline)) void NAME(const panel_t *p, const void *one, const void *two, int64_t c,          \
                                               uint16_t *out, __m512 *squares) {                                       \
        convert_rows(p, DTYPE, SCALED, one, two, c, 0xffffffff, out, squares);                                         \
    }
CONVERT(rows_float32, FLOAT32, 0)
CONVERT(rows_float16, FLOAT16, 0)
CONVERT(rows_bfloat16, BFLOAT16, 0)
CONVERT(rows_float32_scaled, FLOAT32, 1)
CONVERT(rows_float16_scaled, FLOAT16, 1)
CONVERT(rows_bfloat16_scaled, BFLOAT16, 1)
#undef CONVERT
static rows_converter_t *const rows_converters[2][3] = {
    {rows_float32, rows_float16, rows_bfloat16}, {rows_float32_scaled, rows_float16_scaled, rows_bfloat16_scaled}};

#define TURNS (DEEP / STEP * ROWS / 2)

/* What is done beside the tiles of one block: the next one is converted, a turn at a time. */
typedef struct {
    const panel_t *p;
    rows_converter_t *convert;
    const void *rows[ROWS]; /* those beyond the panel's last repeat it */
    int64_t c;
    uint16_t *a;
    __m512 squares[ROWS]; /* summed up to the end of LONG columns */
} beside_t;

INLINE void turn_rows(beside_t *b, int turn) {
    int s = turn / (ROWS / 2), r = turn % (ROWS / 2) * 2;
    uint16_t *out = b->a + s * TERMS * 16 * LINE + r * LINE;
    b->convert(b->p, b->rows[r], b->rows[r + 1], b->c + s * STEP, out, b->squares + r);
}

/* A block that the columns end in, at once. */
static __attribute__((noinline)) void convert_edge(beside_t *b) {
    for (int turn = 0; turn < TURNS; turn++) {
        int s = turn / (ROWS / 2), r = turn % (ROWS / 2) * 2;
        uint16_t *out = b->a + s * TERMS * 16 * LINE + r * LINE;
        int64_t c = b->c + s * STEP, left = b->p->d - c;
        __mmask32 mask = left >= 32 ? 0xffffffff : left <= 0 ? 0 : (1u << left) - 1;
        if (!mask) continue;
#define BODY(DTYPE, SCALED) convert_rows(b->p, DTYPE, SCALED, b->rows[r], b->rows[r + 1], c, mask, out, b->squares + r)
        FOR_EACH_KIND(b->p, BODY);
#undef BODY
    }
}

INLINE void point_at(beside_t *b, project_block_t next, uint16_t *a) {
    for (int r = 0; r < ROWS; r++) b->rows[r] = b->p->rows[least(next.r + r, b->p->b - 1)];
    b->c = next.c, b->a = a;
}

/* The squares of a block join those of its rows at the end of LONG columns, in double. */
INLINE void add_squares(beside_t *b, project_block_t at, double *sq_norms) {
    if (at.c + DEEP < least(at.c0 + LONG, b->p->d)) return;
    for (int r = 0; r < ROWS; r++) {
        if (sq_norms && at.r + r < at.last) {
            double sum = (double)_mm512_reduce_add_ps(b->squares[r]);
            sq_norms[at.r + r] = at.c0 ? sq_norms[at.r + r] + sum : sum;
        }
        b->squares[r] = _mm512_setzero_ps();
    }
}

/* After the products of a pair of terms: some of the next block's conversion, which overlaps with them. */
#define DOTS(A)                                                                                                        \
    do {                                                                                                               \
        _tile_dpbf16ps(0, A, 4);                                                                                       \
        if (n > 1) _tile_dpbf16ps(1, A, 5);                                                                            \
        if (n > 2) _tile_dpbf16ps(2, A, 6);                                                                            \
        for (int i_ = 0; i_ < 2 && turn < turns; i_++) turn_rows(beside, turn++);                                      \
    } while (0)

/* Sums of 16 rows and n tiles of directions over one block; they stay in the tiles, or in sums between two calls.
   Returns how many turns of the next block's conversion were done. */
INLINE int multiply(beside_t *beside, int turn, int turns, const uint16_t *a, int64_t steps, const uint16_t *packed,
                    int64_t tiles, int64_t terms, int n, int begin, int resume, int end, float *sums) {
    WRITTEN();
    if (begin) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
    } else if (resume) {
        EACH(_tile_stream_loadd, 0, 1, 2, sums, 64);
    }
    for (int64_t s = 0; s < steps; s++, packed += terms * tiles * TILE, a += TERMS * 16 * LINE) {
        EACH(_tile_stream_loadd, 4, 5, 6, packed, 64);
        _tile_loadd(7, a + 2 * 16 * LINE, LINE * 2);
        DOTS(7);
        _tile_loadd(3, a + 16 * LINE, LINE * 2);
        DOTS(3);
        _tile_loadd(7, a, LINE * 2);
        DOTS(7);
        if (terms > 1) {
            EACH(_tile_stream_loadd, 4, 5, 6, packed + tiles * TILE, 64);
            DOTS(7);
            DOTS(3);
        }
        if (terms > 2) {
            EACH(_tile_stream_loadd, 4, 5, 6, packed + 2 * tiles * TILE, 64);
            DOTS(7);
        }
    }
    if (end || resume) EACH(_tile_stored, 0, 1, 2, sums, 64);
    WRITTEN();
    return turn;
}

/* dots of 16 rows = or += n tiles of sums. LONG columns at a time, so that float32 sums stay short. */
INLINE void add_dots(const float *sums, int64_t n, float *dots, int64_t l_padded, int begin) {
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < n; j++) {
            float *at = dots + r * l_padded + 16 * j;
            __m512 sum = _mm512_load_ps(sums + j * SUMS + r * 16);
            _mm512_storeu_ps(at, begin ? sum : _mm512_add_ps(_mm512_loadu_ps(at), sum));
        }
}

void project_amx(const panel_t *p, const void *packed, int64_t l_padded, int64_t terms, float *dots, double *sq_norms,
                 int64_t *counter) {
    uint16_t room[DEEP / STEP * TERMS * 16 * LINE] __attribute__((aligned(128)));
    float sums[MANY / 16 / GROUP + 1][GROUP * SUMS] __attribute__((aligned(64)));
    int64_t tiles = l_padded / 16;
    project_block_t now = first_project_block(p, counter), next;
    if (now.first >= p->b) return;
    configure();
    beside_t beside = {.p = p, .convert = rows_converters[p->scale != 0][p->dtype]};
    point_at(&beside, now, room);
    convert_edge(&beside);
    add_squares(&beside, now, sq_norms);
    for (int which = 0; now.first < p->b; which ^= 1, now = next) {
        next = after_project_block(p, now, counter);
        int turn = TURNS, there = next.first < p->b;
        if (there) {
            point_at(&beside, next, room + (which ^ 1) * STEP);
            if (next.c + DEEP <= p->d) turn = 0;
            else convert_edge(&beside);
        }
        int64_t steps = least(DEEP / STEP, blocks(p->d - now.c, STEP));
        int begin = now.c == now.c0, end = now.c + DEEP >= least(now.c0 + LONG, p->d), resume = tiles > GROUP;
        for (int64_t j = 0; j < tiles; j += GROUP) {
            const uint16_t *at = (const uint16_t *)packed + ((now.c / STEP) * terms * tiles + j) * TILE,
                           *a = room + which * STEP;
            int64_t n = least(GROUP, tiles - j);
            float *into = sums[j / GROUP];
            if (n == 3) turn = multiply(&beside, turn, TURNS, a, steps, at, tiles, terms, 3, begin, resume, end, into);
            else if (n == 2)
                turn = multiply(&beside, turn, TURNS, a, steps, at, tiles, terms, 2, begin, resume, end, into);
            else turn = multiply(&beside, turn, TURNS, a, steps, at, tiles, terms, 1, begin, resume, end, into);
            if (end) add_dots(into, n, dots + now.r * l_padded + j * 16, l_padded, !now.c0);
        }
        for (; turn < TURNS; turn++) turn_rows(&beside, turn);
        if (there) add_squares(&beside, next, sq_norms);
    }
    _tile_release();
    _mm256_zeroupper();
}
