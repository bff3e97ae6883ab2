/* The group: points of y^2 = x^3 + 7. */
#ifndef BIGBROTR_GROUP_H
#define BIGBROTR_GROUP_H

#include <stddef.h>

#include "field.h"
#include "lanes.h"

typedef struct {
    fe x, y; /* of magnitude 1; the point at infinity has none */
} affine;

typedef struct {
    fe x, y, z; /* (x / z^2, y / z^3), of magnitude 1 */
    int is_infinity;
} jacobian;

static const affine GENERATOR = {
    {{0x2815b16f81798, 0xdb2dce28d959f, 0xe870b07029bfc, 0xbbac55a06295c, 0x79be667ef9dc}},
    {{0x7d08ffb10d4b8, 0x48a68554199c4, 0xe1108a8fd17b4, 0xc4655da4fbfc0, 0x483ada7726a3}},
};

/* A cube root of one. */
static const fe BETA = {
    {0x96c28719501ee, 0x7512f58995c13, 0xc3434e99cf049, 0x7106e64479ea, 0x7ae96a2b657c},
};

/* r = 2 a (EFD: dbl-2009-l). */
static void jacobian_double(jacobian *r, const jacobian *a) {
    if (a->is_infinity) {
        *r = *a;
        return;
    }
    fe xx, yy, d, e, t;
    fe_sqr(&xx, &a->x);
    fe_sqr(&yy, &a->y);
    fe_mul(&d, &a->x, &yy);
    fe_times(&d, &d, 4);
    fe_times(&e, &xx, 3);
    fe_mul(&t, &a->y, &a->z);
    fe_add(&r->z, &t, &t);
    fe_carry(&r->z);
    fe_sqr(&r->x, &e);
    fe_times(&t, &d, 2);
    fe_sub(&r->x, &r->x, &t, 8);
    fe_carry(&r->x);
    fe_sub(&t, &d, &r->x, 1);
    fe_mul(&r->y, &e, &t); /* magnitudes 3 and 6 */
    fe_sqr(&yy, &yy);
    fe_times(&yy, &yy, 8);
    fe_sub(&r->y, &r->y, &yy, 8);
    fe_carry(&r->y);
    r->is_infinity = 0; /* no point has the order two */
}

/* r += b (EFD: add-1998-cmo-2). */
static void jacobian_add(jacobian *r, const jacobian *b) {
    if (b->is_infinity) return;
    if (r->is_infinity) {
        *r = *b;
        return;
    }
    fe u1, u2, s1, s2, zz, t;
    fe_sqr(&zz, &b->z);
    fe_mul(&u1, &r->x, &zz);
    fe_mul(&t, &zz, &b->z);
    fe_mul(&s1, &r->y, &t);
    fe_sqr(&zz, &r->z);
    fe_mul(&u2, &b->x, &zz);
    fe_mul(&t, &zz, &r->z);
    fe_mul(&s2, &b->y, &t);
    fe h, slope, hh, hhh, v;
    fe_sub(&h, &u2, &u1, 1);
    fe_sub(&slope, &s2, &s1, 1);
    if (fe_is_zero(&h)) {
        if (fe_is_zero(&slope)) {
            jacobian_double(r, b);
        } else {
            r->is_infinity = 1;
        }
        return;
    }
    fe_sqr(&hh, &h); /* magnitude 3 */
    fe_mul(&hhh, &hh, &h);
    fe_mul(&v, &u1, &hh);
    fe_mul(&t, &r->z, &b->z);
    fe_mul(&r->z, &t, &h);
    fe_sqr(&r->x, &slope);
    fe_sub(&r->x, &r->x, &hhh, 1);
    fe_sub(&r->x, &r->x, &v, 1);
    fe_sub(&r->x, &r->x, &v, 1);
    fe_carry(&r->x);
    fe_sub(&t, &v, &r->x, 1);
    fe_mul(&r->y, &slope, &t); /* magnitudes 3 and 3 */
    fe_mul(&t, &s1, &hhh);
    fe_sub(&r->y, &r->y, &t, 1);
    fe_carry(&r->y);
}

