#include "run/json_output.hpp"

#include "run/file_output.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <string>

namespace slim_llm {
namespace {

void list_not_finite(nlohmann::json const& value, std::string const& place, nlohmann::json& list) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) list.push_back(place);
  if (value.is_structured())
    for (auto const& [key, inner] : value.items()) list_not_finite(inner, place + "/" + key, list);
}

} // namespace

void write_json(std::filesystem::path const& file, nlohmann::json result) {
  auto list = nlohmann::json::array();
  list_not_finite(result, "", list);
  if (!list.empty()) {
    std::fprintf(stderr, "note: %s: %s is not a finite number and is written as null%s\n", file.c_str(),
                 list.front().get<std::string>().c_str(), list.size() > 1 ? "; more are listed under not_finite" : "");
    result["not_finite"] = std::move(list);
  }
  write_file(file, result.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

} // namespace slim_llm
