/* The field in several lanes at once: in as many as the processor has.
 *
 * What is done in lanes is written once, in files that each_lanes.h includes for each kind: KIND is the type of an
 * element in each of its LANES, IN(name) its function, TARGET what functions with it are compiled for.
 */
#ifndef BIGBROTR_LANES_H
#define BIGBROTR_LANES_H

#include "field.h"

#define MOST_LANES 8

#ifdef WITH_X86
#include "lanes4.h"
#include "lanes8.h"

#define LANES_JOIN(kind, name) kind##_##name
#define LANES_NAME(kind, name) LANES_JOIN(kind, name)
#define IN(name) LANES_NAME(KIND, name)

/* How many lanes there are, or 0. NARROW leaves out the widest, for tests. */
static inline int lanes_here(void) {
#ifndef NARROW
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma")) return 8;
#endif
    return __builtin_cpu_supports("avx2") ? 4 : 0;
}
#endif

#endif