static inline jacobian jacobian_of(const affine *a) {
    return (jacobian){.x = a->x, .y = a->y, .z = FE_ONE, .is_infinity = 0};
}

/* r = a, squared so many times, times b. */
static void fe_raise(fe *r, const fe *a, int times, const fe *b) {
    fe t = *a;
    for (; times > 0; times--) fe_sqr(&t, &t);
    fe_mul(r, &t, b);
}

/* What p - 2 and (p + 1) / 4 begin with in binary: 223 ones, a zero and 22 ones. Gives a to the power of
 * that, and of two ones. */
static void fe_common_power(fe *r, fe *ones2, const fe *a) {
    fe ones3, ones22, ones44, ones88, t;
    fe_raise(ones2, a, 1, a);
    fe_raise(&ones3, ones2, 1, a);
    fe_raise(&t, &ones3, 3, &ones3);
    fe_raise(&t, &t, 3, &ones3);
    fe_raise(&t, &t, 2, ones2);
    fe_raise(&ones22, &t, 11, &t);
    fe_raise(&ones44, &ones22, 22, &ones22);
    fe_raise(&ones88, &ones44, 44, &ones44);
    fe_raise(&t, &ones88, 88, &ones88);
    fe_raise(&t, &t, 44, &ones44);
    fe_raise(&t, &t, 3, &ones3);
    fe_raise(r, &t, 23, &ones22);
}

/* r = 1 / a, the magnitude of a 1; of zero, it is zero. */
static void fe_invert(fe *r, const fe *a) {
    fe t, ones2;
    fe_common_power(&t, &ones2, a);
    fe_raise(&t, &t, 5, a);
    fe_raise(&t, &t, 3, &ones2);
    fe_raise(r, &t, 2, a);
}

/* The root of an element of magnitude 1; of one that has none, something else. */
static void fe_root(fe *r, const fe *a) {
    fe t, ones2;
    fe_common_power(&t, &ones2, a);
    fe_raise(&t, &t, 6, &ones2);
    fe_sqr(&t, &t);
    fe_sqr(r, &t);
}

#define IN_LANES "root_in_lanes.h"
#include "each_lanes.h"

/* The roots of so many, MOST_LANES at most; there is room for as many, and something in it. */
static void fe_roots(fe *r, const fe *a, size_t count) {
#ifdef WITH_X86
    size_t lanes = (size_t)lanes_here();
    if (lanes) {
        for (size_t i = 0; i < count; i += lanes) (lanes == 8 ? lanes8_root : lanes4_root)(r + i, a + i);
        return;
    }
#endif
    for (size_t i = 0; i < count; i++) fe_root(&r[i], &a[i]);
}

/* Finds of each x (normalized) the point with an even y; returns whether there is one of all of them. */
static int lift(affine *points, size_t count) {
    static const fe zero = {{0}}, seven = {{7, 0, 0, 0, 0}};
    for (size_t start = 0; start < count; start += MOST_LANES) {
        affine *point = points + start;
        size_t some = count - start < MOST_LANES ? count - start : MOST_LANES;
        fe cube[MOST_LANES], root[MOST_LANES], t;
        for (size_t i = some; i < MOST_LANES; i++) cube[i] = FE_ONE;
        for (size_t i = 0; i < some; i++) {
            fe_sqr(&t, &point[i].x);
            fe_mul(&t, &t, &point[i].x);
            fe_add(&cube[i], &t, &seven);
            fe_carry(&cube[i]);
        }
        fe_roots(root, cube, some);
        for (size_t i = 0; i < some; i++) {
            fe_sqr(&t, &root[i]);
            fe_sub(&t, &t, &cube[i], 1);
            if (!fe_is_zero(&t)) return 0;
            fe_normalize(&root[i]);
            if (root[i].n[0] & 1) {
                fe_sub(&root[i], &zero, &root[i], 1);
                fe_normalize(&root[i]);
            }
            point[i].y = root[i];
        }
    }
    return 1;
}

#endif
