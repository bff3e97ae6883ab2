/* The field in eight lanes of AVX-512, which has products of 52 bits: limbs stay as they are.
 *
 * A limb that goes into a product must be less than 2^52: what is above would be lost. Such are all elements
 * here, the last limb too; they stand for numbers less than 2^260.
 */
#ifndef BIGBROTR_LANES8_H
#define BIGBROTR_LANES8_H

#include <immintrin.h>
#include <stddef.h>

#include "field.h"

#define IFMA __attribute__((target("avx512f,avx512ifma")))

/* Where nothing is said of what is compiled for, gcc lets such vectors lie anywhere. */
typedef struct {
    _Alignas(64) __m512i n[5];
} lanes8;

IFMA static inline __m512i lanes8_all(uint64_t word) { return _mm512_set1_epi64((long long)word); }

/* Carries limbs of up to 60 bits, the last one of up to 51. */
IFMA static inline void lanes8_carry(lanes8 *r) {
    const __m512i m52 = lanes8_all(M52);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r->n[i + 1] = _mm512_add_epi64(r->n[i + 1], _mm512_srli_epi64(r->n[i], 52));
        r->n[i] = _mm512_and_si512(r->n[i], m52);
    }
}

/* The same where the last limb has up to 60 bits as well: it is 2^48 + 2^8 at most then. */
IFMA static inline void lanes8_reduce(lanes8 *r) {
    __m512i over = _mm512_srli_epi64(r->n[4], 48);
    r->n[4] = _mm512_and_si512(r->n[4], lanes8_all(M48));
    r->n[0] = _mm512_madd52lo_epu64(r->n[0], over, lanes8_all(FOLD));
    lanes8_carry(r);
}

/* Takes in eight elements, of magnitude 6 at most, `stride` bytes one behind the other. */
IFMA static inline void lanes8_load(lanes8 *r, const fe *first, size_t stride) {
    long long s = (long long)stride;
    const __m512i places = _mm512_set_epi64(7 * s, 6 * s, 5 * s, 4 * s, 3 * s, 2 * s, s, 0);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) r->n[i] = _mm512_i64gather_epi64(places, &first->n[i], 1);
    lanes8_carry(r);
}

/* Gives eight elements of magnitude 1. */
IFMA static inline void lanes8_store(fe *r, const lanes8 *a) {
    lanes8 t = *a;
    lanes8_reduce(&t);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
        uint64_t w[8];
        _mm512_storeu_si512(w, t.n[i]);
        for (int lane = 0; lane < 8; lane++) r[lane].n[i] = w[lane];
    }
}

/* Folds ten columns, each less than 2^57, into five limbs: the last one less than 2^49. */
IFMA static inline void lanes8_fold(lanes8 *r, __m512i *c) {
    const __m512i m52 = lanes8_all(M52), fold260 = lanes8_all(FOLD260), zero = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int i = 5; i < 9; i++) {
        c[i + 1] = _mm512_add_epi64(c[i + 1], _mm512_srli_epi64(c[i], 52));
        c[i] = _mm512_and_si512(c[i], m52);
    }
    /* Limb 5 + i comes back at i and i + 1; what is above limb 4 then has 37 bits, and comes once more. */
    __m512i above = _mm512_madd52hi_epu64(zero, c[9], fold260);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
        c[i] = _mm512_madd52lo_epu64(c[i], c[5 + i], fold260);
        if (i < 4) c[i + 1] = _mm512_madd52hi_epu64(c[i + 1], c[5 + i], fold260);
    }
    c[0] = _mm512_madd52lo_epu64(c[0], above, fold260);
    c[1] = _mm512_madd52hi_epu64(c[1], above, fold260);
    for (int i = 0; i < 5; i++) r->n[i] = c[i];
    lanes8_reduce(r);
}

IFMA static inline void lanes8_mul(lanes8 *r, const lanes8 *a, const lanes8 *b) {
    const __m512i zero = _mm512_setzero_si512();
    /* Lower and upper halves of products by themselves: neither waits for the other. */
    __m512i low[10], high[10];
    for (int i = 0; i < 10; i++) low[i] = high[i] = zero;
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
#pragma GCC unroll 5
        for (int j = 0; j < 5; j++) {
            low[i + j] = _mm512_madd52lo_epu64(low[i + j], a->n[i], b->n[j]);
            high[i + j + 1] = _mm512_madd52hi_epu64(high[i + j + 1], a->n[i], b->n[j]);
        }
    }
    for (int i = 0; i < 10; i++) low[i] = _mm512_add_epi64(low[i], high[i]);
    lanes8_fold(r, low);
}

IFMA static inline void lanes8_sqr(lanes8 *r, const lanes8 *a) {
    const __m512i zero = _mm512_setzero_si512();
    __m512i low[10], high[10];
    for (int i = 0; i < 10; i++) low[i] = high[i] = zero;
    /* Sums are doubled, not limbs: these would be too long. */
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
#pragma GCC unroll 5
        for (int j = i + 1; j < 5; j++) {
            low[i + j] = _mm512_madd52lo_epu64(low[i + j], a->n[i], a->n[j]);
            high[i + j + 1] = _mm512_madd52hi_epu64(high[i + j + 1], a->n[i], a->n[j]);
        }
    }
    for (int i = 0; i < 10; i++) {
        low[i] = _mm512_add_epi64(low[i], high[i]);
        low[i] = _mm512_add_epi64(low[i], low[i]);
    }
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
        low[2 * i] = _mm512_madd52lo_epu64(low[2 * i], a->n[i], a->n[i]);
        low[2 * i + 1] = _mm512_madd52hi_epu64(low[2 * i + 1], a->n[i], a->n[i]);
    }
    lanes8_fold(r, low);
}

#endif
