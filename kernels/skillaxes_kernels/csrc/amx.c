/* Products on the matrix tiles of AMX, which multiply bfloat16 and sum in float32.

   A float32 number is the exact sum of three bfloat16 numbers (8 + 8 + 8 bits): top, middle, bottom. Products of such
   terms are exact, so y @ w summed over the pairs of terms whose size is above 2^-24 is float32's product: Henry, Tang
   & Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations". Here
   the terms of rows are cut off where that is exact, which needs no conversion instructions. Directions that have 16
   bits (two terms) need five tile products instead of six and lose nothing.

   Both products work in blocks that fit the innermost cache. While the tiles multiply one, the next is converted and
   later ones are fetched from memory: parts of the core that would otherwise wait for each other. */

#include <string.h>
#include "centred.h"

#define STEP  32  /* entries of the summed axis in a tile */
#define TILE  512 /* bfloat16 numbers in a tile of 16 x 32 */
#define SUMS  256 /* float32 numbers in a tile of 16 x 16 */
#define TERMS 3
/* bfloat16 numbers from one row of a converted tile to the next: the block under way and the next one share the lines
   between them, so that none stores where the other loads, modulo 4 KiB */
#define LINE 64
#define GROUP  3    /* tiles of directions that are summed at once */
#define ROWS   16   /* of a block in project */
#define DEEP   64   /* columns of a block in project */
#define LONG   1024 /* columns that are summed in the tiles before the sums join the dots */
#define CHUNK  128  /* rows that meet LONG columns of directions while these lie in the second cache */
#define TALL   64   /* rows of a block in accumulate */
#define NARROW 32   /* columns of a block in accumulate */
#define WIDE   512  /* columns that are summed up over all rows before others are taken */
#define FAR    256  /* columns ahead of those that are converted, which are fetched from memory in project */
#define MANY   1024 /* directions at most, as native.py knows */
#define MOST   6    /* tiles of directions whose sums are kept at once in accumulate */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) tile_config_t;

