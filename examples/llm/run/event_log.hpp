#pragma once
/// @file
/// Progress for programs: a file of JSON lines that grows as the work goes on.

#include "run/file_output.hpp"

#include <chrono>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace slim_llm {

class event_log {
public:
  /// An empty path: nothing is written. A file that is there is written anew. @throws input_error
  explicit event_log(std::filesystem::path const& file);

  /// A line {"event": what, "seconds": since the beginning, ...}, which is there for readers when the call returns.
  /// @throws input_error if it cannot be written.
  void add(std::string const& what, nlohmann::json about);

private:
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, close_stream> stream_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

} // namespace slim_llm
