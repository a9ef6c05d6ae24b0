#include "formats/json_config.hpp"

#include "formats/config_keys.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

using nlohmann::json;

std::string quoted(std::vector<std::string> const& names) {
  std::string text;
  for (std::string const& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return text;
}

} // namespace

json_config json_config::inside(std::string const& key) {
  used(key);
  return part(key, object_.at(key));
}

void json_config::take_from(json_config const& inner) {
  if (!inner.why().empty()) keep_failure(inner.why());
  keep_notes(inner.notes());
}

bool json_config::has(std::string const& key) {
  used(key);
  return object_.contains(key) && !object_.at(key).is_null();
}

bool json_config::require(std::string const& key) {
  if (!has(key)) fail(slim::message("'", key, "' is missing"));
  return has(key);
}

template <class T>
T json_config::wrong(std::string const& key, char const* wanted) {
  std::string value = object_.at(key).dump();
  if (value.size() > 40) value = value.substr(0, 40) + "...";
  fail(slim::message("'", key, "' is ", value, ", not ", wanted));
  return T{};
}

index_t json_config::whole(std::string const& key) { return require(key) ? whole(key, 0) : 0; }
index_t json_config::whole(std::string const& key, index_t fallback) {
  if (!has(key)) return fallback;
  json const& value = object_.at(key);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{1} << 62)
    return wrong<index_t>(key, "a possible size");
  if (value.is_number_integer()) return value.get<index_t>();
  return wrong<index_t>(key, "a whole number");
}

std::optional<index_t> json_config::whole_or_none(std::string const& key, std::optional<index_t> fallback) {
  used(key);
  if (!object_.contains(key)) return fallback;
  if (object_.at(key).is_null()) return std::nullopt;
  return whole(key, 0);
}

double json_config::number(std::string const& key) { return require(key) ? number(key, 0.0) : 0.0; }
double json_config::number(std::string const& key, double fallback) {
  if (!has(key)) return fallback;
  return object_.at(key).is_number() ? object_.at(key).get<double>() : wrong<double>(key, "a number");
}

std::optional<double> json_config::number_or_none(std::string const& key, std::optional<double> fallback) {
  used(key);
  if (!object_.contains(key)) return fallback;
  if (object_.at(key).is_null()) return std::nullopt;
  return number(key, 0.0);
}

bool json_config::flag(std::string const& key, bool fallback) {
  if (!has(key)) return fallback;
  return object_.at(key).is_boolean() ? object_.at(key).get<bool>() : wrong<bool>(key, "true or false");
}

std::string json_config::text(std::string const& key) { return require(key) ? text(key, "") : ""; }
std::string json_config::text(std::string const& key, std::string const& fallback) {
  if (!has(key)) return fallback;
  return object_.at(key).is_string() ? object_.at(key).get<std::string>() : wrong<std::string>(key, "a text");
}

template <class T, class Is>
std::vector<T> json_config::list(std::string const& key, char const* wanted, Is const& is) {
  if (!has(key)) return {};
  json const& value = object_.at(key);
  if (!value.is_array() || !std::all_of(value.begin(), value.end(), is)) return wrong<std::vector<T>>(key, wanted);
  std::vector<T> elements;
  for (json const& element : value)
    if constexpr (std::is_same_v<T, bool>)
      elements.push_back(element == true || element == 1);
    else
      elements.push_back(element.get<T>());
  return elements;
}

std::vector<double> json_config::numbers(std::string const& key) {
  return list<double>(key, "a list of numbers", [](json const& e) { return e.is_number(); });
}
std::vector<bool> json_config::flags(std::string const& key) {
  return list<bool>(key, "a list of flags", [](json const& e) { return e.is_boolean() || e == 0 || e == 1; });
}
std::vector<std::string> json_config::texts(std::string const& key) {
  return list<std::string>(key, "a list of texts", [](json const& e) { return e.is_string(); });
}

void json_config::settle_unused() {
  std::vector<std::string> unknown;
  for (auto const& [key, value] : object_.items()) {
    if (was_used(key) || is_harmless_key(key)) continue;
    if (!is_telling_key(key))
      unknown.push_back(key);
    else if (!is_neutral_value(key, value))
      fail(slim::message("'", key, "' is ", value.dump().substr(0, 60), "; models of this type are not read with it"));
  }
  if (!unknown.empty())
    note(slim::message(unknown.size() == 1 ? "key " : "keys ", quoted(unknown), unknown.size() == 1 ? " is" : " are",
                       " not known and not used, as in transformers"));
}

} // namespace slim_llm