static void configure(void) {
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

/* Two rows' terms side by side: low halves from a, high halves from b. */
INLINE __m512i paired(__m512 a, __m512 b) {
    __m512i low = _mm512_srli_epi32(_mm512_castps_si512(a), 16);
    return _mm512_ternarylogic_epi32(low, _mm512_castps_si512(b), _mm512_set1_epi32((int)0xffff0000),
                                     0xf8 /* low | (b & mask) */);
}

/* 32 consecutive entries of one row: the upper halves of a, then those of b. */
INLINE __m512i in_order(__m512 a, __m512 b, __m512i odd) {
    return _mm512_permutex2var_epi16(_mm512_castps_si512(a), odd, _mm512_castps_si512(b));
}

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static void terms_of(float x, int64_t terms, uint16_t out[TERMS]) {
    for (int t = 0; t < terms; t++) {
        uint32_t head = (bits_of(x) + 0x8000u) & 0xffff0000u;
        float value;
        memcpy(&value, &head, 4);
        out[t] = (uint16_t)(head >> 16);
        x -= value;
    }
}

/* ---- directions: [step of d][term][tile of l] tiles of 16 pairs of rows x 16 columns ---- */

static int64_t packed_directions_bytes(int64_t d, int64_t l_padded, int64_t terms) {
    return blocks(d, STEP) * terms * (l_padded / 16) * TILE * 2;
}

static void pack_directions(const float *directions, int64_t d, int64_t l, int64_t l_padded, int64_t terms,
                            void *packed, int64_t *counter) {
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

/* ---- weights: [step of b][term][tile of l] tiles of 16 directions x 32 rows ---- */

static int64_t packed_weights_bytes(int64_t b, int64_t l_padded, int64_t terms) {
    return blocks(b, STEP) * terms * (l_padded / 16) * TILE * 2;
}

static void pack_weights(const float *weights, int64_t stride, int64_t b, int64_t l, int64_t l_padded, int64_t terms,
                         void *packed) {
    uint16_t *out = packed;
    int64_t tiles = l_padded / 16;
    memset(packed, 0, (size_t)packed_weights_bytes(b, l_padded, terms));
    for (int64_t r = 0; r < b; r++)
        for (int64_t j = 0; j < l; j++) {
            uint16_t term[TERMS];
            terms_of(weights[r * stride + j], terms, term);
            for (int t = 0; t < terms; t++) {
                int64_t tile = ((r / STEP) * terms + t) * tiles + j / 16;
                out[tile * TILE + (j % 16) * 32 + r % STEP] = term[t];
            }
        }
}

/* ---- project ----

   Blocks of 16 rows x 64 columns, LONG columns of CHUNK rows after one another. */

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

/* Tiles 0 to 2 hold sums, 4 to 6 an operand that is used several times, 3 and 7 the other one. */
#define EACH(OP, FIRST, SECOND, THIRD, AT, STRIDE)                                                                     \
    do {                                                                                                               \
        OP(FIRST, AT, STRIDE);                                                                                         \
        if (n > 1) OP(SECOND, (AT) + TILE_OF(AT), STRIDE);                                                             \
        if (n > 2) OP(THIRD, (AT) + 2 * TILE_OF(AT), STRIDE);                                                          \
    } while (0)
#define TILE_OF(AT) (1024 / (int64_t)sizeof *(AT))

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

static void project(const panel_t *p, const void *packed, int64_t l_padded, int64_t terms, float *dots,
                    double *sq_norms, int64_t *counter) {
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

/* ---- accumulate ----

   Blocks of 64 rows x 32 columns. WIDE columns are summed up over all rows of the panel before others are taken. Their
   sums have a place of their own and join z once a panel: rows of z lie a power of two apart, in the same places of a
   cache. */

typedef struct {
    int64_t c0, width; /* columns that are summed up; no more of them where c0 is beyond the last */
    int64_t after;     /* where those begin that come after them */
    int64_t j;         /* the first tile of directions */
    int64_t r, c;      /* the block */
} sum_block_t;

INLINE sum_block_t sum_block_at(const panel_t *p, int64_t c0, int64_t *counter) {
    return (sum_block_t){c0, least(WIDE, p->d - c0), c0 < p->d ? take(counter) * WIDE : c0, 0, 0, c0};
}

INLINE sum_block_t after_sum_block(const panel_t *p, sum_block_t at, int64_t tiles, int64_t *counter) {
    if (at.c0 >= p->d) return at;
    at.c += NARROW;
    if (at.c < at.c0 + at.width) return at;
    at.c = at.c0, at.r += TALL;
    if (at.r < p->b) return at;
    at.r = 0, at.j += MOST;
    return at.j < tiles ? at : sum_block_at(p, at.after, counter);
}

#define SUM_TURNS (TALL / 2)
#define PER_BLOCK (TALL / (WIDE / NARROW)) /* rows whose WIDE columns a block fetches, of those that come next */
#define PER_ROW   (SUM_TURNS / PER_BLOCK)  /* turns for one such row */

/* Terms of 32 columns of a pair of rows; ``far`` is fetched. Two terms or one are rounded each: what is left out has
   any sign, where truncation would leave out a little of the same sign in every product. */
typedef void pairs_converter_t(const panel_t *p, const void *one, const void *two, int64_t c, uint16_t *out,
                               const void *far);

/* To nearest, where it is cut off next. */
INLINE __m512 rounded(__m512 y) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(y), _mm512_set1_epi32(0x8000)));
}

INLINE void convert_pair(const panel_t *p, int dtype, int scaled, int terms, const void *one, const void *two,
                         int64_t c, __mmask32 mask, uint16_t *out) {
    for (int h = 0; h < 2; h++) {
        __m512 x = centred16(p, dtype, scaled, one, c + 16 * h, (__mmask16)(mask >> 16 * h));
        __m512 y = centred16(p, dtype, scaled, two, c + 16 * h, (__mmask16)(mask >> 16 * h));
        for (int t = 0; t < terms; t++) {
            __m512 a = terms < TERMS ? rounded(x) : x, b = terms < TERMS ? rounded(y) : y;
            _mm512_store_si512(out + (h * TERMS + t) * 16 * LINE, paired(a, b));
            x = _mm512_sub_ps(x, top(a));
            y = _mm512_sub_ps(y, top(b));
        }
    }
}

#define CONVERT(NAME, DTYPE, SCALED, N)                                                                                \
    static __attribute__((noinline)) void NAME##N(const panel_t *p, const void *one, const void *two, int64_t c,       \
                                                  uint16_t *out, const void *far) {                                    \
        fetch(DTYPE, far, 0, WIDE / PER_ROW);                                                                          \
        convert_pair(p, DTYPE, SCALED, N, one, two, c, 0xffffffff, out);                                               \
    }
