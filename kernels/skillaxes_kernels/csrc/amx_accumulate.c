/* Sums of centred rows, weighted.

   Blocks of 64 rows x 32 columns. WIDE columns are summed up over all rows of the panel before others are taken. Their
   sums have a place of their own and join z once a panel: rows of z lie a power of two apart, in the same places of a
   cache. */

#include "amx.h"

#define TALL   64  /* rows of a block in accumulate */
#define NARROW 32  /* columns of a block in accumulate */
#define WIDE   512 /* columns that are summed up over all rows before others are taken */
#define MOST   6   /* tiles of directions whose sums are kept at once in accumulate */

/* Two rows' terms side by side: low halves from a, high halves from b. */
INLINE __m512i paired(__m512 a, __m512 b) {
    __m512i low = _mm512_srli_epi32(_mm512_castps_si512(a), 16);
    return _mm512_ternarylogic_epi32(low, _mm512_castps_si512(b), _mm512_set1_epi32((int)0xffff0000),
                                     0xf8 /* low | (b & mask) */);
}

/* ---- weights: [step of b][term][tile of l] tiles of 16 directions x 32 rows ---- */

int64_t packed_weights_bytes_amx(int64_t b, int64_t l_padded, int64_t terms) {
    return blocks(b, STEP) * terms * (l_padded / 16) * TILE * 2;
}

void pack_weights_amx(const float *weights, int64_t stride, int64_t b, int64_t l, int64_t l_padded, int64_t terms,
                      void *packed) {
    uint16_t *out = packed;
    int64_t tiles = l_padded / 16;
    memset(packed, 0, (size_t)packed_weights_bytes_amx(b, l_padded, terms));
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

void accumulate_amx(const panel_t *p, const void *packed, int64_t l, int64_t l_padded, int64_t terms, float *z,
                    int64_t ldz, int64_t *counter) {
    if (terms == 1) accumulate_terms(p, packed, l, l_padded, 1, z, ldz, counter, pairs_converters_1);
    else if (terms == 2) accumulate_terms(p, packed, l, l_padded, 2, z, ldz, counter, pairs_converters_2);
    else accumulate_terms(p, packed, l, l_padded, 3, z, ldz, counter, pairs_converters_3);
}
