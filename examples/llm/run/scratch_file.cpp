#include "run/scratch_file.hpp"

#include "run/input_error.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace slim_llm {
namespace {

[[noreturn]] void fail(std::filesystem::path const& folder, char const* what) {
  throw input_error(folder.string() + ": a scratch file " + what + ": " + std::strerror(errno));
}

} // namespace

std::filesystem::path folder_of(std::filesystem::path const& file) {
  auto path = std::filesystem::absolute(file).lexically_normal();
  if (!path.has_filename()) path = path.parent_path(); // a folder with a slash at its end
  auto const folder = path.parent_path();
  return folder.empty() ? std::filesystem::path("/") : folder;
}

scratch_file::scratch_file(std::filesystem::path const& folder) : folder_(folder) {
  std::string name = (folder / "slim-llm-XXXXXX").string();
  descriptor_ = ::mkstemp(name.data());
  if (descriptor_ < 0) fail(folder, "cannot be made");
  ::unlink(name.c_str());
}

scratch_file::scratch_file(scratch_file&& other) noexcept
    : folder_(std::move(other.folder_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

scratch_file& scratch_file::operator=(scratch_file&& other) noexcept {
  std::swap(folder_, other.folder_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

scratch_file::~scratch_file() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::uint64_t scratch_file::reserve(std::uint64_t bytes) { return std::exchange(size_, size_ + bytes); }

void scratch_file::write(std::uint64_t offset, std::span<std::byte const> bytes) {
  while (!bytes.empty()) {
    ssize_t const count = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(folder_, "cannot be written");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

void scratch_file::read(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    ssize_t const count = ::pread(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(folder_, "cannot be read");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

mapped_bytes scratch_file::map(std::uint64_t offset, std::uint64_t size) const {
  if (size == 0) return {};
  std::uint64_t const page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)), begin = offset / page * page;
  auto const length = static_cast<std::size_t>(offset + size - begin);
  void* const start = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, descriptor_, static_cast<off_t>(begin));
  if (start == MAP_FAILED) fail(folder_, "cannot be mapped into memory");
  std::shared_ptr<void const> keeps(start, [length](void const* at) { ::munmap(const_cast<void*>(at), length); });
  return {{static_cast<std::byte const*>(start) + (offset - begin), static_cast<std::size_t>(size)}, std::move(keeps)};
}

} // namespace slim_llm
