/* SHA-256, for the Cython modules.
 *
 * Written from FIPS 180-4; it replaces libcrypto, whose ABI a wheel cannot rely on.  The function that
 * processes blocks has three forms with the same result: plain C, the SHA extensions of x86-64, and those of
 * ARMv8.  The first call chooses what the processor has.
 *
 * All of it is static: a module that includes this file has it whole.  Any thread may call it; a context
 * belongs to one thread at a time.  Words of the state are in the machine's byte order, digests in the
 * standard's (big-endian).
 */

#ifndef ELECTRUMX_SHA256_H
#define ELECTRUMX_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__)
#define EX_SHA256_X86 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define EX_SHA256_X86 0
#endif

/* clang 15 and older declare the intrinsics only where the whole file may use them. */
#if defined(__aarch64__) && defined(__ARM_NEON) && \
    (defined(__ARM_FEATURE_SHA2) || (defined(__clang__) ? __clang_major__ >= 16 : __GNUC__ >= 8))
#define EX_SHA256_ARM 1
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#else
#define EX_SHA256_ARM 0
#endif

#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define EX_BSWAP 1
#else
#define EX_BSWAP 0
#endif

#if defined(__GNUC__)
#define EX_INLINE static inline __attribute__((always_inline, unused))
#define EX_UNUSED __attribute__((unused))
#else
#define EX_INLINE static __inline
#define EX_UNUSED
#endif

#define EX_SHA256_BLOCK 64
#define EX_SHA256_DIGEST 32

typedef struct {
    uint32_t state[8];
    uint64_t length; /* bytes so far */
    uint8_t rest[EX_SHA256_BLOCK]; /* the last length % 64 of them */
} ex_sha256_ctx;

/* Process whole blocks, one after the other. */
typedef void (*ex_sha256_blocks_fn)(uint32_t *state, const uint8_t *data, size_t blocks);

