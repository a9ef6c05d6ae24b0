#pragma once
/// @file
/// What a command reads and what it writes, looked at before the work begins: an output must be possible, and must not destroy
/// an input or another output.

#include <filesystem>
#include <string>
#include <vector>

namespace slim_llm {

/// A character device, a pipe or a socket: written as it is, never replaced.
[[nodiscard]] bool is_device(std::filesystem::path const& file);

/// Names of the small files of a model's folder: configuration, tokenizer, generation settings. They are copied with a model.
[[nodiscard]] std::vector<std::string> small_files(std::filesystem::path const& folder);

/// Empty paths are no paths. Options are named as users write them ("--json"), the model is "the model".
class file_plan {
public:
  /// A GGUF file, or a folder with all parts of a model in it.
  void reads_model(std::filesystem::path const& path);
  void reads_file(std::string option, std::filesystem::path const& path);
  /// A small text file.
  void writes_text(std::string option, std::filesystem::path const& path);
  /// A file that is too large for a device or a pipe.
  void writes_file(std::string option, std::filesystem::path const& path);
  /// A model in the form of the one it is made of: a file, or a folder of files.
  void writes_model(std::string option, std::filesystem::path const& path, std::filesystem::path const& source);
  /// A folder with files of these names.
  void writes_folder(std::string option, std::filesystem::path const& path, std::vector<std::string> names);

  /// @throws input_error if an input does not exist, or is a folder and should be a file; if a folder does not exist or cannot
  /// be written; if an output is a folder and should be a file, or the other way round; if it would overwrite an input, has the
  /// name of a part of a model in its folder, is another output or lies inside it.
  void check() const;

private:
  enum class kind { text, file, folder };
  struct input {
    std::string option;
    std::filesystem::path path;
    kind what;
  };
  struct output {
    std::string option;
    std::filesystem::path path;
    kind what;
    std::vector<std::string> names; ///< of the files of a folder
  };

  static void check_input(input const& in);
  static void check_place(output const& out);
  void check_inputs(output const& out) const;
  void check_outputs(output const& out, output const& other) const;

  std::vector<input> inputs_;
  std::vector<output> outputs_;
};

/// Room that a path needs on its disk.
struct needed_room {
  std::string option;
  std::filesystem::path path;
  double bytes = 0;
};

/// Adds up what goes to one file system. @throws input_error with the options, what they need and what is free.
void require_room(std::vector<needed_room> const& needs);

/// A folder whose files appear together. They are written into a folder of another name beside it, or inside it if it exists,
/// and are moved to their place by `commit`. Without that the folder of the other name is removed.
class replacing_folder {
public:
  /// @throws input_error if the folder cannot be made.
  explicit replacing_folder(std::filesystem::path path);
  replacing_folder(replacing_folder const&) = delete;
  replacing_folder& operator=(replacing_folder const&) = delete;
  ~replacing_folder();

  /// Where files are written until then.
  [[nodiscard]] std::filesystem::path const& temporary() const { return temporary_; }
  /// @throws input_error
  void commit();

private:
  std::filesystem::path path_, temporary_;
  bool existed_ = false;
};

} // namespace slim_llm
