/* What Python calls, and what this processor can do. */

#include "panel.h"
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT             __attribute__((visibility("default")))
#define REQUEST_PERMISSION 0x1023 /* arch_prctl: ARCH_REQ_XCOMP_PERM */
#define TILE_DATA          18     /* the state that tiles are kept in */

enum level { NONE = 0, AVX512 = 1, AMX = 2 };

static uint64_t kept_by_system(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

/* The best level that processor and operating system allow. The tiles' state is large, so Linux wants to be asked for
   it, once a process; it says no to one whose signal stacks are too small. */
EXPORT int skx_level(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return NONE;
    const uint32_t fma = 1u << 12, os_saves = 1u << 27, half = 1u << 29;
    if ((c & (fma | os_saves | half)) != (fma | os_saves | half)) return NONE;
    uint64_t kept = kept_by_system();
    if ((kept & 0xe6) != 0xe6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return NONE;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((b & avx512) != avx512) return NONE;
    const uint32_t amx = 1u << 22 | 1u << 24; /* bfloat16, tiles */
    if ((d & amx) != amx || (kept & 0x60000) != 0x60000) return AVX512;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 ? AMX : AVX512;
}

static const products_t *at(int level) { return level == AMX ? &products_amx : &products_avx512; }

EXPORT int64_t skx_packed_directions_bytes(int level, int64_t d, int64_t l_padded, int64_t terms) {
    return at(level)->packed_directions_bytes(d, l_padded, terms);
}

EXPORT void skx_pack_directions(int level, const float *directions, int64_t d, int64_t l, int64_t l_padded,
                                int64_t terms, void *packed, int64_t *counter) {
    at(level)->pack_directions(directions, d, l, l_padded, terms, packed, counter);
}

EXPORT int64_t skx_packed_weights_bytes(int level, int64_t b, int64_t l_padded, int64_t terms) {
    return at(level)->packed_weights_bytes(b, l_padded, terms);
}

EXPORT void skx_pack_weights(int level, const float *weights, int64_t stride, int64_t b, int64_t l, int64_t l_padded,
                             int64_t terms, void *packed) {
    at(level)->pack_weights(weights, stride, b, l, l_padded, terms, packed);
}

EXPORT void skx_project(int level, const panel_t *panel, const void *packed, int64_t l_padded, int64_t terms,
                        float *dots, double *sq_norms, int64_t piece, int64_t *counter) {
    at(level)->project(panel, packed, l_padded, terms, dots, sq_norms, piece, counter);
}

EXPORT void skx_accumulate(int level, const panel_t *panel, const void *packed, int64_t l, int64_t l_padded,
                           int64_t terms, float *z, int64_t ldz, int64_t *counter) {
    at(level)->accumulate(panel, packed, l, l_padded, terms, z, ldz, counter);
}

EXPORT void skx_column_sums(const panel_t *panel, double *sums, int64_t *counter) {
    column_sums_avx512(panel, sums, counter);
}

EXPORT void skx_sq_norms(const panel_t *panel, const int64_t *ends, int64_t n_groups, double *sq_norms,
                         int64_t *counter) {
    sq_norms_avx512(panel, ends, n_groups, sq_norms, counter);
}

/* Whether any of n numbers has bits that two bfloat16 terms do not hold: the lower 8 of float32's 24. */
EXPORT int skx_beyond_two_terms(const uint32_t *numbers, int64_t n) {
    uint32_t bits = 0;
    for (int64_t i = 0; i < n; i++) bits |= numbers[i];
    return (bits & 0xff) != 0;
}
