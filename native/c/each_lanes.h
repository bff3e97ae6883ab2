/* Includes the file that IN_LANES names for each kind of lanes: see lanes.h. */
#ifdef WITH_X86
#define KIND lanes4
#define LANES 4
#define TARGET AVX2
#include IN_LANES
#undef KIND
#undef LANES
#undef TARGET

#define KIND lanes8
#define LANES 8
#define TARGET IFMA
#include IN_LANES
#undef KIND
#undef LANES
#undef TARGET
#endif
#undef IN_LANES
