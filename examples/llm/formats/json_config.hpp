#pragma once
/// @file
/// config.json of a Hugging Face folder as a configuration.

#include "models/config_reader.hpp"

#include "slim/io/json.hpp"

namespace slim_llm {

using slim::index_t;

/// A JSON object as a configuration.
class json_config final : public config_reader {
public:
  json_config(std::string place, nlohmann::json object) : place_(std::move(place)), object_(std::move(object)) {}

  [[nodiscard]] nlohmann::json const& object() const { return object_; }
  /// The object behind a key; hand its failure and its notes back with `take_from`.
  [[nodiscard]] json_config inside(std::string const& key);
  void take_from(json_config const& inner);
  /// An object that stands for the one behind a key.
  [[nodiscard]] json_config part(std::string const& key, nlohmann::json object) const {
    return {place_ + ": " + key, std::move(object)};
  }
  /// An object without keys, whose failures name this one.
  [[nodiscard]] json_config nothing_inside() const { return {place_, nlohmann::json::object()}; }

  [[nodiscard]] bool has(std::string const& key) override;
  [[nodiscard]] index_t whole(std::string const& key) override;
  [[nodiscard]] index_t whole(std::string const& key, index_t fallback) override;
  [[nodiscard]] std::optional<index_t> whole_or_none(std::string const& key, std::optional<index_t> fallback) override;
  [[nodiscard]] double number(std::string const& key) override;
  [[nodiscard]] double number(std::string const& key, double fallback) override;
  [[nodiscard]] std::optional<double> number_or_none(std::string const& key, std::optional<double> fallback) override;
  [[nodiscard]] bool flag(std::string const& key, bool fallback) override;
  [[nodiscard]] std::string text(std::string const& key) override;
  [[nodiscard]] std::string text(std::string const& key, std::string const& fallback) override;
  [[nodiscard]] std::vector<double> numbers(std::string const& key) override;
  [[nodiscard]] std::vector<bool> flags(std::string const& key) override;
  [[nodiscard]] std::vector<std::string> texts(std::string const& key) override;

  /// Looks at the keys that nobody asked for. A key that changes results in some model type is a failure unless its value says
  /// that it does not; a key that is not known at all becomes a note.
  void settle_unused();

protected:
  [[nodiscard]] std::string place() const override { return place_; }

private:
  [[nodiscard]] bool require(std::string const& key);
  template <class T>
  [[nodiscard]] T wrong(std::string const& key, char const* wanted);
  template <class T, class Is>
  [[nodiscard]] std::vector<T> list(std::string const& key, char const* wanted, Is const& is);

  std::string place_;
  nlohmann::json object_;
};

} // namespace slim_llm
