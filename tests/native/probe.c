/* Opens the arithmetic to the tests: bytes in, bytes out, numbers with the highest byte first. */
#include "group.h"
#include "scalar.h"
#include "sha256.h"

static void write_scalar(uint8_t *out, const uint64_t *words, int count) {
    for (int i = 0; i < count; i++) store64(out + 8 * (count - 1 - i), words[i]);
}

/* An element, made larger by multiples of p that change nothing but its magnitude. */
static fe grown(const uint8_t *bytes, uint64_t magnitude) {
    static const fe zero = {{0}};
    fe a, t;
    fe_load(&a, bytes);
    while (magnitude >= 3) {
        fe_sub(&t, &a, &zero, 1);
        a = t;
        magnitude -= 2;
    }
    return a;
}

/* Whether the bytes are below p; out: a * b, a * a, a - b, 1 / a, a root of a or nothing of the kind,
 * a, and whether a is zero. */
int probe_field(uint8_t *out, const uint8_t *one, const uint8_t *two, uint64_t magnitude) {
    fe a = grown(one, magnitude), b = grown(two, magnitude), r, t;
    fe_mul(&r, &a, &b);
    fe_normalize(&r);
    fe_store(out, &r);
    fe_sqr(&r, &a);
    fe_normalize(&r);
    fe_store(out + 32, &r);
    fe_sub(&r, &a, &b, magnitude);
    fe_normalize(&r);
    fe_store(out + 64, &r);
    t = a;
    fe_carry(&t);
    fe_invert(&r, &t);
    fe_normalize(&r);
    fe_store(out + 96, &r);
    fe_root(&r, &t);
    fe_normalize(&r);
    fe_store(out + 128, &r);
    r = a;
    fe_normalize(&r);
    fe_store(out + 160, &r);
    out[192] = (uint8_t)fe_is_zero(&a);
    return fe_load(&t, one);
}

#define IN_LANES "probe_in_lanes.h"
#include "each_lanes.h"

/* out, of as many pairs as there are lanes: each a * b, then each b * b; a is of this
 * magnitude, b small, as a product has to be. Returns how many lanes there are. */
int probe_lanes(uint8_t *out, const uint8_t *ones, const uint8_t *twos, uint64_t magnitude) {
    int count = 0;
#ifdef WITH_X86
    fe found[2 * MOST_LANES], a[MOST_LANES], b[MOST_LANES];
    for (int i = 0; i < MOST_LANES; i++) {
        a[i] = grown(ones + 32 * i, magnitude);
        b[i] = grown(twos + 32 * i, 1);
    }
    count = lanes_here();
    if (count == 8) lanes8_probe(found, a, b);
    if (count == 4) lanes4_probe(found, a, b);
    for (int i = 0; i < 2 * count; i++) {
        fe_normalize(&found[i]);
        fe_store(out + 32 * i, &found[i]);
    }
#else
    (void)out, (void)ones, (void)twos, (void)magnitude;
#endif
    return count;
}

/* out: the roots of so many. */
void probe_roots(uint8_t *out, const uint8_t *values, int count) {
    fe a[MOST_LANES], r[MOST_LANES];
    for (int i = 0; i < MOST_LANES; i++) {
        fe_load(&a[i], values + 32 * (i % count));
        fe_carry(&a[i]);
    }
    fe_roots(r, a, (size_t)count);
    for (int i = 0; i < count; i++) {
        fe_normalize(&r[i]);
        fe_store(out + 32 * i, &r[i]);
    }
}

/* Whether the bytes are below n; out: c + a * b, -a, and the halves of a with their signs. */
int probe_scalar(uint8_t *out, const uint8_t *one, const uint8_t *two, const uint8_t *three) {
    scalar a, b, c;
    half first, second;
    int is_below = scalar_load(&a, one);
    scalar_load(&b, two);
    scalar_load(&c, three);
    scalar_add_product(&c, a.n, 4, &b);
    write_scalar(out, c.n, 4);
    scalar_split(&first, &second, &a);
    scalar_negate(&a);
    write_scalar(out + 32, a.n, 4);
    write_scalar(out + 64, first.n, 2);
    write_scalar(out + 80, second.n, 2);
    out[96] = (uint8_t)first.is_negative;
    out[97] = (uint8_t)second.is_negative;
    return is_below;
}

/* out: the x and y of one, doubled, plus two, both in Jacobian coordinates; returns whether it is finite. */
int probe_point(uint8_t *out, const uint8_t *one, const uint8_t *two, int times) {
    affine a, b;
    fe_load(&a.x, one);
    fe_load(&a.y, one + 32);
    fe_load(&b.x, two);
    fe_load(&b.y, two + 32);
    jacobian sum = jacobian_of(&a), other = jacobian_of(&b);
    jacobian_double(&sum, &sum);
    for (int i = 0; i < times; i++) jacobian_add(&sum, &other);
    if (sum.is_infinity) return 0;
    fe inverse, square;
    fe_invert(&inverse, &sum.z);
    fe_sqr(&square, &inverse);
    fe_mul(&sum.x, &sum.x, &square);
    fe_mul(&square, &square, &inverse);
    fe_mul(&sum.y, &sum.y, &square);
    fe_normalize(&sum.x);
    fe_normalize(&sum.y);
    fe_store(out, &sum.x);
    fe_store(out + 32, &sum.y);
    return 1;
}

/* out: SHA-256 of so many bytes, by both ways if there are two; the last block has less than 56. */
void probe_sha256(uint8_t *out, const uint8_t *bytes, size_t size) {
    sha_block *ways[2] = {sha_block_plain, sha_block_here()};
    for (int i = 0; i < 2; i++) {
        uint32_t state[8];
        memcpy(state, SHA_START, sizeof state);
        for (size_t at = 0; at + 64 <= size; at += 64) ways[i](state, bytes + at);
        sha_end(ways[i], state, bytes + size / 64 * 64, size, out + 32 * i);
    }
}
