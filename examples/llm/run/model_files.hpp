#pragma once
/// @file
/// The small files of a model (configuration, tokenizer, generation settings): those of a folder, or copies of them inside a
/// .slim file. Readers of such files take them from here and need not know which.

#include "slim/core/result.hpp"
#include "slim/io/json.hpp"

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace slim_llm {

class model_files {
public:
  /// Those of a folder, which need not exist.
  explicit model_files(std::filesystem::path folder) : place_(std::move(folder)) {}
  /// Bytes by name, which `keeps` keeps in memory; `place` is the file that they lie in.
  model_files(std::filesystem::path place, std::map<std::string, std::span<std::byte const>> inside,
              std::shared_ptr<void const> keeps)
      : place_(std::move(place)), inside_(std::move(inside)), keeps_(std::move(keeps)) {}

  /// The folder, or the file around them.
  [[nodiscard]] std::filesystem::path const& place() const { return place_; }
  /// What a failure calls the file: its path, or the path of the file around it and its name.
  [[nodiscard]] std::filesystem::path path_of(std::string const& name) const { return place_ / name; }
  [[nodiscard]] bool has(std::string const& name) const;
  /// Of a folder: those that small_files (run/output_files.hpp) lists.
  [[nodiscard]] std::vector<std::string> names() const;
  /// The content. The failure names the file and the reason.
  [[nodiscard]] slim::result<std::string> text(std::string const& name) const;
  /// The content as a JSON document, read as slim::read_json does.
  [[nodiscard]] slim::result<nlohmann::json> json(std::string const& name) const;

private:
  std::filesystem::path place_;
  std::map<std::string, std::span<std::byte const>> inside_;
  std::shared_ptr<void const> keeps_; ///< null: they are files of a folder
};

} // namespace slim_llm
