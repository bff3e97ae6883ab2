/* Arithmetic modulo p = 2^256 - 2^32 - 977, the field of the curve.
 *
 * An element is five limbs of 52 bits (the last one of 48), which may hold more than that: carries are
 * put off. What an element may hold is its magnitude m: limbs up to m * (2^52 + 2^44), the last one up
 * to m * 2^48. Functions say which magnitude they take and give; most give 1. Nothing here runs in
 * constant time: everything is public.
 */
#ifndef BIGBROTR_FIELD_H
#define BIGBROTR_FIELD_H

#include <stdint.h>

#ifndef __SIZEOF_INT128__
#error "a compiler with __int128 is needed: gcc or clang, for a machine of 64 bits"
#endif

/* What x86-64 processors may have is asked for when it runs; PLAIN leaves it out, for tests. */
#if defined __x86_64__ && !defined PLAIN
#define WITH_X86 1
#endif

__extension__ typedef unsigned __int128 u128;

typedef struct {
    uint64_t n[5];
} fe;

#define M52 0xFFFFFFFFFFFFFULL
#define M48 0xFFFFFFFFFFFFULL
#define P0 0xFFFFEFFFFFC2FULL    /* the limbs of p: this one, three times M52, and M48 */
#define FOLD 0x1000003D1ULL      /* 2^256 modulo p */
#define FOLD260 0x1000003D10ULL  /* 2^260 modulo p */

static const fe FE_ONE = {{1, 0, 0, 0, 0}};

static inline uint64_t load64(const uint8_t *bytes) {
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) word = word << 8 | bytes[i];
    return word;
}

static inline void store64(uint8_t *bytes, uint64_t word) {
    for (int i = 7; i >= 0; i--, word >>= 8) bytes[i] = (uint8_t)word;
}

/* Reads 32 bytes, the highest first; returns whether they are less than p. */
static inline int fe_load(fe *r, const uint8_t *bytes) {
    uint64_t w3 = load64(bytes), w2 = load64(bytes + 8);
    uint64_t w1 = load64(bytes + 16), w0 = load64(bytes + 24);
    r->n[0] = w0 & M52;
    r->n[1] = (w0 >> 52 | w1 << 12) & M52;
    r->n[2] = (w1 >> 40 | w2 << 24) & M52;
    r->n[3] = (w2 >> 28 | w3 << 36) & M52;
    r->n[4] = w3 >> 16;
    return !(r->n[4] == M48 && (r->n[3] & r->n[2] & r->n[1]) == M52 && r->n[0] >= P0);
}

/* Carries: any magnitude up to 64 becomes 1, and all limbs but the last hold 52 bits exactly. */
static inline void fe_carry(fe *r) {
    uint64_t t0 = r->n[0], t1 = r->n[1], t2 = r->n[2], t3 = r->n[3], t4 = r->n[4];
    t0 += (t4 >> 48) * FOLD;
    t4 &= M48;
    t1 += t0 >> 52;
    t2 += t1 >> 52;
    t3 += t2 >> 52;
    t4 += t3 >> 52;
    r->n[0] = t0 & M52;
    r->n[1] = t1 & M52;
    r->n[2] = t2 & M52;
    r->n[3] = t3 & M52;
    r->n[4] = t4; /* 2^48 at most: the bit above belongs to a value that is little more than 2^256 */
}

/* Makes an element of any magnitude up to 64 the one number below p that it stands for. */
static inline void fe_normalize(fe *r) {
    fe_carry(r);
    if (r->n[4] >> 48) {
        fe_carry(r);
    } else if (r->n[4] == M48 && (r->n[3] & r->n[2] & r->n[1]) == M52 && r->n[0] >= P0) {
        r->n[0] += FOLD; /* minus p is plus FOLD minus 2^256 */
        fe_carry(r);
        r->n[4] &= M48;
    }
}

/* Writes a normalized element. */
static inline void fe_store(uint8_t *bytes, const fe *a) {
    store64(bytes, a->n[3] >> 36 | a->n[4] << 16);
    store64(bytes + 8, a->n[2] >> 24 | a->n[3] << 28);
    store64(bytes + 16, a->n[1] >> 12 | a->n[2] << 40);
    store64(bytes + 24, a->n[0] | a->n[1] << 52);
}

/* Whether an element of any magnitude up to 64 is zero. */
static inline int fe_is_zero(const fe *a) {
    /* A multiple k of p ends in -k * FOLD modulo 2^52: hardly any other number does. */
    if ((-a->n[0] & M52) > 130 * FOLD) return 0;
    fe t = *a;
    fe_normalize(&t);
    return (t.n[0] | t.n[1] | t.n[2] | t.n[3] | t.n[4]) == 0;
}

/* a + b: magnitudes add up. */
static inline void fe_add(fe *r, const fe *a, const fe *b) {
    for (int i = 0; i < 5; i++) r->n[i] = a->n[i] + b->n[i];
}

