/* Products in lanes: see lanes.h. */
TARGET static void IN(probe)(fe *found, const fe *ones, const fe *twos) {
    KIND a, b, t;
    IN(load)(&a, ones, sizeof *ones);
    IN(load)(&b, twos, sizeof *twos);
    IN(mul)(&t, &a, &b);
    IN(store)(found, &t);
    IN(sqr)(&t, &b);
    IN(store)(found + LANES, &t);
}