static const uint32_t ex_sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static const uint32_t ex_sha256_start[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* -- plain C */

EX_INLINE uint32_t ex_rotr(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

EX_INLINE uint32_t ex_load_be32(const uint8_t *p) {
#if EX_BSWAP
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return __builtin_bswap32(x);
#else
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
#endif
}

EX_INLINE void ex_store_be32(uint8_t *p, uint32_t x) {
#if EX_BSWAP
    /* GCC 12 makes a hundred instructions of eight stores byte by byte. */
    x = __builtin_bswap32(x);
    memcpy(p, &x, sizeof x);
#else
    p[0] = (uint8_t)(x >> 24);
    p[1] = (uint8_t)(x >> 16);
    p[2] = (uint8_t)(x >> 8);
    p[3] = (uint8_t)x;
#endif
}

/* A round; the caller rotates the names of the eight words instead of their values.  The majority of
   a, b and c is b where b and c agree, otherwise a; b ^ c is the a ^ b of the round before. */
#define EX_ROUND(a, b, c, d, e, f, g, h, kw)                                          \
    do {                                                                              \
        uint32_t a_xor_b = a ^ b;                                                     \
        h += (kw) + (ex_rotr(e, 6) ^ ex_rotr(e, 11) ^ ex_rotr(e, 25)) +               \
             (e & f) + (~e & g);                                                      \
        d += h;                                                                       \
        h += (ex_rotr(a, 2) ^ ex_rotr(a, 13) ^ ex_rotr(a, 22)) +                      \
             (b ^ (a_xor_b & b_xor_c));                                               \
        b_xor_c = a_xor_b;                                                            \
    } while (0)

/* Word n of the schedule, for n from 16 on; w holds the last 16. */
#define EX_WORD(n)                                                                    \
    (w[(n) & 15] += (ex_rotr(w[((n) + 1) & 15], 7) ^ ex_rotr(w[((n) + 1) & 15], 18) ^ \
                     w[((n) + 1) & 15] >> 3) +                                        \
                    w[((n) + 9) & 15] +                                               \
                    (ex_rotr(w[((n) + 14) & 15], 17) ^ ex_rotr(w[((n) + 14) & 15], 19) ^ \
                     w[((n) + 14) & 15] >> 10))

#define EX_EIGHT_ROUNDS(n, word)                                                      \
    EX_ROUND(a, b, c, d, e, f, g, h, ex_sha256_k[(n)] + word(n));                     \
    EX_ROUND(h, a, b, c, d, e, f, g, ex_sha256_k[(n) + 1] + word((n) + 1));           \
    EX_ROUND(g, h, a, b, c, d, e, f, ex_sha256_k[(n) + 2] + word((n) + 2));           \
    EX_ROUND(f, g, h, a, b, c, d, e, ex_sha256_k[(n) + 3] + word((n) + 3));           \
    EX_ROUND(e, f, g, h, a, b, c, d, ex_sha256_k[(n) + 4] + word((n) + 4));           \
    EX_ROUND(d, e, f, g, h, a, b, c, ex_sha256_k[(n) + 5] + word((n) + 5));           \
    EX_ROUND(c, d, e, f, g, h, a, b, ex_sha256_k[(n) + 6] + word((n) + 6));           \
    EX_ROUND(b, c, d, e, f, g, h, a, ex_sha256_k[(n) + 7] + word((n) + 7))

#define EX_FIRST_WORD(n) (w[(n)] = ex_load_be32(data + 4 * (n)))

static EX_UNUSED void ex_sha256_blocks_portable(uint32_t *state, const uint8_t *data, size_t blocks) {
    uint32_t w[16];
    while (blocks--) {
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        uint32_t b_xor_c = b ^ c;
        int n;
        EX_EIGHT_ROUNDS(0, EX_FIRST_WORD);
        EX_EIGHT_ROUNDS(8, EX_FIRST_WORD);
        for (n = 16; n < 64; n += 16) {
            EX_EIGHT_ROUNDS(n, EX_WORD);
            EX_EIGHT_ROUNDS(n + 8, EX_WORD);
        }
        state[0] += a;
        state[1] += b;
        state[2] += c;
        state[3] += d;
        state[4] += e;
        state[5] += f;
        state[6] += g;
        state[7] += h;
        data += EX_SHA256_BLOCK;
    }
}

/* -- x86-64 */

#if EX_SHA256_X86

/* Four rounds with the words m; the instruction does two with the lower half of its last operand. */
#define EX_FOUR_ROUNDS(abef, cdgh, n, m)                                              \
    do {                                                                              \
        __m128i kw = _mm_add_epi32(                                                   \
            m, _mm_loadu_si128((const __m128i *)(ex_sha256_k + 4 * (n)))              \
        );                                                                            \
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, kw);                                 \
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(kw, 0x0e));        \
    } while (0)

/* The four words that follow those in m0, m1, m2 and m3; they replace m0. */
#define EX_NEXT_WORDS(m0, m1, m2, m3)                                                 \
    (m0 = _mm_sha256msg2_epu32(                                                       \
         _mm_add_epi32(_mm_sha256msg1_epu32(m0, m1), _mm_alignr_epi8(m3, m2, 4)), m3  \
     ))

#define EX_TARGET_SHANI __attribute__((target("sha,ssse3,sse4.1")))

/* The state as the instructions have it: f e b a and h g d c, lowest first. */
#define EX_LOAD_STATE(abef, cdgh, state)                                              \
    do {                                                                              \
        __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state)), 0xb1); \
        __m128i hgfe =                                                                \
            _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)((state) + 4)), 0x1b); \
        abef = _mm_alignr_epi8(badc, hgfe, 8);                                        \
        cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);                                     \
    } while (0)

