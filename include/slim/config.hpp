#pragma once
/// @file
/// The one file with feature macros. Everything the compiler's flags may change in generated code is part of the name of
/// the inline namespace `SLIM_ABI`, so that two translation units built with different flags never swap functions at link
/// time: they hold different symbols (docs/conventions.md, "Linking").

#define SLIM_VERSION_MAJOR 0
#define SLIM_VERSION_MINOR 1
#define SLIM_VERSION_PATCH 0
/// The version as one number that `#if` can compare: 100 is 0.1.0, 10203 would be 1.2.3. In words: slim::version().
#define SLIM_VERSION (SLIM_VERSION_MAJOR * 10000 + SLIM_VERSION_MINOR * 100 + SLIM_VERSION_PATCH)

#if !defined(__cpp_exceptions)
#error                                                                                                                         \
    "slim: callers' mistakes are reported by exceptions; compile this unit without -fno-exceptions (docs/guides/embedding.md)"
#endif

// The compiled form (docs/guides/embedding.md, "Compiled"): units that use it (SLIM_COMPILED) see heavy functions declared, the
// library's own unit (SLIM_COMPILING) defines them. Without it, the default, every unit has them inline.
#if defined(SLIM_COMPILED) && !defined(SLIM_COMPILING)
#define SLIM_DECLARES_ONLY 1
#else
#define SLIM_DECLARES_ONLY 0
#endif
#if defined(SLIM_COMPILING)
#define SLIM_DOOR
#else
#define SLIM_DOOR inline
#endif

// Functions of the GPU's side (slim/kernels/cuda): nvcc compiles them for both, or for the device; to other compilers they are
// plain functions. Loops over registers are unrolled: an array that a loop indexes would lie in memory.
#if defined(__CUDACC__)
#define SLIM_HOST_DEVICE __host__ __device__
#define SLIM_DEVICE __device__ __forceinline__
#define SLIM_UNROLL _Pragma("unroll")
#else
#define SLIM_HOST_DEVICE
#define SLIM_DEVICE inline
#define SLIM_UNROLL
#endif

// Instructions that the compiler may use.
#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define SLIM_ABI_ISA avx512bw
#elif defined(__AVX512F__)
#define SLIM_ABI_ISA avx512
#elif defined(__AVX2__)
#define SLIM_ABI_ISA avx2
#elif defined(__AVX__)
#define SLIM_ABI_ISA avx
#elif defined(__SSE4_2__)
#define SLIM_ABI_ISA sse42
#elif defined(__SSE4_1__) || defined(__SSSE3__) || defined(__SSE3__)
#define SLIM_ABI_ISA sse3
#elif defined(__ARM_FEATURE_SVE)
#define SLIM_ABI_ISA sve
#elif defined(__ARM_FEATURE_DOTPROD)
#define SLIM_ABI_ISA dotprod
#else
#define SLIM_ABI_ISA generic
#endif

// Whether a * b + c may be rounded once, which changes results.
#if defined(__FMA__) || defined(__FP_FAST_FMAF)
#define SLIM_ABI_FMA fma
#else
#define SLIM_ABI_FMA nofma
#endif

// What the compiler may assume about numbers. g++ says all of it, clang++ -ffast-math and -ffinite-math-only alone.
#if defined(__FAST_MATH__)
#define SLIM_ABI_MATH fast_math
#elif __FINITE_MATH_ONLY__ && defined(__ASSOCIATIVE_MATH__)
#define SLIM_ABI_MATH finite_unsafe_math
#elif __FINITE_MATH_ONLY__
#define SLIM_ABI_MATH finite_math
#elif defined(__ASSOCIATIVE_MATH__)
#define SLIM_ABI_MATH unsafe_math
#elif defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#define SLIM_ABI_MATH loose_math
#elif defined(__ROUNDING_MATH__)
#define SLIM_ABI_MATH rounding_math
#else
#define SLIM_ABI_MATH strict_math
#endif

#if defined(_OPENMP)
#define SLIM_ABI_THREADS openmp
#else
#define SLIM_ABI_THREADS serial
#endif

#define SLIM_ABI_PASTE(a, b, c, d) v0_##a##_##b##_##c##_##d
#define SLIM_ABI_EXPAND(a, b, c, d) SLIM_ABI_PASTE(a, b, c, d)

/// Name of the inline namespace that holds the whole library, e.g. `v0_generic_nofma_strict_math_openmp`.
#define SLIM_ABI SLIM_ABI_EXPAND(SLIM_ABI_ISA, SLIM_ABI_FMA, SLIM_ABI_MATH, SLIM_ABI_THREADS)
