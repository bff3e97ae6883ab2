/* JSON, as far as plain events need it. */
#ifndef BIGBROTR_JSON_H
#define BIGBROTR_JSON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "field.h"

#if defined(__SSE2__) && !defined(PLAIN)
#include <emmintrin.h>
#define WIDE_STRINGS
#endif

/* What a hexadecimal digit is worth, as we write it: in lower case. */
static const uint8_t HEX[256] = {
#define NONE4 255, 255, 255, 255
#define NONE16 NONE4, NONE4, NONE4, NONE4
    NONE16, NONE16, NONE16,
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 255, NONE4,
    NONE16, NONE16,
    255, 10, 11, 12, 13, 14, 15, 255, NONE4, NONE4,
    NONE16, NONE16, NONE16, NONE16, NONE16, NONE16, NONE16, NONE16, NONE16,
#undef NONE16
#undef NONE4
};

static inline int eat(const uint8_t **at, const uint8_t *end, uint8_t wanted) {
    if (*at == end || **at != wanted) return 0;
    ++*at;
    return 1;
}

static inline void skip_space(const uint8_t **at, const uint8_t *end) {
    while (*at < end && (**at == ' ' || **at == '\n' || **at == '\r' || **at == '\t')) ++*at;
}

/* The first byte that is not plain within a string: a quote, a backslash, a control character, or a
 * part of what is not ASCII. */
static const uint8_t *plain_end(const uint8_t *p, const uint8_t *end) {
#ifdef WIDE_STRINGS
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(' ');
    for (; end - p >= 16; p += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)p);
        /* With a sign, what is not ASCII is below a space as well. */
        const __m128i odd = _mm_or_si128(
            _mm_cmplt_epi8(bytes, space), _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash)));
        const int found = _mm_movemask_epi8(odd);
        if (found) return p + __builtin_ctz((unsigned)found);
    }
#else
    const uint64_t ones = 0x0101010101010101, high = 0x8080808080808080;
    while (end - p >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        uint64_t quote = word ^ 0x22 * ones, backslash = word ^ 0x5c * ones;
        uint64_t found = (word | (word - 0x20 * ones) | (quote - ones) | (backslash - ones)) & high;
        if (found) break;
        p += 8;
    }
#endif
    while (p < end && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') p++;
    return p;
}

/* What follows on a character that is not ASCII; NULL when it is not UTF-8. */
static const uint8_t *wide_end(const uint8_t *p, const uint8_t *end) {
    const uint8_t first = *p;
    int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || end - p <= more) return NULL;
    if ((first == 0xe0 && p[1] < 0xa0) || (first == 0xf0 && p[1] < 0x90)) return NULL; /* too long */
    if ((first == 0xed && p[1] > 0x9f) || (first == 0xf4 && p[1] > 0x8f)) return NULL; /* no character */
    for (p++; more--; p++)
        if ((*p & 0xc0) != 0x80) return NULL;
    return p;
}

/* What follows on an escape as we write it; NULL for any other, and for U+0000, which no database of
 * ours can hold. */
static const uint8_t *escape_end(const uint8_t *p, const uint8_t *end) {
    if (end - p < 2) return NULL;
    if (p[1] != 'u') return p[1] && strchr("\"\\bfnrt", p[1]) ? p + 2 : NULL;
    if (end - p < 6 || memcmp(p + 2, "00", 2) != 0 || HEX[p[4]] > 1 || HEX[p[5]] > 15) return NULL;
    int code = HEX[p[4]] << 4 | HEX[p[5]];
    return code && !strchr("\b\f\n\r\t", code) ? p + 6 : NULL; /* these have escapes of their own */
}

/* The quote at the end of a string that begins behind one; NULL when there is none, and when it is not
 * written as we would write it. */
static const uint8_t *string_end(const uint8_t *p, const uint8_t *end, int may_escape) {
    while ((p = plain_end(p, end)) < end) {
        if (*p == '"') return p;
        if (*p < 0x20) return NULL;
        if (*p != '\\') {
            p = wide_end(p, end);
        } else {
            p = may_escape ? escape_end(p, end) : NULL;
        }
        if (!p) return NULL;
    }
    return NULL;
}

#endif
