#include "run/output_files.hpp"

#include "run/input_error.hpp"
#include "run/scratch_file.hpp"
#include "run/table.hpp"

#include "slim/io/file.hpp"

#include <cerrno>
#include <cstring>
#include <map>
#include <set>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <system_error>
#include <unistd.h>

namespace slim_llm {
namespace {

namespace fs = std::filesystem;

/// The path without "." and ".." and links, as far as it exists.
fs::path resolved(fs::path const& path) {
  std::error_code error;
  auto const whole = fs::weakly_canonical(path, error);
  auto const plain = error ? fs::absolute(path).lexically_normal() : whole;
  return plain.has_filename() ? plain : plain.parent_path();
}

/// Both are there and are one file or folder, by whatever names.
bool same_file(fs::path const& a, fs::path const& b) {
  std::error_code error;
  return fs::equivalent(a, b, error) && !error;
}

bool same_place(fs::path const& a, fs::path const& b) { return resolved(a) == resolved(b) || same_file(a, b); }

bool is_inside(fs::path const& path, fs::path const& folder) {
  auto const outer = resolved(folder);
  for (auto at = resolved(path).parent_path(); !at.empty(); at = at.parent_path()) {
    if (at == outer || same_file(at, outer)) return true;
    if (at == at.parent_path()) return false;
  }
  return false;
}

bool is_folder(fs::path const& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool is_there(fs::path const& path) {
  std::error_code error;
  return fs::exists(path, error);
}

[[noreturn]] void fail(std::string const& option, fs::path const& path, std::string const& reason) {
  throw input_error(option + " " + path.string() + ": " + reason);
}

/// What programs read from a model's folder.
bool is_part_of_model(fs::path const& name) {
  static std::set<std::string> const known = {"config.json",
                                              "generation_config.json",
                                              "tokenizer.json",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "vocab.json",
                                              "merges.txt",
                                              "tokenizer.model",
                                              "chat_template.jinja",
                                              "chat_template.json",
                                              "model.safetensors.index.json"};
  return name.extension() == ".safetensors" || known.contains(name.string());
}

/// Names of such files that are there.
std::vector<std::string> files_of_model(fs::path const& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto const& file : fs::directory_iterator(folder, error))
    if (is_part_of_model(file.path().filename())) names.push_back(file.path().filename().string());
  return names;
}

/// Folders `wanted`, `wanted`1 and so on until one can be made.
fs::path new_folder(fs::path const& wanted) {
  constexpr int most = 1000;
  for (int k = 0; k < most; ++k) {
    fs::path at = wanted;
    if (k > 0) at += std::to_string(k);
    std::error_code error;
    if (fs::create_directory(at, error)) return at;
    if (error && error != std::errc::file_exists)
      throw input_error(at.string() + ": the folder cannot be made: " + error.message());
  }
  throw input_error(wanted.string() + ": the folder cannot be made: so many of this name exist");
}

} // namespace

bool is_device(fs::path const& file) {
  std::error_code error;
  auto const status = fs::status(file, error);
  return fs::is_character_file(status) || fs::is_fifo(status) || fs::is_socket(status);
}

std::vector<std::string> small_files(fs::path const& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto const& file : fs::directory_iterator(folder, error)) {
    auto const extension = file.path().extension();
    bool const small = extension == ".json" || extension == ".txt" || extension == ".model" || extension == ".jinja";
    if (small && file.path().filename() != "model.safetensors.index.json" && file.is_regular_file(error))
      names.push_back(file.path().filename().string());
  }
  return names;
}

void file_plan::reads_model(fs::path const& path) { inputs_.push_back({"the model", path, kind::folder}); }

void file_plan::reads_file(std::string option, fs::path const& path) {
  if (!path.empty()) inputs_.push_back({std::move(option), path, kind::file});
}

void file_plan::writes_text(std::string option, fs::path const& path) {
  if (!path.empty()) outputs_.push_back({std::move(option), path, kind::text, {}});
}

void file_plan::writes_file(std::string option, fs::path const& path) {
  if (!path.empty()) outputs_.push_back({std::move(option), path, kind::file, {}});
}

void file_plan::writes_model(std::string option, fs::path const& path, fs::path const& source) {
  if (path.empty()) return;
  outputs_.push_back({std::move(option), path, is_folder(source) ? kind::folder : kind::file, {}});
  if (!is_folder(source)) return;
  outputs_.back().names = small_files(source);
  outputs_.back().names.push_back("model.safetensors");
}

void file_plan::writes_folder(std::string option, std::filesystem::path const& path, std::vector<std::string> names) {
  outputs_.push_back({std::move(option), path, kind::folder, std::move(names)});
}

void file_plan::check() const {
  for (std::size_t k = 0; k < outputs_.size(); ++k) {
    check_inputs(outputs_[k]);
    for (std::size_t other = 0; other < outputs_.size(); ++other)
      if (other != k) check_outputs(outputs_[k], outputs_[other]);
  }
  for (output const& out : outputs_) check_place(out);
  for (input const& in : inputs_) check_input(in);
}

