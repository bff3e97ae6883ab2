/* The field in four lanes of AVX2: four products for the price of two.
 *
 * An element is ten limbs of 26 bits (the last one of 22), so that products of limbs fit into 64 bits.
 */
#ifndef BIGBROTR_LANES4_H
#define BIGBROTR_LANES4_H

#include <immintrin.h>
#include <stddef.h>

#include "field.h"

#define AVX2 __attribute__((target("avx2")))

/* Where nothing is said of what is compiled for, gcc lets such vectors lie anywhere. */
typedef struct {
    _Alignas(32) __m256i n[10];
} lanes4;

/* Does nothing, but here: else gcc works out all products first, and stores them until they are added. */
#define COLUMN_DONE(column) __asm__ volatile("" : "+x"(column))

AVX2 static inline __m256i lanes4_all(uint64_t word) { return _mm256_set1_epi64x((long long)word); }

/* Takes in four elements, of magnitude 6 at most, `stride` bytes one behind the other. */
AVX2 static inline void lanes4_load(lanes4 *r, const fe *first, size_t stride) {
    const uint8_t *at = (const uint8_t *)first;
    const __m256i m26 = lanes4_all(0x3FFFFFF);
#pragma GCC unroll 5
    for (size_t i = 0; i < 5; i++) {
        const uint8_t *limbs = at + 8 * i;
        __m128i low = _mm_unpacklo_epi64(_mm_loadu_si64(limbs), _mm_loadu_si64(limbs + stride));
        limbs += 2 * stride;
        __m128i high = _mm_unpacklo_epi64(_mm_loadu_si64(limbs), _mm_loadu_si64(limbs + stride));
        __m256i limb = _mm256_set_m128i(high, low);
        r->n[2 * i] = _mm256_and_si256(limb, m26);
        r->n[2 * i + 1] = _mm256_srli_epi64(limb, 26);
    }
}

/* Gives four elements of magnitude 1. */
AVX2 static inline void lanes4_store(fe *r, const lanes4 *a) {
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
        uint64_t w[4];
        __m256i limb = _mm256_add_epi64(a->n[2 * i], _mm256_slli_epi64(a->n[2 * i + 1], 26));
        _mm256_storeu_si256((__m256i *)(void *)w, limb);
        for (int lane = 0; lane < 4; lane++) r[lane].n[i] = w[lane];
    }
    for (int lane = 0; lane < 4; lane++) fe_carry(&r[lane]);
}

/* Folds 19 columns, each less than 2^60, the last one less than 2^47, into ten limbs: the last one of 22
 * bits, the others of 26, and the third and fourth little more. */
AVX2 static inline void lanes4_fold(lanes4 *r, __m256i *c) {
    const __m256i m26 = lanes4_all(0x3FFFFFF), m22 = lanes4_all(0x3FFFFF);
    const __m256i small260 = lanes4_all(0x3D10), small256 = lanes4_all(0x3D1);
    /* 2^260 is 2^36 + 0x3D10: limb 10 + i comes back at i, and by ten bits more at i + 1. */
    __m256i before = _mm256_setzero_si256();
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) {
        __m256i limb = _mm256_and_si256(c[10 + i], m26);
        __m256i carry = _mm256_srli_epi64(c[10 + i], 26);
        if (i < 8) {
            c[11 + i] = _mm256_add_epi64(c[11 + i], carry);
        } else {
            c[9] = _mm256_add_epi64(c[9], _mm256_mul_epu32(carry, small260));
            carry = _mm256_slli_epi64(carry, 10); /* less than 2^32: of limb 20 */
            c[0] = _mm256_add_epi64(c[0], _mm256_mul_epu32(carry, small260));
            c[1] = _mm256_add_epi64(c[1], _mm256_slli_epi64(carry, 10));
        }
        c[i] = _mm256_add_epi64(c[i], _mm256_mul_epu32(limb, small260));
        if (i) c[i] = _mm256_add_epi64(c[i], _mm256_slli_epi64(before, 10));
        before = limb;
    }
    c[9] = _mm256_add_epi64(c[9], _mm256_slli_epi64(before, 10));
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) {
        c[i + 1] = _mm256_add_epi64(c[i + 1], _mm256_srli_epi64(c[i], 26));
        c[i] = _mm256_and_si256(c[i], m26);
    }
    /* 2^256 is 2^32 + 0x3D1; what is above has up to 38 bits, and goes in two parts. */
    __m256i over = _mm256_srli_epi64(c[9], 22);
    __m256i low = _mm256_and_si256(over, m26), high = _mm256_srli_epi64(over, 26);
    c[9] = _mm256_and_si256(c[9], m22);
    c[0] = _mm256_add_epi64(c[0], _mm256_mul_epu32(low, small256));
    c[1] = _mm256_add_epi64(c[1], _mm256_slli_epi64(low, 6));
    c[1] = _mm256_add_epi64(c[1], _mm256_mul_epu32(high, small256));
    c[2] = _mm256_add_epi64(c[2], _mm256_slli_epi64(high, 6));
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        c[i + 1] = _mm256_add_epi64(c[i + 1], _mm256_srli_epi64(c[i], 26));
        c[i] = _mm256_and_si256(c[i], m26);
    }
    for (int i = 0; i < 10; i++) r->n[i] = c[i];
}

/* a * b; the limbs of one of them may have up to 29 bits. */
AVX2 static inline void lanes4_mul(lanes4 *r, const lanes4 *a, const lanes4 *b) {
    __m256i c[19];
#pragma GCC unroll 19
    for (int i = 0; i < 19; i++) {
        int first = i < 10 ? 0 : i - 9;
        c[i] = _mm256_mul_epu32(a->n[first], b->n[i - first]);
#pragma GCC unroll 10
        for (int j = first + 1; j < 10 && j <= i; j++)
            c[i] = _mm256_add_epi64(c[i], _mm256_mul_epu32(a->n[j], b->n[i - j]));
        COLUMN_DONE(c[i]);
    }
    lanes4_fold(r, c);
}

AVX2 static inline void lanes4_sqr(lanes4 *r, const lanes4 *a) {
    __m256i c[19], d[10];
#pragma GCC unroll 10
    for (int i = 0; i < 10; i++) d[i] = _mm256_add_epi64(a->n[i], a->n[i]);
#pragma GCC unroll 19
    for (int i = 0; i < 19; i++) {
        int first = i < 10 ? 0 : i - 9;
        c[i] = _mm256_mul_epu32(first == i - first ? a->n[first] : d[first], a->n[i - first]);
#pragma GCC unroll 10
        for (int j = first + 1; 2 * j <= i; j++)
            c[i] = _mm256_add_epi64(c[i], _mm256_mul_epu32(2 * j == i ? a->n[j] : d[j], a->n[i - j]));
        COLUMN_DONE(c[i]);
    }
    lanes4_fold(r, c);
}

#endif