/* a - b, b of magnitude m at most: magnitude that of a, plus 2m. */
static inline void fe_sub(fe *r, const fe *a, const fe *b, uint64_t m) {
    r->n[0] = a->n[0] + 2 * m * P0 - b->n[0];
    r->n[1] = a->n[1] + 2 * m * M52 - b->n[1];
    r->n[2] = a->n[2] + 2 * m * M52 - b->n[2];
    r->n[3] = a->n[3] + 2 * m * M52 - b->n[3];
    r->n[4] = a->n[4] + 2 * m * M48 - b->n[4];
}

/* k * a: k times the magnitude. */
static inline void fe_times(fe *r, const fe *a, uint64_t k) {
    for (int i = 0; i < 5; i++) r->n[i] = a->n[i] * k;
}

/* Takes the columns of a product, each the sum of what has the same power of 2^52 (written as an
 * expression), and folds the upper five over the lower ones. `high` runs ahead by five columns. */
#define FE_FOLD(r, c0, c1, c2, c3, c4, c5, c6, c7, c8)                 \
    do {                                                               \
        u128 high = (c5), low = (c0);                                  \
        uint64_t r0, r1, r2, r3, r4;                                   \
        low += (u128)((uint64_t)high & M52) * FOLD260;                 \
        high >>= 52;                                                   \
        r0 = (uint64_t)low & M52;                                      \
        low >>= 52;                                                    \
        high += (c6);                                                  \
        low += (c1);                                                   \
        low += (u128)((uint64_t)high & M52) * FOLD260;                 \
        high >>= 52;                                                   \
        r1 = (uint64_t)low & M52;                                      \
        low >>= 52;                                                    \
        high += (c7);                                                  \
        low += (c2);                                                   \
        low += (u128)((uint64_t)high & M52) * FOLD260;                 \
        high >>= 52;                                                   \
        r2 = (uint64_t)low & M52;                                      \
        low >>= 52;                                                    \
        high += (c8);                                                  \
        low += (c3);                                                   \
        low += (u128)((uint64_t)high & M52) * FOLD260;                 \
        high >>= 52;                                                   \
        r3 = (uint64_t)low & M52;                                      \
        low >>= 52;                                                    \
        low += (c4);                                                   \
        low += (u128)(uint64_t)high * FOLD260;                         \
        r4 = (uint64_t)low & M48;                                      \
        low >>= 48;                                                    \
        low = (u128)(uint64_t)low * FOLD + r0;                         \
        (r)->n[0] = (uint64_t)low & M52;                               \
        (r)->n[1] = r1 + (uint64_t)(low >> 52);                        \
        (r)->n[2] = r2;                                                \
        (r)->n[3] = r3;                                                \
        (r)->n[4] = r4;                                                \
    } while (0)

/* a * b, the product of their magnitudes 64 at most: magnitude 1. */
static inline void fe_mul(fe *r, const fe *a, const fe *b) {
    uint64_t a0 = a->n[0], a1 = a->n[1], a2 = a->n[2], a3 = a->n[3], a4 = a->n[4];
    uint64_t b0 = b->n[0], b1 = b->n[1], b2 = b->n[2], b3 = b->n[3], b4 = b->n[4];
    FE_FOLD(r,
        (u128)a0 * b0,
        (u128)a0 * b1 + (u128)a1 * b0,
        (u128)a0 * b2 + (u128)a1 * b1 + (u128)a2 * b0,
        (u128)a0 * b3 + (u128)a1 * b2 + (u128)a2 * b1 + (u128)a3 * b0,
        (u128)a0 * b4 + (u128)a1 * b3 + (u128)a2 * b2 + (u128)a3 * b1 + (u128)a4 * b0,
        (u128)a1 * b4 + (u128)a2 * b3 + (u128)a3 * b2 + (u128)a4 * b1,
        (u128)a2 * b4 + (u128)a3 * b3 + (u128)a4 * b2,
        (u128)a3 * b4 + (u128)a4 * b3,
        (u128)a4 * b4);
}

/* a * a, the magnitude 8 at most: magnitude 1. */
static inline void fe_sqr(fe *r, const fe *a) {
    uint64_t a0 = a->n[0], a1 = a->n[1], a2 = a->n[2], a3 = a->n[3], a4 = a->n[4];
    uint64_t d0 = 2 * a0, d1 = 2 * a1, d2 = 2 * a2, d3 = 2 * a3;
    FE_FOLD(r,
        (u128)a0 * a0,
        (u128)d0 * a1,
        (u128)d0 * a2 + (u128)a1 * a1,
        (u128)d0 * a3 + (u128)d1 * a2,
        (u128)d0 * a4 + (u128)d1 * a3 + (u128)a2 * a2,
        (u128)d1 * a4 + (u128)d2 * a3,
        (u128)d2 * a4 + (u128)a3 * a3,
        (u128)d3 * a4,
        (u128)a4 * a4);
}

#endif
