/* Additions in lanes, as `add_pairs`: see lanes.h. Each lane has a product of its own. Behind the sums, the
 * pool has room for LANES - 1 more points. */
TARGET static void IN(add_pairs)(const pool *in, const addition *todo, size_t pairs, products *room) {
    affine *sums = in->points + in->used;
    for (size_t i = pairs; i % LANES; i++) sums[i] = (affine){FE_ONE, FE_ONE}; /* fills up the lanes */
    size_t groups = (pairs + LANES - 1) / LANES;
    KIND *before = (KIND *)(void *)room; /* the products of all that was divided by before */
    KIND product, inverse, slope, t;
    fe each[LANES], earlier[LANES], all = FE_ONE;
    for (int lane = 0; lane < LANES; lane++) each[lane] = FE_ONE;
    IN(load)(&product, each, sizeof *each);
    for (size_t i = 0; i < groups; i++) {
        before[i] = product;
        IN(load)(&t, &sums[LANES * i].x, sizeof *sums);
        IN(mul)(&product, &product, &t);
    }
    /* One inversion for all lanes: each lane's inverse is that of all, times the others. */
    IN(store)(each, &product);
    for (int lane = 0; lane < LANES; lane++) {
        earlier[lane] = all;
        fe_mul(&all, &all, &each[lane]);
    }
    fe_invert(&all, &all);
    for (int lane = LANES; lane-- > 0;) {
        fe own = each[lane];
        fe_mul(&each[lane], &all, &earlier[lane]);
        fe_mul(&all, &all, &own);
    }
    IN(load)(&inverse, each, sizeof *each);
    for (size_t i = groups; i-- > 0;) {
        affine *sum = sums + LANES * i;
        int some = pairs - LANES * i < LANES ? (int)(pairs - LANES * i) : LANES;
        const addition *two = todo + LANES * i;
        IN(load)(&slope, &sum->y, sizeof *sum);
        IN(mul)(&t, &inverse, &before[i]);
        IN(mul)(&slope, &t, &slope);
        IN(load)(&t, &sum->x, sizeof *sum);
        IN(mul)(&inverse, &inverse, &t);
        IN(sqr)(&t, &slope);
        IN(store)(each, &t);
        for (int lane = 0; lane < some; lane++) sum_x(&sum[lane].x, &each[lane], &each[lane], in, &two[lane]);
        IN(load)(&t, each, sizeof *each);
        IN(mul)(&t, &slope, &t);
        IN(store)(each, &t);
        for (int lane = 0; lane < some; lane++) sum_y(&sum[lane].y, &each[lane], in, &two[lane]);
    }
}