#define CONVERTERS(N)                                                                                                  \
    CONVERT(pairs_float32_, FLOAT32, 0, N)                                                                             \
    CONVERT(pairs_float16_, FLOAT16, 0, N)                                                                             \
    CONVERT(pairs_bfloat16_, BFLOAT16, 0, N)                                                                           \
    CONVERT(pairs_float32_scaled_, FLOAT32, 1, N)                                                                      \
    CONVERT(pairs_float16_scaled_, FLOAT16, 1, N)                                                                      \
    CONVERT(pairs_bfloat16_scaled_, BFLOAT16, 1, N)                                                                    \
    static pairs_converter_t *const pairs_converters_##N[2][3] = {                                                     \
        {pairs_float32_##N, pairs_float16_##N, pairs_bfloat16_##N},                                                    \
        {pairs_float32_scaled_##N, pairs_float16_scaled_##N, pairs_bfloat16_scaled_##N}};
CONVERTERS(1)
CONVERTERS(2)
CONVERTERS(3)
#undef CONVERTERS
#undef CONVERT

typedef struct {
    const panel_t *p;
    pairs_converter_t *convert;
    const void *rows[TALL], *far[PER_BLOCK]; /* rows beyond the panel's last repeat it: their weights are 0 */
    int64_t c, size;
    uint16_t *y;
} beside_sums_t;

INLINE uint16_t *place_of_pair(uint16_t *y, int turn) {
    return y + turn / 16 * 2 * TERMS * 16 * LINE + turn % 16 * LINE;
}

INLINE void turn_pairs(beside_sums_t *b, int turn) {
    const char *far = (const char *)b->far[turn / PER_ROW] + turn % PER_ROW * (WIDE / PER_ROW) * b->size;
    b->convert(b->p, b->rows[2 * turn], b->rows[2 * turn + 1], b->c, place_of_pair(b->y, turn), far);
}

/* A block that the columns end in, at once. */
static __attribute__((noinline)) void convert_sum_edge(beside_sums_t *b, int terms, int64_t left) {
    __mmask32 mask = left >= 32 ? 0xffffffff : (1u << left) - 1;
    for (int turn = 0; turn < SUM_TURNS; turn++) {
#define BODY(DTYPE, SCALED)                                                                                            \
    convert_pair(b->p, DTYPE, SCALED, terms, b->rows[2 * turn], b->rows[2 * turn + 1], b->c, mask,                     \
                 place_of_pair(b->y, turn))
        FOR_EACH_KIND(b->p, BODY);
#undef BODY
    }
}

/* What is fetched beside a block: a share of the WIDE columns of the 64 rows that come next, so that memory is read in
   pieces longer than a block is wide. */
INLINE void point_sums_at(beside_sums_t *b, sum_block_t next, uint16_t *y) {
    const panel_t *p = b->p;
    for (int r = 0; r < TALL; r++) b->rows[r] = p->rows[least(next.r + r, p->b - 1)];
    int64_t far = (next.c - next.c0) / NARROW * PER_BLOCK, from = next.c0;
    if (next.r + TALL < p->b) far += next.r + TALL;
    else from = least(next.after, p->d - 1);
    for (int r = 0; r < PER_BLOCK; r++) b->far[r] = (const char *)p->rows[least(far + r, p->b - 1)] + from * b->size;
    b->c = next.c, b->y = y;
}

#define SUM(Y, MANY_TURNS)                                                                                             \
    do {                                                                                                               \
        _tile_dpbf16ps(0, 4, Y);                                                                                       \
        if (n > 1) _tile_dpbf16ps(1, 5, Y);                                                                            \
        if (n > 2) _tile_dpbf16ps(2, 6, Y);                                                                            \
        for (int i_ = 0; i_ < (MANY_TURNS) && turn < turns; i_++) turn_pairs(beside, turn++);                          \
    } while (0)

/* n tiles of sums, of 16 columns, over one block. Returns how many turns of the next block's were done. */
INLINE int sum_up(beside_sums_t *beside, int turn, int turns, const uint16_t *y, const uint16_t *w, int64_t steps,
                  int64_t tiles, int terms, int n, float *sums) {
    WRITTEN();
    EACH(_tile_stream_loadd, 0, 1, 2, sums, 64);
    for (int64_t s = 0; s < steps; s++, w += terms * tiles * TILE, y += 2 * TERMS * 16 * LINE) {
        _tile_loadd(7, y, LINE * 2);
        if (terms == 1) {
            EACH(_tile_loadd, 4, 5, 6, w, 64);
            SUM(7, 8);
        } else {
            _tile_loadd(3, y + 16 * LINE, LINE * 2);
            if (terms > 2) {
                EACH(_tile_loadd, 4, 5, 6, w + 2 * tiles * TILE, 64);
                SUM(7, 2);
            }
            EACH(_tile_loadd, 4, 5, 6, w + tiles * TILE, 64);
            SUM(7, 3);
            if (terms > 2) SUM(3, 2);
            EACH(_tile_loadd, 4, 5, 6, w, 64);
            SUM(3, 3);
            SUM(7, 3);
            if (terms > 2) {
                _tile_loadd(3, y + 2 * 16 * LINE, LINE * 2);
                SUM(3, 2);
            }
        }
    }
    EACH(_tile_stored, 0, 1, 2, sums, 64);
    WRITTEN();
    return turn;
}

/* z += the sums of some columns and tiles of directions, which begin anew. */
INLINE void add_sums(float (*sums)[MOST][SUMS], sum_block_t at, int64_t some, int64_t l, float *z, int64_t ldz) {
    for (int64_t i = 0; i < least(l - at.j * 16, some * 16); i++)
        for (int64_t c = 0; c < blocks(at.width, 16); c++) {
            float *to = z + (at.j * 16 + i) * ldz + at.c0 + 16 * c;
            __mmask16 mask = mask_of(at.width - 16 * c);
            __m512 sum = _mm512_load_ps(sums[c][i / 16] + i % 16 * 16);
            _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum));
        }
    memset(sums, 0, sizeof *sums * (WIDE / 16));
}

