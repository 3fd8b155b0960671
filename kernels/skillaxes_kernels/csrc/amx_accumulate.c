/* Sums of centred rows, weighted.

   Blocks of 32 rows x 32 columns, whose sums lie in six tiles; two blocks of the same columns after one another, then
   the next columns of WIDE, then the next rows. WIDE columns are summed up over all rows of the panel before others are
   taken, in a place of their own that the innermost cache holds; they join z once a panel. In a tile of rows, a row
   lies beside the next one. */

#include "amx.h"

#define TALL  64             /* rows whose sums stay in the tiles */
#define PAIRS (STEP / 2)     /* of rows in a block */
#define WIDE  128            /* columns that are summed up over all rows before others are taken */
#define MOST  6              /* tiles of directions that share a conversion */
#define FETCH (2 * STEP)     /* columns of a row that are fetched at once: memory likes longer pieces than blocks are */
#define TURNS (WIDE / FETCH) /* pairs of rows that are converted while WIDE columns of one row are fetched */
#define HALF  (16 * LINE)    /* from a converted tile of 16 columns to that of the next 16 */

/* ---- weights: [step of b][term][tile of l] tiles of 16 directions x 32 rows ---- */

int64_t packed_weights_bytes_amx(int64_t b, int64_t l_padded, int64_t terms) {
    return blocks(b, TALL) * (TALL / STEP) * terms * (l_padded / 16) * TILE * 2;
}

void pack_weights_amx(const float *weights, int64_t stride, int64_t b, int64_t l, int64_t l_padded, int64_t terms,
                      void *packed) {
    int64_t tiles = l_padded / 16;
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i apart = _mm512_mullo_epi32(lanes, _mm512_set1_epi32((int)stride));
    for (int64_t r = 0; r < blocks(b, TALL) * TALL; r += 16)
        for (int64_t j = 0; j < l_padded; j++) {
            uint16_t *out = (uint16_t *)packed + (r / STEP * terms * tiles + j / 16) * TILE + j % 16 * 32 + r % STEP;
            __m512 x = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), j < l ? mask_of(b - r) : 0, apart,
                                                weights + r * stride + j, 4);
            for (int64_t t = 0; t < terms; t++) {
                __m512i head = _mm512_srli_epi32(_mm512_castps_si512(rounded(x)), 16);
                _mm256_store_si256((void *)(out + t * tiles * TILE), _mm512_cvtepi32_epi16(head));
                x = _mm512_sub_ps(x, top(rounded(x)));
            }
        }
    _mm256_zeroupper();
}

/* What one call works on: sums of a block that is converted, beside the conversion of the next one. */
typedef struct {
    const panel_t *p;
    const uint16_t *y, *packed;
    int64_t tiles;
    const void *const *rows, *const *far; /* rows to convert, and those whose WIDE columns are fetched from memory */
    int64_t c, far_c;
    uint16_t *out;
} accumulate_t;

/* Terms of 32 columns of two rows. */
INLINE void convert_pair(const panel_t *p, int dtype, int scaled, int terms, const void *one, const void *two,
                         int64_t c, __mmask32 mask, uint16_t *out) {
    for (int h = 0; h < 2; h++) {
        __m512 x = centred16(p, dtype, scaled, one, c + 16 * h, (__mmask16)(mask >> 16 * h));
        __m512 y = centred16(p, dtype, scaled, two, c + 16 * h, (__mmask16)(mask >> 16 * h));
        store_terms(x, y, terms, terms == TERMS, out + h * HALF, 2 * HALF);
    }
}

/* n tiles of weights in register 6 after one another, each with some terms of both halves of the columns, and the
   conversion of some of the next rows after each. */
#define SUM(REGISTER, SECOND, W, MANY)                                                                                 \
    do {                                                                                                               \
        _tile_loadd(6, W, 64);                                                                                         \
        UNROLL                                                                                                         \
        for (int u = (MANY) - 1; u >= 0; u--) {                                                                        \
            _tile_loadd(7, y + u * 2 * HALF, LINE * 2);                                                                \
            _tile_dpbf16ps(REGISTER, 6, 7);                                                                            \
            _tile_loadd(7, y + u * 2 * HALF + HALF, LINE * 2);                                                         \
            _tile_dpbf16ps(SECOND, 6, 7);                                                                              \
            WRITTEN();                                                                                                 \
            for (int pair = turn * PAIRS / turns; pair < (turn + 1) * PAIRS / turns && converting; pair++) {           \
                fetch(dtype, b.far[pair / TURNS], b.far_c + pair % TURNS * FETCH, FETCH);                              \
                convert_pair(&p, dtype, scaled, terms, b.rows[2 * pair], b.rows[2 * pair + 1], b.c, 0xffffffff,        \
                             b.out + pair * LINE);                                                                     \
            }                                                                                                          \
            turn++;                                                                                                    \
            WRITTEN();                                                                                                 \
        }                                                                                                              \
    } while (0)

