// Units of one program, compiled with different flags, call the same functions of the library. Without flag-named
// symbols the linker keeps one body for all: AVX2 code would run where it was not asked for, NaN checks would vanish.
#include <cstdio>

float sum_plain();
float sum_fast();
float sum_unsafe();
float sum_avx2();
float sum_avx2_fma();
float sum_sse42();
bool sees_nan_plain();
bool refuses_nan_plain();
bool refuses_nan_finite();
bool refuses_nan_fast();

int main() {
  if (!sees_nan_plain()) return std::puts("the plain unit runs code compiled with -ffast-math"), 1;
  if (!refuses_nan_plain()) return std::puts("the plain unit accepts NaN"), 1;
  if (!refuses_nan_finite()) return std::puts("the unit with -ffinite-math-only accepts NaN"), 1;
  if (sum_plain() != 12.0f || sum_unsafe() != 12.0f) return std::puts("the plain unit is wrong"), 1;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return std::puts("two_units: right (no AVX2 here)"), 0;
  if (sum_fast() != 12.0f || sum_avx2() != 12.0f || sum_avx2_fma() != 12.0f || sum_sse42() != 12.0f)
    return std::puts("a unit with other instructions is wrong"), 1;
  if (!refuses_nan_fast()) return std::puts("the unit with -ffast-math accepts NaN"), 1;
  return std::puts("two_units: right"), 0;
}
