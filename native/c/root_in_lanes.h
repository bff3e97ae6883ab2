/* Roots in lanes, as `fe_root`: see lanes.h. */

/* r = a, squared so many times, times b. */
TARGET static void IN(raise)(KIND *r, const KIND *a, int times, const KIND *b) {
    KIND t = *a;
    for (; times > 0; times--) IN(sqr)(&t, &t);
    IN(mul)(r, &t, b);
}

/* Roots of elements of magnitude 1. */
TARGET static void IN(root)(fe *r, const fe *roots_of) {
    KIND a, t, ones2, ones3, ones22, ones44, ones88;
    IN(load)(&a, roots_of, sizeof *roots_of);
    IN(raise)(&ones2, &a, 1, &a);
    IN(raise)(&ones3, &ones2, 1, &a);
    IN(raise)(&t, &ones3, 3, &ones3);
    IN(raise)(&t, &t, 3, &ones3);
    IN(raise)(&t, &t, 2, &ones2);
    IN(raise)(&ones22, &t, 11, &t);
    IN(raise)(&ones44, &ones22, 22, &ones22);
    IN(raise)(&ones88, &ones44, 44, &ones44);
    IN(raise)(&t, &ones88, 88, &ones88);
    IN(raise)(&t, &t, 44, &ones44);
    IN(raise)(&t, &t, 3, &ones3);
    IN(raise)(&t, &t, 23, &ones22);
    IN(raise)(&t, &t, 6, &ones2);
    IN(sqr)(&t, &t);
    IN(sqr)(&t, &t);
    IN(store)(r, &t);
}
