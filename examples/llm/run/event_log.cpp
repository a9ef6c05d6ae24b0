#include "run/event_log.hpp"

#include "run/input_error.hpp"

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstring>

namespace slim_llm {

event_log::event_log(std::filesystem::path const& file) : path_(file) {
  if (file.empty()) return;
  stream_.reset(std::fopen(file.c_str(), "wb"));
  if (!stream_) throw input_error("--events " + file.string() + ": cannot be written: " + std::strerror(errno));
}

void event_log::add(std::string const& what, nlohmann::json about) {
  if (!stream_) return;
  about["event"] = what;
  about["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  std::string const line = about.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (std::fputs(line.c_str(), stream_.get()) < 0 || std::fflush(stream_.get()) != 0)
    throw input_error("--events " + path_.string() + ": cannot be written: " + std::strerror(errno));
}

} // namespace slim_llm
