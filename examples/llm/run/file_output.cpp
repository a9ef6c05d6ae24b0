#include "run/file_output.hpp"

#include <fstream>
#include <stdexcept>

namespace slim_llm {

void write_file(std::filesystem::path const& file, std::string_view content) {
  std::filesystem::path beside = file;
  beside += ".tmp";
  {
    std::ofstream out(beside, std::ios::binary);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    out.close();
    if (!out) throw std::runtime_error(beside.string() + ": cannot be written");
  }
  std::filesystem::rename(beside, file);
}

} // namespace slim_llm
