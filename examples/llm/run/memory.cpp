#include "run/memory.hpp"

#include "run/input_error.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace slim_llm {

double peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (double kilobytes = 0; word == "VmHWM:" && status >> kilobytes) return 1024.0 * kilobytes;
  return 0;
}

void reset_peak_memory() {
  std::ofstream("/proc/self/clear_refs") << "5"; // Linux: resets VmHWM; elsewhere nothing happens
}

double physical_memory() {
  long const pages = ::sysconf(_SC_PHYS_PAGES), size = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? static_cast<double>(pages) * static_cast<double>(size) : 0.0;
}

void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int gigabyte = 1 << 30;
  (void)::mallopt(M_MMAP_THRESHOLD, gigabyte);
  (void)::mallopt(M_TRIM_THRESHOLD, gigabyte);
#endif
}

void return_freed_memory() {
#if defined(__GLIBC__)
  (void)::malloc_trim(0);
#endif
}

void drop_pages(std::span<std::byte const> mapped) {
  if (mapped.empty()) return;
  auto const page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  auto const begin = reinterpret_cast<std::uintptr_t>(mapped.data()) / page * page;
  auto const end = reinterpret_cast<std::uintptr_t>(mapped.data()) + mapped.size();
  (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED); // advice: a refusal costs memory only
}

double parse_bytes(std::string const& option, std::string const& text) {
  double value = 0;
  auto const end = text.data() + text.size();
  auto const [stop, error] = std::from_chars(text.data(), end, value);
  std::string const unit(stop, end);
  double const factor = unit.empty() || unit == "B"   ? 1
                        : unit == "k" || unit == "kB" ? 1e3
                        : unit == "M" || unit == "MB" ? 1e6
                        : unit == "G" || unit == "GB" ? 1e9
                                                      : 0;
  if (error != std::errc() || factor == 0 || !(value > 0) || !std::isfinite(value))
    throw input_error(option + " " + text + ": needed is a number of bytes, such as 800M or 5.5G");
  return factor * value;
}

} // namespace slim_llm
