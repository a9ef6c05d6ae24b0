// Parts of a layer in words.

#include "slim/core/version.hpp"
#include "slim/pipeline/compress.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"

#include <catch2/catch.hpp>

using namespace slim;

TEST_CASE("masks, codes and reports have words") {
  mask kept(3, 8, {2, 4});
  for (index_t j : {0, 1, 4, 5}) kept.keep(0, j);
  CHECK(to_string(kept) == "mask 3 x 8, 2:4, 83.3% pruned");
  CHECK(to_string(mask(2, 2)) == "mask 2 x 2, 100% pruned");
  integer_codes codes(3, 8, 4, per_group(4), number_format::fp16);
  CHECK(to_string(codes) == "4 bit codes 3 x 8, fp16 scales per group of 4");
  codes.zeros = matrix<std::int8_t>(3, 2);
  CHECK(to_string(codes) == "4 bit codes 3 x 8, fp16 scales per group of 4, zero points");
  CHECK(to_string(codebook_codes(3, 8, nf4_levels(), per_group(4), {.format = number_format::fp32})) ==
        "4 bit positions 3 x 8 in a book of 16 levels, fp32 scales per group of 4");
  layer_report report;
  report.rows = 3;
  report.cols = 8;
  report.notes = {"said first"};
  report.steps.push_back(
      {.step = "rounding", .relative_error = 0.25, .sparsity = 0.5, .bits_per_weight = 4, .notes = {"said"}});
  CHECK(to_string(report) ==
        "layer 3 x 8\n    note: said first\n  rounding: relative error 0.2500, output error - (channels taken as "
        "uncorrelated), sparsity 0.5000, rank 0, 4.0000 bits per weight\n    note: said\n");
}

TEST_CASE("the version is one number and one text") {
  static_assert(SLIM_VERSION == SLIM_VERSION_MAJOR * 10000 + SLIM_VERSION_MINOR * 100 + SLIM_VERSION_PATCH);
  CHECK(version() == message(SLIM_VERSION / 10000, ".", SLIM_VERSION / 100 % 100, ".", SLIM_VERSION % 100));
}
