#pragma once
/// @file
/// Named values of a model's configuration, the same for GGUF metadata and for config.json. The first failure is kept, so that
/// a configuration is read in one go and checked once.

#include "slim/core/matrix_view.hpp"

#include <string>

namespace slim_llm {

/// Reading a key that is missing, without a fallback, is a failure; so is a value of another type.
class config_reader {
public:
  virtual ~config_reader() = default;

  [[nodiscard]] virtual slim::index_t whole(std::string const& key) = 0;
  [[nodiscard]] virtual slim::index_t whole(std::string const& key, slim::index_t fallback) = 0;
  [[nodiscard]] virtual double number(std::string const& key) = 0;
  [[nodiscard]] virtual double number(std::string const& key, double fallback) = 0;
  [[nodiscard]] virtual bool flag(std::string const& key, bool fallback) = 0;
  [[nodiscard]] virtual std::string text(std::string const& key) = 0;
  [[nodiscard]] virtual std::string text(std::string const& key, std::string const& fallback) = 0;

  void fail(std::string const& reason) {
    if (why_.empty()) why_ = place() + ": " + reason;
  }
  /// The first failure with the name of the file in front; empty if all went well.
  [[nodiscard]] std::string const& why() const { return why_; }

protected:
  /// Where the values come from: a file, or an object inside it.
  [[nodiscard]] virtual std::string place() const = 0;
  /// Keeps the sentence of a failure as it is.
  void keep_failure(std::string const& sentence) {
    if (why_.empty()) why_ = sentence;
  }

private:
  std::string why_;
};

} // namespace slim_llm