INLINE void accumulate_terms(const panel_t *p, const uint16_t *packed, int64_t l, int64_t l_padded, int terms, float *z,
                             int64_t ldz, int64_t *counter, pairs_converter_t *const converters[2][3]) {
    uint16_t room[TALL / STEP * 2 * TERMS * 16 * LINE] __attribute__((aligned(128)));
    float sums[WIDE / 16][MOST][SUMS] __attribute__((aligned(64)));
    int64_t tiles = l_padded / 16, all_steps = blocks(p->b, STEP);
    sum_block_t now = sum_block_at(p, take(counter) * WIDE, counter), next;
    if (now.c0 >= p->d || !p->b) return;
    configure();
    memset(sums, 0, sizeof sums);
    beside_sums_t beside = {.p = p, .convert = converters[p->scale != 0][p->dtype], .size = size_of((int)p->dtype)};
    point_sums_at(&beside, now, room);
    convert_sum_edge(&beside, terms, p->d - now.c);
    for (int which = 0; now.c0 < p->d; which ^= 1, now = next) {
        next = after_sum_block(p, now, tiles, counter);
        int turn = SUM_TURNS;
        if (next.c0 < p->d) {
            point_sums_at(&beside, next, room + (which ^ 1) * STEP);
            if (next.c + NARROW <= p->d) turn = 0;
            else convert_sum_edge(&beside, terms, p->d - next.c);
        }
        int64_t some = least(MOST, tiles - now.j), steps = least(TALL / STEP, all_steps - now.r / STEP);
        float (*into)[MOST][SUMS] = sums + (now.c - now.c0) / 16;
        for (int64_t j = 0; j < some; j += GROUP) {
            const uint16_t *at = packed + ((now.r / STEP) * terms * tiles + now.j + j) * TILE, *y = room + which * STEP;
            int64_t n = least(GROUP, some - j);
            for (int h = 0; h < 2; h++, y += TERMS * 16 * LINE) {
                float *sum = into[h][j];
                if (n == 3) turn = sum_up(&beside, turn, SUM_TURNS, y, at, steps, tiles, terms, 3, sum);
                else if (n == 2) turn = sum_up(&beside, turn, SUM_TURNS, y, at, steps, tiles, terms, 2, sum);
                else turn = sum_up(&beside, turn, SUM_TURNS, y, at, steps, tiles, terms, 1, sum);
            }
        }
        if (next.c0 != now.c0 || next.j != now.j) add_sums(sums, now, some, l, z, ldz);
        for (; turn < SUM_TURNS; turn++) turn_pairs(&beside, turn);
    }
    _tile_release();
    _mm256_zeroupper();
}

static void accumulate(const panel_t *p, const void *packed, int64_t l, int64_t l_padded, int64_t terms, float *z,
                       int64_t ldz, int64_t *counter) {
    if (terms == 1) accumulate_terms(p, packed, l, l_padded, 1, z, ldz, counter, pairs_converters_1);
    else if (terms == 2) accumulate_terms(p, packed, l, l_padded, 2, z, ldz, counter, pairs_converters_2);
    else accumulate_terms(p, packed, l, l_padded, 3, z, ldz, counter, pairs_converters_3);
}

const products_t products_amx = {
    packed_directions_bytes, pack_directions, packed_weights_bytes, pack_weights, project, accumulate};
