#include "slim/core/large_pages.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

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
