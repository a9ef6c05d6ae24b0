#include "run/file_output.hpp"

#include "run/input_error.hpp"
#include "run/output_files.hpp"

#include "slim/io/file.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace slim_llm {
namespace {

void write_device(std::filesystem::path const& file, std::string_view content) {
  std::unique_ptr<std::FILE, close_stream> const stream(std::fopen(file.c_str(), "wb"));
  bool const written = stream && std::fwrite(content.data(), 1, content.size(), stream.get()) == content.size() &&
                       std::fflush(stream.get()) == 0;
  if (!written) throw input_error(file.string() + ": cannot be written: " + std::strerror(errno));
}

} // namespace

void write_file(std::filesystem::path const& file, std::string_view content) {
  if (is_device(file)) return write_device(file, content);
  auto out = required(slim::replacing_file::create(file));
  out.write(content);
  if (auto const done = out.commit(); !done) throw input_error(done.why());
}

void flush_standard_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw input_error(std::string("standard output cannot be written: ") + std::strerror(errno));
}

} // namespace slim_llm
