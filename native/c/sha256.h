/* SHA-256 (FIPS 180-4), with the instructions that x86-64 may have for it. */
#ifndef BIGBROTR_SHA256_H
#define BIGBROTR_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "field.h"

static const uint32_t SHA_START[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static const uint32_t SHA_K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* Takes in one block of 64 bytes. */
static void sha_block_plain(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++, block += 4)
        w[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ a >> 3) + w[i - 7]
            + (rotr(b, 17) ^ rotr(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t a = s[0], e = s[4];
        uint32_t one = s[7] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & s[5]) ^ (~e & s[6]))
            + SHA_K[i] + w[i];
        uint32_t two = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22))
            + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

#ifdef WITH_X86
#include <cpuid.h>
#include <immintrin.h>

/* The same. The instructions want the state as ABEF and CDGH, and do two rounds each. */
__attribute__((target("sha,sse4.1"))) static void sha_block_x86(uint32_t state[8], const uint8_t *block) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i dcba = _mm_loadu_si128((const __m128i *)(const void *)state);
    __m128i hgfe = _mm_loadu_si128((const __m128i *)(const void *)(state + 4));
    __m128i badc = _mm_shuffle_epi32(dcba, 0xB1), fehg = _mm_shuffle_epi32(hgfe, 0xB1);
    __m128i abef = _mm_unpacklo_epi64(fehg, badc), cdgh = _mm_unpackhi_epi64(fehg, badc);
    __m128i first = abef, second = cdgh, w[4];
    for (int i = 0; i < 4; i++)
        w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(block + 16 * i)), swap);
    for (int i = 0; i < 16; i++) {
        __m128i now = w[0];
        __m128i sum = _mm_add_epi32(now, _mm_loadu_si128((const __m128i *)(const void *)(SHA_K + 4 * i)));
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
        __m128i next = _mm_add_epi32(_mm_sha256msg1_epu32(now, w[1]), _mm_alignr_epi8(w[3], w[2], 4));
        next = _mm_sha256msg2_epu32(next, w[3]);
        w[0] = w[1];
        w[1] = w[2];
        w[2] = w[3];
        w[3] = next;
    }
    abef = _mm_add_epi32(abef, first);
    cdgh = _mm_add_epi32(cdgh, second);
    badc = _mm_unpackhi_epi64(abef, cdgh);
    fehg = _mm_unpacklo_epi64(abef, cdgh);
    _mm_storeu_si128((__m128i *)(void *)state, _mm_shuffle_epi32(badc, 0xB1));
    _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_shuffle_epi32(fehg, 0xB1));
}

static int has_sha(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> 29 & 1 && __get_cpuid(1, &a, &b, &c, &d)
        && c >> 19 & 1;
}
#endif

typedef void sha_block(uint32_t state[8], const uint8_t *block);

/* The quickest way that this machine has. */
static sha_block *sha_block_here(void) {
#ifdef WITH_X86
    if (has_sha()) return sha_block_x86;
#endif
    return sha_block_plain;
}

/* Ends a hash: `tail`, less than 56 bytes, is what is left of `length` bytes. */
static inline void sha_end(sha_block *take, uint32_t state[8], const uint8_t *tail, uint64_t length, uint8_t *hash) {
    uint8_t block[64] = {0};
    memcpy(block, tail, length % 64);
    block[length % 64] = 0x80;
    for (int i = 0; i < 8; i++) block[56 + i] = (uint8_t)(8 * length >> (56 - 8 * i));
    take(state, block);
    for (int i = 0; i < 32; i++) hash[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

#endif
