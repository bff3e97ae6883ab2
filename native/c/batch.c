/* Verifies many BIP-340 signatures by one equation.
 *
 * A signature (R, s) of a message by the key P is right when s G = R + e P, where e is a hash of all
 * three. Of many, the sum of all equations, each times a random number, holds when all of them do, and
 * otherwise with a probability of about 2^-127 ("Batch verification" in BIP-340). One sum over many
 * points costs much less than many sums.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "field.h"
#include "group.h"
#include "scalar.h"
#include "sha256.h"
#include "sum.h"

#define CLAIM_BYTES 128 /* the signature (r and s), the message, the key */
#define COEFFICIENT_BYTES 16

/* What is known of keys from earlier calls: to find a point by its x costs a square root, and most
 * authors come again. */
#define KNOWN 4096

typedef struct {
    uint8_t key[32];
    affine point;
    int is_set;
} known_key;

static known_key known[KNOWN];
static atomic_flag known_taken = ATOMIC_FLAG_INIT; /* a second thread does without */

/* A key of the batch, and what it is multiplied by. */
typedef struct {
    const uint8_t *bytes;
    scalar factor;
} author;

static size_t slot_of(const uint8_t *key, uint64_t secret) {
    uint64_t word;
    memcpy(&word, key + 8, sizeof word);
    return (size_t)((word ^ secret) * 0x9E3779B97F4A7C15ULL >> 32);
}

/* Finds the points of all keys; returns whether all have one. */
static int lift_authors(affine *points, const author *authors, size_t count, affine *unknown, uint32_t *at) {
    int may_look = !atomic_flag_test_and_set_explicit(&known_taken, memory_order_acquire);
    size_t missing = 0;
    for (size_t i = 0; i < count; i++) {
        const known_key *found = &known[slot_of(authors[i].bytes, 0) % KNOWN];
        if (may_look && found->is_set && memcmp(found->key, authors[i].bytes, 32) == 0) {
            points[i] = found->point;
            continue;
        }
        if (!fe_load(&unknown[missing].x, authors[i].bytes)) {
            missing = SIZE_MAX;
            break;
        }
        at[missing++] = (uint32_t)i;
    }
    int are_points = missing != SIZE_MAX && lift(unknown, missing);
    for (size_t i = 0; are_points && i < missing; i++) {
        points[at[i]] = unknown[i];
        if (!may_look) continue;
        known_key *into = &known[slot_of(authors[at[i]].bytes, 0) % KNOWN];
        memcpy(into->key, authors[at[i]].bytes, 32);
        into->point = unknown[i];
        into->is_set = 1;
    }
    if (may_look) atomic_flag_clear_explicit(&known_taken, memory_order_release);
    return are_points;
}

/* Whether all of `count` claims are right: 1 or 0; or -1: no memory, or too many of them.
 *
 * `coefficients`: 16 bytes a claim, which nobody who made one of the claims can have known.
 */
__attribute__((visibility("default")))
int bigbrotr_native_are_right(const uint8_t *claims, size_t count, const uint8_t *coefficients) {
    if (count == 0) return 1;
    if (count > 1 << 20) return -1;
    sha_block *take = sha_block_here();
    uint8_t tags[64];
    uint32_t tagged[8];
    memcpy(tagged, SHA_START, sizeof tagged);
    sha_end(take, tagged, (const uint8_t *)"BIP0340/challenge", 17, tags);
    memcpy(tags + 32, tags, 32);
    memcpy(tagged, SHA_START, sizeof tagged);
    take(tagged, tags);

    size_t slots = 4;
    while (slots < 2 * count) slots *= 2;
    int result = -1;
    size_t most = 3 * count + 2; /* R, P and lambda P of each; G and lambda G */
    affine *points = malloc(most * sizeof *points);
    half *factors = malloc(most * sizeof *factors);
    author *authors = malloc(count * sizeof *authors);
    affine *unknown = malloc((count + 1) * sizeof *unknown);
    uint32_t *at = malloc(count * sizeof *at);
    uint32_t *table = calloc(slots, sizeof *table); /* of authors: which one, and 1 more */
    if (!points || !factors || !authors || !unknown || !at || !table) goto done;
    result = 0;

    uint64_t secret;
    memcpy(&secret, coefficients, sizeof secret);
    scalar on_generator = {{0}};
    size_t author_count = 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *r = claims + i * CLAIM_BYTES, *message = r + 64, *key = r + 96;
        scalar s, e;
        if (!fe_load(&points[i].x, r) || !scalar_load(&s, r + 32)) goto done;

        uint8_t hashed[96], hash[32];
        memcpy(hashed, r, 32);
        memcpy(hashed + 32, key, 32);
        memcpy(hashed + 64, message, 32);
        uint32_t state[8];
        memcpy(state, tagged, sizeof state);
        take(state, hashed);
        sha_end(take, state, hashed + 64, 64 + 96, hash);
        scalar_load(&e, hash);

        /* One bit is the sign: then the number has one bit less, and R needs no carry in the last place. */
        const uint8_t *coefficient = coefficients + i * COEFFICIENT_BYTES;
        half *a = &factors[i];
        a->n[0] = load64(coefficient + 8);
        a->n[1] = load64(coefficient) & ~((uint64_t)1 << 63);
        a->is_negative = coefficient[0] >> 7;

        uint32_t *slot = &table[slot_of(key, secret) & (slots - 1)];
        while (*slot && memcmp(authors[*slot - 1].bytes, key, 32) != 0)
            if (++slot == table + slots) slot = table;
        if (!*slot) {
            authors[author_count] = (author){.bytes = key};
            *slot = (uint32_t)++author_count;
        }
        /* a R + a e P - a s G, summed over all claims, has to be nothing. */
        scalar *on_key = &authors[*slot - 1].factor;
        if (a->is_negative) {
            scalar_negate(&e);
        } else {
            scalar_negate(&s);
        }
        scalar_add_product(on_key, a->n, 2, &e);
        scalar_add_product(&on_generator, a->n, 2, &s);
    }
    if (!lift(points, count)) goto done;
    affine *keys = points + count;
    if (!lift_authors(keys, authors, author_count, unknown, at)) goto done;
    keys[author_count] = GENERATOR;
    for (size_t i = 0; i <= author_count; i++) {
        affine *other = &keys[author_count + 1 + i];
        fe_mul(&other->x, &keys[i].x, &BETA);
        other->y = keys[i].y;
        half *factor = &factors[count + i];
        const scalar *whole = i < author_count ? &authors[i].factor : &on_generator;
        scalar_split(factor, factor + author_count + 1, whole);
    }
    result = sums_to_nothing(points, factors, count + 2 * (author_count + 1));
done:
    free(points);
    free(factors);
    free(authors);
    free(unknown);
    free(at);
    free(table);
    return result;
}
