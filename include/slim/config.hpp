#pragma once
/// @file
/// The one file with feature macros. Everything the compiler's flags may change in generated code is part of the name of
/// the inline namespace `SLIM_ABI`, so that two translation units built with different flags never swap functions at link
/// time: they hold different symbols (docs/conventions.md, "Linking").

#define SLIM_VERSION_MAJOR 0
#define SLIM_VERSION_MINOR 1
#define SLIM_VERSION_PATCH 0

#if defined(__AVX512F__)
#define SLIM_ABI_ISA avx512
#elif defined(__AVX2__)
#define SLIM_ABI_ISA avx2
#elif defined(__AVX__)
#define SLIM_ABI_ISA avx
#else
#define SLIM_ABI_ISA generic
#endif

#if defined(__FAST_MATH__)
#define SLIM_ABI_MATH fast_math
#else
#define SLIM_ABI_MATH strict_math
#endif

#if defined(_OPENMP)
#define SLIM_ABI_THREADS openmp
#else
#define SLIM_ABI_THREADS serial
#endif

#define SLIM_ABI_PASTE(a, b, c) v0_##a##_##b##_##c
#define SLIM_ABI_EXPAND(a, b, c) SLIM_ABI_PASTE(a, b, c)

/// Name of the inline namespace that holds the whole library, e.g. `v0_generic_strict_math_openmp`.
#define SLIM_ABI SLIM_ABI_EXPAND(SLIM_ABI_ISA, SLIM_ABI_MATH, SLIM_ABI_THREADS)