void file_plan::check_input(input const& in) {
  std::string const name = in.what == kind::folder ? in.path.string() : in.option + " " + in.path.string();
  if (!is_there(in.path)) throw input_error(name + ": does not exist");
  if (in.what == kind::file && is_folder(in.path)) throw input_error(name + ": is a folder; the name of a file is needed");
  if (::access(in.path.c_str(), R_OK) != 0) throw input_error(name + ": cannot be read: " + std::strerror(errno));
}

/// Tries what the writer will do, and undoes it.
void file_plan::check_place(output const& out) {
  auto const folder = folder_of(out.path);
  if (!out.path.has_filename() && out.what != kind::folder) fail(out.option, out.path, "is no name of a file");
  if (!is_there(folder)) fail(out.option, out.path, "the folder " + folder.string() + " does not exist");
  if (!is_folder(folder)) fail(out.option, out.path, folder.string() + " is not a folder");
  if (out.what == kind::folder) {
    if (is_there(out.path) && !is_folder(out.path))
      fail(out.option, out.path, "is a file; a folder is written, as the model is a folder");
    if (is_there(out.path / "model.safetensors.index.json"))
      fail(out.option, out.path, "holds a model in parts (model.safetensors.index.json); give a folder without one");
    try {
      (void)replacing_folder(out.path);
    } catch (input_error const& error) {
      fail(out.option, out.path, error.what());
    }
    return;
  }
  if (is_folder(out.path)) fail(out.option, out.path, "is a folder; a file is written");
  if (is_device(out.path)) {
    if (out.what == kind::file) fail(out.option, out.path, "is a device or a pipe; give the name of a file");
    return;
  }
  if (auto const tried = slim::replacing_file::create(out.path); !tried) fail(out.option, out.path, tried.why());
}

void file_plan::check_inputs(output const& out) const {
  if (is_device(out.path)) return;
  auto const refuse = [&](fs::path const& written, input const& in, fs::path const& read) {
    if (same_place(written, read))
      fail(out.option, out.path,
           "would overwrite " + in.option + " (" + read.string() + "), which is read; give another " + out.option);
  };
  for (input const& in : inputs_) {
    refuse(out.path, in, in.path);
    for (std::string const& name : out.names) refuse(out.path / name, in, in.path);
    if (!is_folder(in.path)) continue;
    if (same_place(folder_of(out.path), in.path) && is_part_of_model(out.path.filename()))
      fail(out.option, out.path,
           "has the name of a part of " + in.option + " (" + in.path.string() + "), which is read; give another " + out.option);
    for (auto const& name : files_of_model(in.path)) refuse(out.path, in, in.path / name); // by whatever link
  }
}

void file_plan::check_outputs(output const& out, output const& other) const {
  if (is_device(out.path)) return;
  if (same_place(out.path, other.path)) fail(out.option, out.path, "is also the file of " + other.option);
  if (other.what == kind::folder && is_inside(out.path, other.path))
    fail(out.option, out.path, "lies inside " + other.option + " " + other.path.string() + "; give another place");
}

void require_room(std::vector<needed_room> const& needs) {
  struct disk {
    std::string options;
    double bytes = 0, free = 0;
  };
  std::map<dev_t, disk> disks;
  for (needed_room const& need : needs) {
    auto const folder = folder_of(need.path);
    struct stat about {};
    struct statvfs room {};
    if (::stat(folder.c_str(), &about) != 0 || ::statvfs(folder.c_str(), &room) != 0) continue; // the writer will say why
    disk& at = disks[about.st_dev];
    at.options += (at.options.empty() ? "" : " and ") + need.option + " " + need.path.string();
    at.bytes += need.bytes;
    at.free = static_cast<double>(room.f_bavail) * static_cast<double>(room.f_frsize);
  }
  for (auto const& [device, at] : disks)
    if (at.bytes > at.free)
      throw input_error(at.options + ": about " + readable_bytes(at.bytes) + " are needed on the disk, " +
                        readable_bytes(at.free) + " are free");
}

replacing_folder::replacing_folder(fs::path path) : path_(resolved(path)), existed_(is_there(path_)) {
  temporary_ = new_folder(existed_ ? path_ / ".slim-llm.tmp" : fs::path(path_.string() + ".tmp"));
}

replacing_folder::~replacing_folder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void replacing_folder::commit() {
  std::error_code error;
  if (!existed_) {
    fs::rename(temporary_, path_, error);
  } else {
    std::vector<fs::path> files;
    for (auto const& file : fs::directory_iterator(temporary_, error)) files.push_back(file.path());
    for (auto const& file : files)
      if (!error) fs::rename(file, path_ / file.filename(), error);
    if (!error) fs::remove(temporary_, error);
  }
  if (error) throw input_error(path_.string() + ": cannot be written: " + error.message());
  temporary_.clear();
  slim::sync_folder(path_.parent_path());
  if (existed_) slim::sync_folder(path_);
}

} // namespace slim_llm