#define EX_STORE_STATE(abef, cdgh, state)                                             \
    do {                                                                              \
        __m128i feba = _mm_shuffle_epi32(abef, 0x1b);                                 \
        __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);                                 \
        _mm_storeu_si128((__m128i *)(state), _mm_blend_epi16(feba, dchg, 0xf0));      \
        _mm_storeu_si128((__m128i *)((state) + 4), _mm_alignr_epi8(dchg, feba, 8));   \
    } while (0)

#define EX_SWAP _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL)
#define EX_LOAD_WORDS(data, n)                                                        \
    _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data) + (n)), swap)

static EX_UNUSED EX_TARGET_SHANI void ex_sha256_blocks_shani(
    uint32_t *state, const uint8_t *data, size_t blocks
) {
    const __m128i swap = EX_SWAP;
    __m128i abef, cdgh;
    EX_LOAD_STATE(abef, cdgh, state);

    while (blocks--) {
        __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i m0 = EX_LOAD_WORDS(data, 0), m1 = EX_LOAD_WORDS(data, 1);
        __m128i m2 = EX_LOAD_WORDS(data, 2), m3 = EX_LOAD_WORDS(data, 3);
        int n;
        EX_FOUR_ROUNDS(abef, cdgh, 0, m0);
        EX_FOUR_ROUNDS(abef, cdgh, 1, m1);
        EX_FOUR_ROUNDS(abef, cdgh, 2, m2);
        EX_FOUR_ROUNDS(abef, cdgh, 3, m3);
        for (n = 4; n < 16; n += 4) {
            EX_NEXT_WORDS(m0, m1, m2, m3);
            EX_FOUR_ROUNDS(abef, cdgh, n, m0);
            EX_NEXT_WORDS(m1, m2, m3, m0);
            EX_FOUR_ROUNDS(abef, cdgh, n + 1, m1);
            EX_NEXT_WORDS(m2, m3, m0, m1);
            EX_FOUR_ROUNDS(abef, cdgh, n + 2, m2);
            EX_NEXT_WORDS(m3, m0, m1, m2);
            EX_FOUR_ROUNDS(abef, cdgh, n + 3, m3);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
        data += EX_SHA256_BLOCK;
    }
    EX_STORE_STATE(abef, cdgh, state);
}

/* Four rounds of each of two blocks, between which the processor need not wait. */
#define EX_TWICE_FOUR_ROUNDS(n, m, w)                                                 \
    EX_FOUR_ROUNDS(abef, cdgh, n, m);                                                 \
    EX_FOUR_ROUNDS(abef2, cdgh2, n, w)

#define EX_TWICE_NEXT(n, m0, m1, m2, m3, w0, w1, w2, w3)                              \
    EX_NEXT_WORDS(m0, m1, m2, m3);                                                    \
    EX_NEXT_WORDS(w0, w1, w2, w3);                                                    \
    EX_TWICE_FOUR_ROUNDS(n, m0, w0)

/* A block of each of two messages.  One alone leaves half of the unit for these instructions idle. */
static EX_UNUSED EX_TARGET_SHANI void ex_sha256_pair_shani(
    uint32_t *state, const uint8_t *data, uint32_t *state2, const uint8_t *data2
) {
    const __m128i swap = EX_SWAP;
    __m128i m0 = EX_LOAD_WORDS(data, 0), m1 = EX_LOAD_WORDS(data, 1);
    __m128i m2 = EX_LOAD_WORDS(data, 2), m3 = EX_LOAD_WORDS(data, 3);
    __m128i w0 = EX_LOAD_WORDS(data2, 0), w1 = EX_LOAD_WORDS(data2, 1);
    __m128i w2 = EX_LOAD_WORDS(data2, 2), w3 = EX_LOAD_WORDS(data2, 3);
    __m128i abef, cdgh, abef2, cdgh2, abef_before, cdgh_before, abef2_before, cdgh2_before;
    int n;
    EX_LOAD_STATE(abef, cdgh, state);
    EX_LOAD_STATE(abef2, cdgh2, state2);
    abef_before = abef;
    cdgh_before = cdgh;
    abef2_before = abef2;
    cdgh2_before = cdgh2;

    EX_TWICE_FOUR_ROUNDS(0, m0, w0);
    EX_TWICE_FOUR_ROUNDS(1, m1, w1);
    EX_TWICE_FOUR_ROUNDS(2, m2, w2);
    EX_TWICE_FOUR_ROUNDS(3, m3, w3);
    for (n = 4; n < 16; n += 4) {
        EX_TWICE_NEXT(n, m0, m1, m2, m3, w0, w1, w2, w3);
        EX_TWICE_NEXT(n + 1, m1, m2, m3, m0, w1, w2, w3, w0);
        EX_TWICE_NEXT(n + 2, m2, m3, m0, m1, w2, w3, w0, w1);
        EX_TWICE_NEXT(n + 3, m3, m0, m1, m2, w3, w0, w1, w2);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
    abef2 = _mm_add_epi32(abef2, abef2_before);
    cdgh2 = _mm_add_epi32(cdgh2, cdgh2_before);
    EX_STORE_STATE(abef, cdgh, state);
    EX_STORE_STATE(abef2, cdgh2, state2);
}

#endif

/* -- ARMv8 */

#if EX_SHA256_ARM

#if defined(__ARM_FEATURE_SHA2)
#define EX_TARGET_SHA2
#elif defined(__clang__)
#define EX_TARGET_SHA2 __attribute__((target("sha2")))
#else
#define EX_TARGET_SHA2 __attribute__((target("+crypto")))
#endif

#define EX_ARM_FOUR_ROUNDS(n, m)                                                      \
    do {                                                                              \
        uint32x4_t kw = vaddq_u32(m, vld1q_u32(ex_sha256_k + 4 * (n)));               \
        uint32x4_t before = abcd;                                                     \
        abcd = vsha256hq_u32(abcd, efgh, kw);                                         \
        efgh = vsha256h2q_u32(efgh, before, kw);                                      \
    } while (0)

#define EX_ARM_NEXT_WORDS(m0, m1, m2, m3)                                             \
    (m0 = vsha256su1q_u32(vsha256su0q_u32(m0, m1), m2, m3))

#define EX_ARM_LOAD(p) vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(p)))

static EX_UNUSED EX_TARGET_SHA2 void ex_sha256_blocks_armv8(
    uint32_t *state, const uint8_t *data, size_t blocks
) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);

    while (blocks--) {
        uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t m0 = EX_ARM_LOAD(data), m1 = EX_ARM_LOAD(data + 16);
        uint32x4_t m2 = EX_ARM_LOAD(data + 32), m3 = EX_ARM_LOAD(data + 48);
        int n;
        EX_ARM_FOUR_ROUNDS(0, m0);
        EX_ARM_FOUR_ROUNDS(1, m1);
        EX_ARM_FOUR_ROUNDS(2, m2);
        EX_ARM_FOUR_ROUNDS(3, m3);
        for (n = 4; n < 16; n += 4) {
            EX_ARM_NEXT_WORDS(m0, m1, m2, m3);
            EX_ARM_FOUR_ROUNDS(n, m0);
            EX_ARM_NEXT_WORDS(m1, m2, m3, m0);
            EX_ARM_FOUR_ROUNDS(n + 1, m1);
            EX_ARM_NEXT_WORDS(m2, m3, m0, m1);
            EX_ARM_FOUR_ROUNDS(n + 2, m2);
            EX_ARM_NEXT_WORDS(m3, m0, m1, m2);
            EX_ARM_FOUR_ROUNDS(n + 3, m3);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
        data += EX_SHA256_BLOCK;
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

#endif

/* -- the choice */

/* The form of that name, or NULL if this processor does not have it. */
static EX_UNUSED ex_sha256_blocks_fn ex_sha256_form(const char *name) {
    if (strcmp(name, "portable") == 0)
        return ex_sha256_blocks_portable;
#if EX_SHA256_X86
    {
        unsigned int eax, ebx = 0, ecx = 0, edx, eax7, ebx7 = 0, ecx7, edx7;
        if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) ||
            !__get_cpuid_count(7, 0, &eax7, &ebx7, &ecx7, &edx7))
            return NULL;
        /* Bit 29 is SHA; clang's header has no name for it. */
        if (strcmp(name, "shani") == 0 && (ebx7 & 1u << 29) && (ecx & bit_SSSE3) && (ecx & bit_SSE4_1))
            return ex_sha256_blocks_shani;
    }
#endif
#if EX_SHA256_ARM
    if (strcmp(name, "armv8") == 0) {
#if defined(__linux__)
        /* Bit 6 is HWCAP_SHA2. */
        return getauxval(AT_HWCAP) & 1ul << 6 ? ex_sha256_blocks_armv8 : NULL;
#elif defined(__ARM_FEATURE_SHA2)
        return ex_sha256_blocks_armv8;
#endif
    }
#endif
    return NULL;
}

static void ex_sha256_choose(uint32_t *state, const uint8_t *data, size_t blocks);

static ex_sha256_blocks_fn ex_sha256_blocks = ex_sha256_choose;

/* Threads that choose concurrently choose the same. */
static EX_UNUSED void ex_sha256_choose(uint32_t *state, const uint8_t *data, size_t blocks) {
    static const char *const names[] = {"shani", "armv8", "portable"};
    ex_sha256_blocks_fn form = NULL;
    size_t n;
    for (n = 0; form == NULL; n++)
        form = ex_sha256_form(names[n]);
#if defined(__GNUC__)
    __atomic_store_n(&ex_sha256_blocks, form, __ATOMIC_RELAXED);
#else
    ex_sha256_blocks = form;
#endif
    form(state, data, blocks);
}

EX_INLINE void ex_sha256_process(uint32_t *state, const uint8_t *data, size_t blocks) {
#if defined(__GNUC__)
    __atomic_load_n(&ex_sha256_blocks, __ATOMIC_RELAXED)(state, data, blocks);
#else
    ex_sha256_blocks(state, data, blocks);
#endif
}

/* Process a block of each of two messages. */
EX_INLINE void ex_sha256_process_pair(
    uint32_t *state, const uint8_t *data, uint32_t *state2, const uint8_t *data2
) {
#if EX_SHA256_X86
    if (__atomic_load_n(&ex_sha256_blocks, __ATOMIC_RELAXED) == ex_sha256_blocks_shani) {
        ex_sha256_pair_shani(state, data, state2, data2);
        return;
    }
#endif
    ex_sha256_process(state, data, 1);
    ex_sha256_process(state2, data2, 1);
}

/* -- messages */

/* Put the length at the end of the last block. */
EX_INLINE void ex_sha256_put_length(uint8_t *block, uint64_t length) {
    ex_store_be32(block + EX_SHA256_BLOCK - 8, (uint32_t)(length >> 29));
    ex_store_be32(block + EX_SHA256_BLOCK - 4, (uint32_t)(length << 3));
}

EX_INLINE void ex_sha256_put_digest(uint8_t *digest, const uint32_t *state) {
    int n;
    for (n = 0; n < 8; n++)
        ex_store_be32(digest + 4 * n, state[n]);
}

/* Append the padding and the length to the last bytes, process them, and write the digest. */
EX_INLINE void ex_sha256_end(
    uint32_t *state, uint8_t *last, size_t used, uint64_t length, uint8_t *digest
) {
    /* last has room for two blocks, and zeros behind the bytes. */
    size_t end = used < EX_SHA256_BLOCK - 8 ? EX_SHA256_BLOCK : 2 * EX_SHA256_BLOCK;
    last[used] = 0x80;
    ex_sha256_put_length(last + end - EX_SHA256_BLOCK, length);
    ex_sha256_process(state, last, end / EX_SHA256_BLOCK);
    ex_sha256_put_digest(digest, state);
}

static EX_UNUSED void ex_sha256_init(ex_sha256_ctx *ctx) {
    memcpy(ctx->state, ex_sha256_start, sizeof ctx->state);
    ctx->length = 0;
}

static EX_UNUSED void ex_sha256_update(ex_sha256_ctx *ctx, const void *bytes, size_t count) {
    const uint8_t *data = (const uint8_t *)bytes;
    size_t used = (size_t)(ctx->length % EX_SHA256_BLOCK), part;
    if (count == 0)
        return;
    ctx->length += count;
    if (used) {
        part = EX_SHA256_BLOCK - used;
        if (count < part) {
            memcpy(ctx->rest + used, data, count);
            return;
        }
        memcpy(ctx->rest + used, data, part);
        ex_sha256_process(ctx->state, ctx->rest, 1);
        data += part;
        count -= part;
    }
    if (count >= EX_SHA256_BLOCK)
        ex_sha256_process(ctx->state, data, count / EX_SHA256_BLOCK);
    part = count % EX_SHA256_BLOCK;
    memcpy(ctx->rest, data + (count - part), part);
}

static EX_UNUSED void ex_sha256_final(uint8_t *digest, ex_sha256_ctx *ctx) {
    uint8_t last[2 * EX_SHA256_BLOCK] = {0};
    size_t used = (size_t)(ctx->length % EX_SHA256_BLOCK);
    memcpy(last, ctx->rest, used);
    ex_sha256_end(ctx->state, last, used, ctx->length, digest);
}

/* The hash of bytes that are in one place. */
static EX_UNUSED void ex_sha256(const void *bytes, size_t count, uint8_t *digest) {
    const uint8_t *data = (const uint8_t *)bytes;
    uint32_t state[8];
    uint8_t last[2 * EX_SHA256_BLOCK] = {0};
    size_t rest = count % EX_SHA256_BLOCK;
    memcpy(state, ex_sha256_start, sizeof state);
    if (count >= EX_SHA256_BLOCK)
        ex_sha256_process(state, data, count / EX_SHA256_BLOCK);
    if (rest)
        memcpy(last, data + (count - rest), rest);
    ex_sha256_end(state, last, rest, count, digest);
}

/* -- two messages together */

#define EX_SHA256_PARTS 3

/* A message in parts that follow each other; the last ones may be empty. */
typedef struct {
    const uint8_t *parts[EX_SHA256_PARTS];
    size_t lengths[EX_SHA256_PARTS];
} ex_sha256_message;

/* The blocks of a message, padding included. */
typedef struct {
    ex_sha256_message rest; /* the bytes that are to come */
    int part; /* the first part that may have some */
    int ended; /* whether the bit behind the last byte has been put */
    size_t blocks; /* those that are to come */
    uint64_t length; /* bytes of the message */
    uint8_t block[EX_SHA256_BLOCK]; /* one that is not in one place */
} ex_sha256_reader;

EX_INLINE uint64_t ex_sha256_length(const ex_sha256_message *message) {
    return (uint64_t)message->lengths[0] + message->lengths[1] + message->lengths[2];
}

/* The blocks of a message of so many bytes, padding included. */
EX_INLINE size_t ex_sha256_blocks_of(uint64_t length) {
    return (size_t)((length + 8) / EX_SHA256_BLOCK) + 1;
}

EX_INLINE void ex_sha256_read(ex_sha256_reader *reader, const ex_sha256_message *message) {
    reader->rest = *message;
    reader->part = reader->ended = 0;
    reader->length = ex_sha256_length(message);
    reader->blocks = ex_sha256_blocks_of(reader->length);
}

/* Put together a block that has bytes of several parts, or the end. */
static EX_UNUSED const uint8_t *ex_sha256_gather(ex_sha256_reader *reader) {
    const uint8_t **parts = reader->rest.parts;
    size_t *lengths = reader->rest.lengths, used = 0, count;
    while (used < EX_SHA256_BLOCK && reader->part < EX_SHA256_PARTS) {
        count = lengths[reader->part];
        if (count == 0) {
            reader->part++;
            continue;
        }
        if (count > EX_SHA256_BLOCK - used)
            count = EX_SHA256_BLOCK - used;
        memcpy(reader->block + used, parts[reader->part], count);
        parts[reader->part] += count;
        lengths[reader->part] -= count;
        used += count;
    }
    if (used < EX_SHA256_BLOCK) {
        memset(reader->block + used, 0, EX_SHA256_BLOCK - used);
        if (!reader->ended)
            reader->block[used] = 0x80;
        reader->ended = 1;
        if (reader->blocks == 0)
            ex_sha256_put_length(reader->block, reader->length);
    }
    return reader->block;
}

/* The next block, which is valid until the one after it is read. */
EX_INLINE const uint8_t *ex_sha256_next(ex_sha256_reader *reader) {
    const uint8_t **parts = reader->rest.parts, *whole;
    size_t *lengths = reader->rest.lengths;
    reader->blocks--;
    if (reader->part == EX_SHA256_PARTS || lengths[reader->part] < EX_SHA256_BLOCK)
        return ex_sha256_gather(reader);
    whole = parts[reader->part];
    parts[reader->part] += EX_SHA256_BLOCK;
    lengths[reader->part] -= EX_SHA256_BLOCK;
    return whole;
}

/* The hashes of two messages, side by side as far as both have blocks. */
static EX_UNUSED void ex_sha256_two(
    const ex_sha256_message *message, uint8_t *digest,
    const ex_sha256_message *message2, uint8_t *digest2
) {
    ex_sha256_reader reader, reader2;
    uint32_t state[8], state2[8];
    memcpy(state, ex_sha256_start, sizeof state);
    memcpy(state2, ex_sha256_start, sizeof state2);
    ex_sha256_read(&reader, message);
    ex_sha256_read(&reader2, message2);
    while (reader.blocks && reader2.blocks) {
        const uint8_t *block = ex_sha256_next(&reader);
        ex_sha256_process_pair(state, block, state2, ex_sha256_next(&reader2));
    }
    while (reader.blocks)
        ex_sha256_process(state, ex_sha256_next(&reader), 1);
    while (reader2.blocks)
        ex_sha256_process(state2, ex_sha256_next(&reader2), 1);
    ex_sha256_put_digest(digest, state);
    ex_sha256_put_digest(digest2, state2);
}

/* A message of at most this many bytes is one block; its address is not NULL, also if it is empty. */
#define EX_SHA256_SHORT (EX_SHA256_BLOCK - 9)

EX_INLINE void ex_sha256_short_block(uint8_t *block, const uint8_t *data, size_t length) {
    memset(block, 0, EX_SHA256_BLOCK);
    memcpy(block, data, length);
    block[length] = 0x80;
    block[EX_SHA256_BLOCK - 2] = (uint8_t)(length >> 5);
    block[EX_SHA256_BLOCK - 1] = (uint8_t)(length << 3);
}

/* The hashes of two messages of EX_SHA256_SHORT bytes at most. */
EX_INLINE void ex_sha256_two_short(
    const uint8_t *data, size_t length, uint8_t *digest,
    const uint8_t *data2, size_t length2, uint8_t *digest2
) {
    uint8_t block[EX_SHA256_BLOCK], block2[EX_SHA256_BLOCK];
    uint32_t state[8], state2[8];
    memcpy(state, ex_sha256_start, sizeof state);
    memcpy(state2, ex_sha256_start, sizeof state2);
    ex_sha256_short_block(block, data, length);
    ex_sha256_short_block(block2, data2, length2);
    ex_sha256_process_pair(state, block, state2, block2);
    ex_sha256_put_digest(digest, state);
    ex_sha256_put_digest(digest2, state2);
}

#endif
