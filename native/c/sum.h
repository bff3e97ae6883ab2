/* The sum of many points, each times a scalar of its own, by buckets (Pippenger 1976).
 *
 * Scalars are written in digits of `width` bits, from -2^(width-1) to 2^(width-1). For each place, points
 * with the same digit go into one bucket, a point with a negative digit as its opposite. What is in a
 * bucket is added up pair by pair in affine coordinates: the divisions of all pairs, in all buckets, cost
 * one inversion together (Montgomery's trick), and an addition then takes six multiplications.
 *
 * A bucket's sum has to be counted `digit` times. With digit = high * 2^low_bits + low, it goes into one
 * more bucket for `high` and one for `low`; these are few, and their sums are weighted by adding up from
 * the largest downwards.
 */
#ifndef BIGBROTR_SUM_H
#define BIGBROTR_SUM_H

#include <stdlib.h>

#include "group.h"
#include "lanes.h"
#include "scalar.h"

#define SCALAR_BITS 128
#define AT_ONCE 9000 /* digits whose points are added up together: the work stays in the cache */

typedef struct {
    uint32_t start, count;
} bucket;

/* Points, and their sums behind them; an entry is the number of one of them, doubled, and 1 more for its
 * opposite. */
typedef struct {
    affine *points;
    uint32_t used;
} pool;

static inline const fe *entry_x(const pool *in, uint32_t entry) { return &in->points[entry >> 1].x; }

/* Gives magnitude 2. */
static inline void entry_y(fe *y, const pool *in, uint32_t entry) {
    const fe *up = &in->points[entry >> 1].y;
    uint64_t flip = -(uint64_t)(entry & 1); /* every bit or none: no branch, which would be guessed wrong */
    y->n[0] = ((2 * P0 & flip) + (up->n[0] ^ flip)) - flip;
    y->n[1] = ((2 * M52 & flip) + (up->n[1] ^ flip)) - flip;
    y->n[2] = ((2 * M52 & flip) + (up->n[2] ^ flip)) - flip;
    y->n[3] = ((2 * M52 & flip) + (up->n[3] ^ flip)) - flip;
    y->n[4] = ((2 * M48 & flip) + (up->n[4] ^ flip)) - flip;
}

static inline affine entry_point(const pool *in, uint32_t entry) {
    affine point = {.x = *entry_x(in, entry)};
    entry_y(&point.y, in, entry);
    fe_carry(&point.y);
    return point;
}

/* Two entries whose sum comes next. */
typedef struct {
    uint32_t a, b;
} addition;

/* Room for what is divided by before four additions, one by one or in lanes. */
typedef union {
    fe singly[4];
#ifdef WITH_X86
    lanes4 of_four;
    lanes8 of_eight;
#endif
} products;

/* Pairs up what is in each bucket. Until a sum is known, its place holds the fraction that is the slope
 * of the line through both points: x what is divided by (magnitude 4 at most), y what is divided (6). */
static size_t pair_up(pool *in, uint32_t *entries, bucket *buckets, size_t count, addition *todo) {
    size_t pairs = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t *held = entries + buckets[i].start;
        uint32_t left = 0;
        for (uint32_t j = 0; j + 1 < buckets[i].count; j += 2) {
            affine *slope = &in->points[in->used + pairs];
            fe y[2];
            entry_y(&y[0], in, held[j]);
            entry_y(&y[1], in, held[j + 1]);
            fe_sub(&slope->x, entry_x(in, held[j + 1]), entry_x(in, held[j]), 1);
            fe_sub(&slope->y, &y[1], &y[0], 2);
            if (fe_is_zero(&slope->x)) {
                if (!fe_is_zero(&slope->y)) continue; /* opposites: nothing is left of them */
                fe_add(&slope->x, &y[0], &y[0]);
                fe_sqr(&slope->y, entry_x(in, held[j]));
                fe_times(&slope->y, &slope->y, 3);
            }
            todo[pairs] = (addition){held[j], held[j + 1]};
            held[left++] = (uint32_t)(in->used + pairs++) << 1;
        }
        if (buckets[i].count & 1) held[left++] = held[buckets[i].count - 1];
        buckets[i].count = left;
    }
    return pairs;
}

/* x of the sum, whose slope has this square; and x of the first point minus that (magnitude 3). */
static inline void sum_x(fe *x, fe *back, const fe *square, const pool *in, const addition *two) {
    fe_sub(x, square, entry_x(in, two->a), 1);
    fe_sub(x, x, entry_x(in, two->b), 1);
    fe_carry(x);
    fe_sub(back, entry_x(in, two->a), x, 1);
}

/* y of the sum, when `rise` is the slope times what `sum_x` gave. */
static inline void sum_y(fe *y, const fe *rise, const pool *in, const addition *two) {
    fe down;
    entry_y(&down, in, two->a);
    fe_sub(y, rise, &down, 2);
    fe_carry(y);
}

