#include "slim/core/large_pages.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

using slim::detail::array_in_slab;
using slim::detail::huge_page;
using slim::detail::page_slab;

TEST_CASE("a slab is handed out to its end, and only what was last is free again") {
  page_slab slab(1000); // one page
  std::uint8_t* const first = slab.take(huge_page / 2);
  std::uint8_t* const second = slab.take(huge_page / 2 - 64);
  REQUIRE(first != nullptr);
  CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
  CHECK(second == first + huge_page / 2);
  CHECK(slab.take(128) == nullptr);
  slab.give_back(first, huge_page / 2); // not the last one
  CHECK(slab.take(128) == nullptr);
  slab.give_back(second, huge_page / 2 - 64);
  CHECK(slab.take(huge_page / 2) == second);
}

#if defined(__linux__)
TEST_CASE("a small array keeps no large one's memory that was given back") {
  constexpr std::size_t pages = 8;
  page_slab slab(pages * huge_page);
  std::size_t const small = 4096, large = (pages - 2) * huge_page;
  std::uint8_t* const before = slab.take(small);
  std::uint8_t* const array = slab.take(large);
  std::uint8_t* const behind = slab.take(small);
  std::memset(before, 1, small);
  std::memset(array, 2, large);
  std::memset(behind, 3, small);
  auto const resident = [&] {
    auto const page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> here(pages * huge_page / page);
    REQUIRE(::mincore(before, pages * huge_page, here.data()) == 0);
    return page * static_cast<std::size_t>(std::count_if(here.begin(), here.end(), [](auto b) { return (b & 1) != 0; }));
  };
  CHECK(resident() >= large);
  slab.give_back(array, large);
  CHECK(resident() <= 2 * huge_page); // its first and its last, where the others lie
  CHECK(std::all_of(before, before + small, [](std::uint8_t b) { return b == 1; }));
  CHECK(std::all_of(behind, behind + small, [](std::uint8_t b) { return b == 3; }));
}
#endif

TEST_CASE("arrays of slabs are apart, and outlive whoever came before and after them") {
  std::vector<std::vector<std::shared_ptr<std::uint8_t[]>>> of(3);
  std::size_t const sizes[] = {64, 100 * 1024, huge_page, 3 * huge_page + 64, 20 * huge_page};
  std::vector<std::thread> threads;
  for (std::size_t who = 0; who < of.size(); ++who)
    threads.emplace_back([&, who] {
      for (int round = 0; round < 20; ++round) {
        std::size_t const size = sizes[(static_cast<std::size_t>(round) + who) % 5];
        auto array = array_in_slab(size);
        std::memset(array.get(), static_cast<int>(20 * who) + round, size);
        if (round % 3 != 0) of[who].push_back(std::move(array)); // a third dies at once
        if (round % 7 == 6) of[who].erase(of[who].begin());
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t who = 0; who < of.size(); ++who) {
    std::size_t k = 0;
    for (int round = 0; round < 20; ++round) {
      if (round % 3 == 0) continue;
      bool const erased = round == 1 || round == 2; // the first ones, at rounds 6 and 13
      if (erased) continue;
      std::size_t const size = sizes[(static_cast<std::size_t>(round) + who) % 5];
      std::uint8_t const* const array = of[who].at(k++).get();
      CHECK(reinterpret_cast<std::uintptr_t>(array) % 64 == 0);
      auto const value = static_cast<std::uint8_t>(20 * static_cast<int>(who) + round);
      CHECK(std::all_of(array, array + size, [&](std::uint8_t b) { return b == value; }));
    }
    CHECK(k == of[who].size());
  }
}
