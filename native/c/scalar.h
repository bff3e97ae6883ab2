/* Arithmetic modulo n, the order of the curve's group; and the splitting of a scalar in two halves.
 *
 * A scalar is four words of 64 bits, the lowest first, always below n.
 */
#ifndef BIGBROTR_SCALAR_H
#define BIGBROTR_SCALAR_H

#include <string.h>

#include "field.h"

typedef struct {
    uint64_t n[4];
} scalar;

static const uint64_t ORDER[4] = {
    0xbfd25e8cd0364141, 0xbaaedce6af48a03b, 0xfffffffffffffffe, 0xffffffffffffffff,
};
static const uint64_t ORDER_FOLD[3] = {0x402da1732fc9bebf, 0x4551231950b75fc4, 1}; /* 2^256 - n */

/* r += a * b, in words; r has room for the carry. */
static inline void add_product(uint64_t *r, const uint64_t *a, int a_words, const uint64_t *b, int b_words) {
    for (int i = 0; i < a_words; i++) {
        uint64_t carry = 0;
        for (int j = 0; j < b_words; j++) {
            u128 t = (u128)a[i] * b[j] + r[i + j] + carry;
            r[i + j] = (uint64_t)t;
            carry = (uint64_t)(t >> 64);
        }
        for (int k = i + b_words; carry; k++) {
            u128 t = (u128)r[k] + carry;
            r[k] = (uint64_t)t;
            carry = (uint64_t)(t >> 64);
        }
    }
}

/* r -= a; returns the borrow. */
static inline uint64_t subtract(uint64_t *r, const uint64_t *a, int words) {
    uint64_t borrow = 0;
    for (int i = 0; i < words; i++) {
        u128 t = (u128)r[i] - a[i] - borrow;
        r[i] = (uint64_t)t;
        borrow = (uint64_t)(t >> 64) & 1;
    }
    return borrow;
}

static inline int is_below_order(const uint64_t *a) {
    uint64_t t[4];
    memcpy(t, a, sizeof t);
    return (int)subtract(t, ORDER, 4);
}

/* Reads 32 bytes, the highest first; returns whether they are less than n, and reduces them. */
static inline int scalar_load(scalar *r, const uint8_t *bytes) {
    for (int i = 0; i < 4; i++) r->n[i] = load64(bytes + 8 * (3 - i));
    int is_below = is_below_order(r->n);
    if (!is_below) subtract(r->n, ORDER, 4);
    return is_below;
}

/* Folds eight words: what is above 2^256 is worth 2^256 - n each. */
static inline void scalar_reduce(scalar *r, const uint64_t *wide) {
    uint64_t now[8];
    memcpy(now, wide, sizeof now);
    while (now[4] | now[5] | now[6] | now[7]) {
        uint64_t next[8] = {now[0], now[1], now[2], now[3]};
        add_product(next, now + 4, 4, ORDER_FOLD, 3);
        memcpy(now, next, sizeof now);
    }
    if (!is_below_order(now)) subtract(now, ORDER, 4);
    memcpy(r->n, now, sizeof r->n);
}

/* r += a * b; r and b are scalars, a any words, four at most. */
static inline void scalar_add_product(scalar *r, const uint64_t *a, int words, const scalar *b) {
    uint64_t wide[8] = {r->n[0], r->n[1], r->n[2], r->n[3]};
    add_product(wide, a, words, b->n, 4); /* at most n - 1 + (2^256 - 1)(n - 1): it has room */
    scalar_reduce(r, wide);
}

static inline void scalar_negate(scalar *r) {
    if (!(r->n[0] | r->n[1] | r->n[2] | r->n[3])) return;
    uint64_t t[4];
    memcpy(t, ORDER, sizeof t);
    subtract(t, r->n, 4);
    memcpy(r->n, t, sizeof t);
}

/* A number of 128 bits and a sign. */
typedef struct {
    uint64_t n[2];
    int is_negative;
} half;

/* The number of which `words`, three of them, are the two's complement. */
static inline half half_of(uint64_t *words) {
    half r = {.is_negative = (int)(words[2] >> 63)};
    if (r.is_negative) {
        uint64_t positive[3] = {0};
        subtract(positive, words, 3);
        memcpy(words, positive, sizeof positive);
    }
    memcpy(r.n, words, sizeof r.n);
    return r;
}

/* Splits k into a + b * lambda modulo n, where lambda is the cube root of one by which a point is
 * multiplied when its x is multiplied by beta.
 *
 * The pairs (A1, -B1) and (A2, B2) make a short basis of all (a, b) with a + b * lambda = 0 (Gallant,
 * Lambert, Vanstone 2001). (k, 0) minus the nearest sum of them is at most half of both together: |a| is
 * less than 0xa2a9 * 2^112, |b| less than 0x8a66 * 2^112. The nearest one is found by multiplication
 * with G1 and G2, which are B2 / n and B1 / n times 2^384.
 */
static inline void scalar_split(half *a, half *b, const scalar *k) {
    static const uint64_t A1[2] = {0xe86c90e49284eb15, 0x3086d221a7d46bcd}; /* and B2 */
    static const uint64_t B1[2] = {0x6f547fa90abfe4c3, 0xe4437ed6010e8828};
    static const uint64_t A2[3] = {0x57c1108d9d44cfd8, 0x14ca50f7a8e2f3f6, 1};
    static const uint64_t G[2][4] = {
        {0xe893209a45dbb031, 0x3daa8a1471e8ca7f, 0xe86c90e49284eb15, 0x3086d221a7d46bcd},
        {0x1571b4ae8ac47f71, 0x221208ac9df506c6, 0x6f547fa90abfe4c4, 0xe4437ed6010e8828},
    };
    uint64_t count[2][2]; /* how often each of the pairs is taken off */
    for (int i = 0; i < 2; i++) {
        uint64_t wide[9] = {0, 0, 0, 0, 0, (uint64_t)1 << 63}; /* rounds to the nearest */
        add_product(wide, k->n, 4, G[i], 4);
        memcpy(count[i], wide + 6, sizeof count[i]);
    }
    /* Modulo 2^192: the results are small. */
    uint64_t first[3] = {k->n[0], k->n[1], k->n[2]}, second[3] = {0};
    uint64_t off[6] = {0}, on[6] = {0}, other[6] = {0};
    add_product(off, count[0], 2, A1, 2);
    add_product(off, count[1], 2, A2, 3);
    subtract(first, off, 3);
    add_product(on, count[0], 2, B1, 2);
    add_product(other, count[1], 2, A1, 2);
    memcpy(second, on, sizeof second);
    subtract(second, other, 3);
    *a = half_of(first);
    *b = half_of(second);
}

#endif