INLINE void sum_up(const accumulate_t *call, int converting, int dtype, int scaled, int terms, int64_t n) {
    const accumulate_t b = *call; /* copies stay in registers, whatever the tiles read and write */
    const panel_t p = *b.p;
    /* turns in which pairs of rows are converted: as many as there are products of terms with tiles of weights */
    const int turns = (int)n * (terms == 1 ? 1 : terms == 2 ? 3 : 6);
    const uint16_t *y = b.y;
    int turn = 0;
    UNROLL
    for (int t = terms - 1; t >= 0; t--) { /* small products first */
        const uint16_t *w = b.packed + t * b.tiles * TILE;
        SUM(0, 3, w, terms - t);
        if (n > 1) SUM(1, 4, w + TILE, terms - t);
        if (n > 2) SUM(2, 5, w + 2 * TILE, terms - t);
    }
}

typedef void sum_up_t(const accumulate_t *b);
#define NAMED(DTYPE, SCALED, TERMS_, N) sum_up_##DTYPE##_##SCALED##_##TERMS_##_##N
#define DEFINE(DTYPE, SCALED, TERMS_, N)                                                                               \
    static void NAMED(DTYPE, SCALED, TERMS_, N)(const accumulate_t *b) { sum_up(b, 1, DTYPE, SCALED, TERMS_, N); }
#define DEFINE_TERMS(DTYPE, SCALED, TERMS_)                                                                            \
    DEFINE(DTYPE, SCALED, TERMS_, 1) DEFINE(DTYPE, SCALED, TERMS_, 2) DEFINE(DTYPE, SCALED, TERMS_, 3)
#define DEFINE_KIND(DTYPE, SCALED)                                                                                     \
    DEFINE_TERMS(DTYPE, SCALED, 1) DEFINE_TERMS(DTYPE, SCALED, 2) DEFINE_TERMS(DTYPE, SCALED, 3)
EACH_KIND(DEFINE_KIND)
#define LISTED_TERMS(DTYPE, SCALED, TERMS_)                                                                            \
    {NAMED(DTYPE, SCALED, TERMS_, 1), NAMED(DTYPE, SCALED, TERMS_, 2), NAMED(DTYPE, SCALED, TERMS_, 3)}
#define LISTED(DTYPE, SCALED)                                                                                          \
    {LISTED_TERMS(DTYPE, SCALED, 1), LISTED_TERMS(DTYPE, SCALED, 2), LISTED_TERMS(DTYPE, SCALED, 3)}
static sum_up_t *const converting_sums[2][3][TERMS][GROUP] = FOR_KINDS(LISTED);

/* The same without a next block, or for further directions. */
static __attribute__((noinline)) void sum_up_alone(const accumulate_t *b, int64_t terms, int64_t n) {
    if (terms == 1) sum_up(b, 0, FLOAT32, 0, 1, n);
    else if (terms == 2) sum_up(b, 0, FLOAT32, 0, 2, n);
    else sum_up(b, 0, FLOAT32, 0, 3, n);
}

/* The next block, at once: the first, and one that the columns end in. */
static __attribute__((noinline)) void convert_block(const accumulate_t *b, int64_t terms) {
    int64_t left = b->p->d - b->c;
    __mmask32 mask = left >= 32 ? 0xffffffff : (1u << left) - 1;
    for (int i = 0; i < PAIRS; i++) {
        uint16_t *out = b->out + i * LINE;
#define BODY(DTYPE, SCALED)                                                                                            \
    do {                                                                                                               \
        if (terms == 1) convert_pair(b->p, DTYPE, SCALED, 1, b->rows[2 * i], b->rows[2 * i + 1], b->c, mask, out);     \
        else if (terms == 2)                                                                                           \
            convert_pair(b->p, DTYPE, SCALED, 2, b->rows[2 * i], b->rows[2 * i + 1], b->c, mask, out);                 \
        else convert_pair(b->p, DTYPE, SCALED, 3, b->rows[2 * i], b->rows[2 * i + 1], b->c, mask, out);                \
    } while (0)
        FOR_EACH_KIND(b->p, BODY);
#undef BODY
    }
}

