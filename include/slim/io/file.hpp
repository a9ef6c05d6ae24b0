#pragma once
/// @file
/// Files: a read-only memory map, and a writer that puts the new file in place only when it is complete. POSIX.

#include "slim/io/tensor.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace slim {
inline namespace SLIM_ABI {

/// The bytes of a regular file, mapped read-only. Moved, not copied; the bytes stay where they are when it is moved.
/// A file that another process shortens while it is mapped ends the program (SIGBUS), as with every memory map.
class mapped_file {
public:
  [[nodiscard]] static result<mapped_file> open(std::filesystem::path const& path) {
    int const descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return failure{message(path.string(), ": cannot be opened: ", std::strerror(errno))};
    struct stat about {};
    std::string why;
    if (::fstat(descriptor, &about) != 0)
      why = message(path.string(), ": cannot be examined: ", std::strerror(errno));
    else if (!S_ISREG(about.st_mode))
      why = message(path.string(), ": is not a regular file");
    mapped_file file;
    file.path_ = path;
    if (why.empty() && about.st_size > 0) { // a map of 0 bytes is an error in POSIX, an empty file is none
      void* const start = ::mmap(nullptr, static_cast<std::size_t>(about.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0);
      if (start == MAP_FAILED)
        why = message(path.string(), ": cannot be mapped into memory: ", std::strerror(errno));
      else
        file.bytes_ = {static_cast<std::byte const*>(start), static_cast<std::size_t>(about.st_size)};
    }
    ::close(descriptor);
    if (!why.empty()) return failure{std::move(why)};
    return file;
  }

  mapped_file(mapped_file&& other) noexcept : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~mapped_file() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  [[nodiscard]] std::span<std::byte const> bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::string_view text() const noexcept { return {reinterpret_cast<char const*>(bytes_.data()), bytes_.size()}; }

private:
  mapped_file() = default;

  std::filesystem::path path_;
  std::span<std::byte const> bytes_;
};

/// Brings the names of a folder's files to the disk. A file system that cannot do it leaves them complete, so failures are no
/// errors. An empty path is the current folder.
inline void sync_folder(std::filesystem::path const& folder) noexcept {
  int const descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  (void)::fsync(descriptor);
  ::close(descriptor);
}

/// Writes a temporary file beside `path` and renames it to `path` on commit, so that a crash or a full disk never leaves half
/// a file under the final name, and a file may be replaced while it is read. The temporary is `<path>.tmp`, or `<path>.tmp1`
/// and so on where such a file exists: no file that was there is touched before the rename. If `path` is a symbolic link, the
/// file that it points to is replaced. Without commit the temporary file is removed.
class replacing_file {
public:
  [[nodiscard]] static result<replacing_file> create(std::filesystem::path const& path) {
    replacing_file file;
    file.path_ = target_of(path);
    constexpr int most = 1000;
    int descriptor = -1;
    for (int k = 0; k < most && descriptor < 0; ++k) {
      file.temporary_ = file.path_;
      file.temporary_ += k == 0 ? std::string(".tmp") : message(".tmp", k);
      descriptor = ::open(file.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor < 0 && errno != EEXIST) break;
    }
    if (descriptor < 0) return failure{message(file.temporary_.string(), ": cannot be created: ", std::strerror(errno))};
    file.stream_.reset(::fdopen(descriptor, "wb"));
    if (file.stream_) return file;
    std::string why = message(file.temporary_.string(), ": cannot be written: ", std::strerror(errno));
    ::close(descriptor);
    std::remove(file.temporary_.c_str());
    return failure{std::move(why)};
  }

  replacing_file(replacing_file&&) noexcept = default;
  replacing_file& operator=(replacing_file&&) = delete;
  ~replacing_file() {
    if (!stream_) return;
    stream_.reset();
    std::remove(temporary_.c_str());
  }

  /// Bytes written so far.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  /// Appends. The first error is remembered and reported by commit.
  void write(std::span<std::byte const> bytes) {
    if (bytes.empty()) return;
    if (error_ == 0 && std::fwrite(bytes.data(), 1, bytes.size(), stream_.get()) != bytes.size()) error_ = errno ? errno : EIO;
    size_ += bytes.size();
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Appends the little-endian bytes of a number.
  template <class T>
    requires std::is_arithmetic_v<T>
  void write_number(T value) {
    write(std::as_bytes(std::span(&value, 1)));
  }
  /// Appends zeros up to a multiple of `alignment`.
  void pad(std::uint64_t alignment) {
    static constexpr std::array<std::byte, 64> zeros{};
    for (std::uint64_t left = (alignment - size_ % alignment) % alignment; left > 0;) {
      std::size_t const count = static_cast<std::size_t>(std::min<std::uint64_t>(left, zeros.size()));
      write(std::span(zeros.data(), count));
      left -= count;
    }
  }

  /// Completes the file, brings it to the disk and gives it its name.
  [[nodiscard]] status commit() {
    if (error_ == 0 && std::fflush(stream_.get()) != 0) error_ = errno;
    if (error_ == 0 && ::fsync(::fileno(stream_.get())) != 0 && errno != EINVAL) error_ = errno; // EINVAL: cannot be synced
    if (std::fclose(stream_.release()) != 0 && error_ == 0) error_ = errno;
    if (error_ == 0 && std::rename(temporary_.c_str(), path_.c_str()) != 0) error_ = errno;
    if (error_ == 0) {
      sync_folder(path_.parent_path());
      return done{};
    }
    std::remove(temporary_.c_str());
    return failure{message(path_.string(), ": cannot be written: ", std::strerror(error_))};
  }

private:
  struct close_stream {
    void operator()(std::FILE* stream) const noexcept { std::fclose(stream); }
  };

  replacing_file() = default;

  static std::filesystem::path target_of(std::filesystem::path const& path) {
    std::error_code error;
    if (!std::filesystem::is_symlink(path, error)) return path;
    auto target = std::filesystem::weakly_canonical(path, error);
    return error ? path : target;
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::unique_ptr<std::FILE, close_stream> stream_;
  std::uint64_t size_ = 0;
  int error_ = 0;
};

} // namespace SLIM_ABI
} // namespace slim
