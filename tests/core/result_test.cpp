#include "slim/core/result.hpp"

#include <catch2/catch.hpp>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

TEST_CASE("a result holds a value or the reason why there is none") {
  slim::result<int> const seven = 7;
  CHECK(seven.has_value());
  CHECK(*seven == 7);
  CHECK(seven.why().empty());

  slim::result<int> const none = slim::failure{"model.gguf: no tensors"};
  CHECK_FALSE(static_cast<bool>(none));
  CHECK(none.why() == "model.gguf: no tensors");
}

TEST_CASE("asking a failure for its value throws the reason, it never reads what is not there") {
  slim::result<std::string> none = slim::failure{"truncated"};
  CHECK_THROWS_WITH(none.value(), "truncated");
  CHECK_THROWS_WITH(*none, "truncated");
  CHECK_THROWS_WITH(none->size(), "truncated");
  CHECK_THROWS_AS(std::move(none).value(), slim::error);
}

TEST_CASE("a result hands over values that cannot be copied") {
  slim::result<std::unique_ptr<int>> made = std::make_unique<int>(3);
  std::unique_ptr<int> const taken = std::move(made).value();
  CHECK(*taken == 3);
}

TEST_CASE("a value that is a string is not mistaken for a reason") {
  slim::result<std::string> const text = std::string("fine");
  CHECK(text.has_value());
  CHECK(text->size() == 4);
}

TEST_CASE("messages are strings and numbers in a row") {
  CHECK(slim::message("W has ", 3, " rows and ", std::string("bits "), std::size_t{4}) == "W has 3 rows and bits 4");
  CHECK(slim::message().empty());
  CHECK(slim::message(std::numeric_limits<std::int64_t>::min(), " ", std::numeric_limits<std::uint64_t>::max(), " ",
                      std::int8_t{-3}, " ", true) == "-9223372036854775808 18446744073709551615 -3 1");
  CHECK(slim::message(0.1f, " ", 0.1, " ", 1e-8, " ", std::numeric_limits<double>::quiet_NaN()) == "0.1 0.1 1e-08 nan");
}

TEST_CASE("every exception of the library can be caught as one") {
  CHECK_THROWS_AS(throw slim::shape_error("a"), slim::error);
  CHECK_THROWS_AS(throw slim::config_error("a"), slim::error);
  CHECK_THROWS_AS(throw slim::nonfinite_error("a"), std::invalid_argument);
}