/* Divides, and makes points of slopes. */
static void add_pairs(const pool *in, const addition *todo, size_t pairs, products *room) {
    affine *sums = in->points + in->used;
    fe *before = room->singly; /* the product of all that was divided by before */
    fe inverse, product = FE_ONE, slope, t;
    for (size_t i = 0; i < pairs; i++) {
        before[i] = product;
        fe_mul(&product, &product, &sums[i].x);
    }
    fe_invert(&inverse, &product);
    for (size_t i = pairs; i-- > 0;) {
        fe_mul(&t, &inverse, &before[i]);
        fe_mul(&inverse, &inverse, &sums[i].x);
        fe_mul(&slope, &sums[i].y, &t);
        fe_sqr(&t, &slope);
        sum_x(&sums[i].x, &t, &t, in, &todo[i]);
        fe_mul(&t, &slope, &t);
        sum_y(&sums[i].y, &t, in, &todo[i]);
    }
}

#define IN_LANES "sum_in_lanes.h"
#include "each_lanes.h"

/* Adds up what is in each bucket, until nothing or one entry is in it. `todo` and `room` are for half of
 * all entries; the pool has room for as many sums as there are entries, and MOST_LANES - 1. */
static void add_up(pool *in, uint32_t *entries, bucket *buckets, size_t count, addition *todo, products *room) {
    size_t pairs;
    void (*add)(const pool *, const addition *, size_t, products *) = add_pairs;
#ifdef WITH_X86
    int lanes = lanes_here();
    if (lanes) add = lanes == 8 ? lanes8_add_pairs : lanes4_add_pairs;
#endif
    while ((pairs = pair_up(in, entries, buckets, count, todo)) > 0) {
        add(in, todo, pairs, room);
        in->used += (uint32_t)pairs;
    }
}

/* How digits are cut. */
typedef struct {
    int width, places;
    uint32_t most;     /* the largest digit; the last place has no carry, and may be larger */
    uint32_t most_last;
    int low_bits;
} digits;

static digits digits_of(int width) {
    digits d = {.width = width, .places = (SCALAR_BITS + width - 1) / width, .low_bits = width / 2};
    d.most = (uint32_t)1 << (width - 1);
    d.most_last = ((uint32_t)1 << (SCALAR_BITS - width * (d.places - 1)));
    return d;
}

/* The width with which so many points cost least, in additions: a rough estimate. */
static digits digits_for(size_t points) {
    digits best = digits_of(4);
    double least = 0;
    for (int width = 3; width <= 10; width++) {
        digits d = digits_of(width);
        double small = (double)((1 << (d.width - d.low_bits)) + (1 << d.low_bits));
        double cost = d.places * ((double)points + d.most + 4.5 * small);
        if (least == 0 || cost < least) {
            least = cost;
            best = d;
        }
    }
    return best;
}

/* The digit at a place, and the carry for the next one. */
static inline uint32_t digit_at(const digits *d, const half *k, int place, uint32_t *carry, int *is_negative) {
    int at = place * d->width;
    uint64_t bits = k->n[at / 64] >> (at % 64);
    if (at < 64 && at + d->width > 64) bits |= k->n[1] << (64 - at);
    uint32_t digit = ((uint32_t)bits & (((uint32_t)1 << d->width) - 1)) + *carry;
    *carry = 0;
    *is_negative = k->is_negative;
    if (digit > d->most && place < d->places - 1) {
        digit = ((uint32_t)1 << d->width) - digit;
        *carry = 1;
        *is_negative = !*is_negative;
    }
    return digit;
}

/* Sum of i times what is in bucket i. */
static jacobian weighted(const pool *in, const uint32_t *entries, const bucket *buckets, uint32_t count) {
    jacobian above = {.is_infinity = 1}, sum = {.is_infinity = 1};
    for (uint32_t i = count; i-- > 1;) {
        if (buckets[i].count) {
            affine point = entry_point(in, entries[buckets[i].start]);
            jacobian one = jacobian_of(&point);
            jacobian_add(&above, &one);
        }
        jacobian_add(&sum, &above);
    }
    return sum;
}

