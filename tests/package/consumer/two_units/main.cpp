// Two units of one program, compiled with different flags, call the same functions of the library. Without flag-named
// symbols the linker keeps one body for both: AVX2 code would run where it was not asked for, NaN checks would vanish.
#include <cstdio>

float sum_plain();
float sum_fast();
bool sees_nan_plain();

int main() {
  if (!sees_nan_plain()) return std::puts("the plain unit runs code compiled with -ffast-math"), 1;
  if (sum_plain() != 12.0f) return std::puts("the plain unit is wrong"), 1;
  if (!__builtin_cpu_supports("avx2")) return std::puts("two_units: right (no AVX2 here)"), 0;
  if (sum_fast() != 12.0f) return std::puts("the fast unit is wrong"), 1;
  return std::puts("two_units: right"), 0;
}
