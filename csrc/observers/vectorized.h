// How a loop asks to be compiled once for each instruction set, the best of which is chosen while loading.
#pragma once

#if defined(__x86_64__) && defined(__linux__)
#define JITQUANT_VECTORIZED __attribute__((optimize("O3"), target_clones("avx512f", "avx2", "default")))
#else
#define JITQUANT_VECTORIZED
#endif