/* Whether the sum of k[i] times points[i] is the point at infinity: 1 or 0; or -1: no memory. */
static int sums_to_nothing(const affine *points, const half *k, size_t count) {
    digits d = digits_for(count);
    size_t places = (size_t)d.places, width = d.most + 1, last = d.most_last + 1;
    size_t group = AT_ONCE / count + 1;
    if (group > places) group = places;
    uint32_t lows = (uint32_t)1 << d.low_bits, highs = (uint32_t)(last >> d.low_bits) + 1;
    if (highs < (width >> d.low_bits) + 1) highs = (uint32_t)(width >> d.low_bits) + 1;
    size_t widest = width > last ? width : last;
    size_t held = places * widest;           /* sums of buckets */
    size_t entries_most = 2 * held;          /* once in a high, once in a low bucket */
    if (entries_most < group * count) entries_most = group * count;
    size_t points_most = count + held + entries_most + MOST_LANES - 1;
    size_t buckets_most = places * (lows + highs);
    if (buckets_most < group * widest) buckets_most = group * widest;

    int result = -1;
    pool in = {.points = malloc(points_most * sizeof(affine))};
    uint32_t *entries = malloc(entries_most * sizeof *entries);
    bucket *buckets = malloc(buckets_most * sizeof *buckets);
    addition *todo = malloc((entries_most / 2 + 1) * sizeof *todo);
    products *room = aligned_alloc(_Alignof(products), (entries_most / 8 + 1) * sizeof *room);
    uint32_t *sum_at = calloc(held, sizeof *sum_at); /* where the sum of a bucket is, and 0: it is empty */
    uint8_t *carries = calloc(count, 1);
    int16_t *cut = malloc(group * count * sizeof *cut);
    if (!in.points || !entries || !buckets || !todo || !room || !sum_at || !carries || !cut) goto done;

    memcpy(in.points, points, count * sizeof *points);
    uint32_t sums_end = (uint32_t)count;
    for (size_t first = 0; first < places; first += group) {
        size_t some = places - first < group ? places - first : group;
        memset(buckets, 0, some * widest * sizeof *buckets);
        for (size_t i = 0; i < count; i++) {
            uint32_t carry = carries[i];
            for (size_t place = 0; place < some; place++) {
                int is_negative;
                uint32_t digit = digit_at(&d, &k[i], (int)(first + place), &carry, &is_negative);
                cut[place * count + i] = (int16_t)(is_negative ? -(int)digit : (int)digit);
                buckets[place * widest + digit].count++;
            }
            carries[i] = (uint8_t)carry;
        }
        uint32_t start = 0;
        for (size_t i = 0; i < some * widest; i++) {
            if (i % widest == 0) buckets[i].count = 0; /* zero times a point is nothing */
            buckets[i].start = start;
            start += buckets[i].count;
            buckets[i].count = 0;
        }
        for (size_t place = 0; place < some; place++) {
            for (size_t i = 0; i < count; i++) {
                int digit = cut[place * count + i];
                if (digit == 0) continue;
                bucket *into = &buckets[place * widest + (size_t)(digit < 0 ? -digit : digit)];
                entries[into->start + into->count++] = (uint32_t)i << 1 | (digit < 0);
            }
        }
        in.used = (uint32_t)(count + held);
        add_up(&in, entries, buckets, some * widest, todo, room);
        for (size_t i = 0; i < some * widest; i++) {
            if (!buckets[i].count) continue;
            in.points[sums_end] = entry_point(&in, entries[buckets[i].start]);
            sum_at[first * widest + i] = sums_end++;
        }
    }

    /* The sums once more, by the high and the low part of their digit. */
    uint32_t start = 0;
    for (size_t place = 0; place < places; place++) {
        for (uint32_t part = 0; part < lows + highs; part++) {
            bucket *into = &buckets[place * (lows + highs) + part];
            *into = (bucket){.start = start};
            uint32_t from = part < lows ? part : (part - lows) << d.low_bits;
            uint32_t step = part < lows ? lows : 1;
            uint32_t end = part < lows ? (uint32_t)widest : from + lows;
            if ((part < lows ? part : part - lows) == 0) continue; /* counts zero times */
            for (uint32_t digit = from; digit < end && digit < widest; digit += step) {
                uint32_t at = sum_at[place * widest + digit];
                if (at) entries[start + into->count++] = at << 1;
            }
            start += into->count;
        }
    }
    in.used = (uint32_t)(count + held);
    add_up(&in, entries, buckets, places * (lows + highs), todo, room);

    jacobian sum = {.is_infinity = 1};
    for (size_t place = places; place-- > 0;) {
        const bucket *low = &buckets[place * (lows + highs)];
        for (int i = d.low_bits; i < d.width; i++) jacobian_double(&sum, &sum);
        jacobian part = weighted(&in, entries, low + lows, highs);
        jacobian_add(&sum, &part);
        for (int i = 0; i < d.low_bits; i++) jacobian_double(&sum, &sum);
        part = weighted(&in, entries, low, lows);
        jacobian_add(&sum, &part);
    }
    result = sum.is_infinity;
done:
    free(in.points);
    free(entries);
    free(buckets);
    free(todo);
    free(room);
    free(sum_at);
    free(carries);
    free(cut);
    return result;
}

#endif