/* z += n tiles of sums of each half of 32 columns from c on, for directions from 16 j on. */
INLINE void add_sums(float (*sums)[SUMS], int64_t n, int64_t j, int64_t c, int64_t d, int64_t l, float *z,
                     int64_t ldz) {
    for (int64_t i = 0; i < least(l - 16 * j, 16 * n); i++)
        for (int h = 0; h < 2; h++) {
            float *to = z + (16 * j + i) * ldz + c + 16 * h;
            __mmask16 mask = mask_of(d - c - 16 * h);
            __m512 sum = _mm512_load_ps(sums[h * GROUP + i / 16] + i % 16 * 16);
            _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum));
        }
}

void accumulate_amx(const panel_t *p, const void *packed, int64_t l, int64_t l_padded, int64_t terms, float *z,
                    int64_t ldz, int64_t *counter) {
    uint16_t room[2 * TERMS * HALF] __attribute__((aligned(4096)));
    float sums[WIDE / STEP * MOST / GROUP][2 * GROUP][SUMS] __attribute__((aligned(64)));
    int64_t tiles = l_padded / 16, groups = blocks(least(MOST, tiles), GROUP), c0 = take(counter) * WIDE,
            next_c0 = take(counter) * WIDE;
    int64_t j = 0, top = 0, c = c0, r = 0; /* of the block; top: the first of TALL rows */
    if (c0 >= p->d || !p->b) return;
    sum_up_t *const *sum_up_beside = converting_sums[p->scale != 0][p->dtype][terms - 1];
    configure();
    accumulate_t b = {.p = p, .tiles = tiles, .rows = p->rows, .c = c, .out = room};
    convert_block(&b, terms);
    for (int which = 0; c0 < p->d; which ^= 1) {
        int64_t next_r = r + STEP, next_c = c, next_top = top, next_j = j, coming_c0 = c0;
        if (next_r >= top + TALL) next_r = top, next_c += STEP;
        if (next_c >= least(c0 + WIDE, p->d)) next_c = c0, next_r = next_top += TALL;
        if (next_top >= p->b) next_r = next_top = 0, next_j += MOST;
        if (next_j >= tiles) next_j = 0, next_c = coming_c0 = next_c0;
        b.y = room + which * STEP, b.out = room + (which ^ 1) * STEP;
        b.rows = p->rows + next_r, b.c = next_c;
        b.far = p->rows + (top + TALL < p->b ? top + TALL : 0);
        b.far += ((c - c0) / STEP * (TALL / STEP) + (r - top) / STEP) * (PAIRS / TURNS);
        b.far_c = top + TALL < p->b ? c0 : next_c0;
        int beside = next_c + STEP <= p->d, stay = tiles <= GROUP;
        if (!beside && next_c < p->d) convert_block(&b, terms);
        for (int64_t g = j; g < least(j + MOST, tiles); g += GROUP, beside = 0) {
            int64_t n = least(GROUP, tiles - g);
            float (*into)[SUMS] = sums[(c - c0) / STEP * groups + (g - j) / GROUP];
            b.packed = (const uint16_t *)packed + (r / STEP * terms * tiles + g) * TILE;
            WRITTEN();
            if (!r) {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
                _tile_zero(4);
                _tile_zero(5);
            } else if (r == top || !stay) {
                EACH(_tile_loadd, 0, 1, 2, into[0]);
                EACH(_tile_loadd, 3, 4, 5, into[GROUP]);
            }
            if (beside) sum_up_beside[n - 1](&b);
            else sum_up_alone(&b, terms, n);
            int last = r + STEP >= top + TALL;
            if (last || !stay) {
                EACH(_tile_stored, 0, 1, 2, into[0]);
                EACH(_tile_stored, 3, 4, 5, into[GROUP]);
            }
            WRITTEN();
            if (last && top + TALL >= p->b) add_sums(into, n, g, c, p->d, l, z, ldz);
        }
        if (coming_c0 != c0) next_c0 = take(counter) * WIDE;
        j = next_j, top = next_top, c = next_c, r = next_r, c0 = coming_c0;
    }
    _tile_release();
    _mm256_zeroupper();
}
