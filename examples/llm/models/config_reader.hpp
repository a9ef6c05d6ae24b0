#pragma once
/// @file
/// Named values of a model's configuration, the same for GGUF metadata and for config.json. The first failure is kept, so that
/// a configuration is read in one go and checked once. Every key that was asked for is remembered, so that the others can be
/// named to the user.

#include "slim/core/matrix_view.hpp"

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace slim_llm {

/// Reading a key that is missing, without a fallback, is a failure; so is a value of another type. Null (JSON) counts as
/// missing, but for `whole_or_none` and `number_or_none`.
class config_reader {
public:
  virtual ~config_reader() = default;

  [[nodiscard]] virtual bool has(std::string const& key) = 0;
  [[nodiscard]] virtual slim::index_t whole(std::string const& key) = 0;
  [[nodiscard]] virtual slim::index_t whole(std::string const& key, slim::index_t fallback) = 0;
  /// Nothing if the value is null, `fallback` if the key is missing.
  [[nodiscard]] virtual std::optional<slim::index_t> whole_or_none(std::string const& key,
                                                                   std::optional<slim::index_t> fallback) = 0;
  [[nodiscard]] virtual double number(std::string const& key) = 0;
  [[nodiscard]] virtual double number(std::string const& key, double fallback) = 0;
  /// As whole_or_none.
  [[nodiscard]] virtual std::optional<double> number_or_none(std::string const& key, std::optional<double> fallback) = 0;
  [[nodiscard]] virtual bool flag(std::string const& key, bool fallback) = 0;
  [[nodiscard]] virtual std::string text(std::string const& key) = 0;
  [[nodiscard]] virtual std::string text(std::string const& key, std::string const& fallback) = 0;
  /// Lists. An empty one if the key is missing.
  [[nodiscard]] virtual std::vector<double> numbers(std::string const& key) = 0;
  [[nodiscard]] virtual std::vector<bool> flags(std::string const& key) = 0;
  [[nodiscard]] virtual std::vector<std::string> texts(std::string const& key) = 0;

  void fail(std::string const& reason) {
    if (why_.empty()) why_ = place() + ": " + reason;
  }
  /// The first failure with the name of the file in front; empty if all went well.
  [[nodiscard]] std::string const& why() const { return why_; }

  /// Something that the user should know, and that is no failure.
  void note(std::string const& sentence) { notes_.push_back(place() + ": " + sentence); }
  [[nodiscard]] std::vector<std::string> const& notes() const { return notes_; }

  /// The key is known, whatever its value is.
  void used(std::string const& key) { used_.insert(key); }
  [[nodiscard]] bool was_used(std::string const& key) const { return used_.contains(key); }

protected:
  /// Where the values come from: a file, or an object inside it.
  [[nodiscard]] virtual std::string place() const = 0;
  /// Keeps the sentence of a failure as it is.
  void keep_failure(std::string const& sentence) {
    if (why_.empty()) why_ = sentence;
  }
  void keep_notes(std::vector<std::string> const& notes) { notes_.insert(notes_.end(), notes.begin(), notes.end()); }

private:
  std::string why_;
  std::vector<std::string> notes_;
  std::set<std::string> used_;
};

} // namespace slim_llm
