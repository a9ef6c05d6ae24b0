#include "compress/run_folder.hpp"

#include "run/file_output.hpp"
#include "run/input_error.hpp"

#include "slim/io/safetensors/writer.hpp"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <limits>
#include <sys/file.h>
#include <unistd.h>

namespace slim_llm {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char const *settings_name = "run.json", *state_name = "state.safetensors", *lock_name = "lock";

/// Left behind by a process that ended before it could rename the file.
bool is_temporary(fs::path const& file) { return file.extension().string().starts_with(".tmp"); }

bool holds_other_files(fs::path const& folder) {
  std::error_code error;
  for (auto const& file : fs::directory_iterator(folder, error))
    if (file.path().filename() != lock_name && !is_temporary(file.path())) return true;
  return false;
}

json number_or_null(double x) { return std::isfinite(x) ? json(x) : json(); }
double number_of(json const& x) { return x.is_number() ? x.get<double>() : std::numeric_limits<double>::quiet_NaN(); }

json step_as_json(slim::step_report const& s) {
  return {{"step", s.step},
          {"relative_error", number_or_null(s.relative_error)},
          {"output_error", number_or_null(s.output_error)},
          {"held_out_error", number_or_null(s.held_out_error)},
          {"sparsity", s.sparsity},
          {"bits_per_weight", s.bits_per_weight},
          {"rank", s.rank},
          {"seconds", s.seconds},
          {"notes", s.notes}};
}

slim::step_report step_of_json(json const& value) {
  slim::step_report s;
  s.step = value.at("step");
  s.relative_error = number_of(value.at("relative_error"));
  s.output_error = number_of(value.at("output_error"));
  s.held_out_error = number_of(value.at("held_out_error"));
  s.sparsity = value.at("sparsity");
  s.bits_per_weight = value.at("bits_per_weight");
  s.rank = value.at("rank");
  s.seconds = value.at("seconds");
  s.notes = value.at("notes").get<std::vector<std::string>>();
  return s;
}

/// The hidden states of all windows, one tensor each.
void add_states(std::vector<slim::outgoing_tensor>& tensors, std::string const& name, state_store& states) {
  for (std::size_t w = 0; w < states.size(); ++w) {
    auto state = states.take(w);
    std::vector<index_t> const shape = {state.hidden.rows(), state.hidden.cols()};
    states.put(w, std::move(state));
    tensors.push_back(
        {name + "." + std::to_string(w), slim::tensor_type::f32, {}, shape, std::function<matrix<float>()>([&states, w] {
           auto taken = states.take(w);
           matrix<float> hidden = taken.hidden;
           states.put(w, std::move(taken));
           return hidden;
         })});
  }
}

state_store states_of(slim::safetensors_file const& file, std::string const& name, bool on_disk) {
  state_store states(on_disk);
  for (std::size_t w = 0;; ++w) {
    auto const* const tensor = file.find(name + "." + std::to_string(w));
    if (!tensor) return states;
    block_state state;
    state.hidden = required(slim::read_matrix(*tensor));
    states.add(std::move(state));
  }
}

/// All but the hidden states.
void read_about(slim::safetensors_file const& file, compression_state& state) {
  std::string const path = file.path().string();
  auto const said = file.metadata().find("state");
  if (said == file.metadata().end()) throw input_error(path + ": does not say which blocks are done");
  json const about = required(slim::parse_json(said->second, path));
  try {
    state.blocks = about.at("blocks");
    state.seconds = about.at("seconds");
    state.layers = layers_of_json(about.at("layers"));
  } catch (json::exception const&) {
    throw input_error(path + ": is not what a run keeps");
  }
}

} // namespace

nlohmann::json layers_as_json(std::vector<layer_result> const& layers) {
  json list = json::array();
  for (auto const& layer : layers) {
    json steps = json::array();
    for (auto const& step : layer.report.steps) steps.push_back(step_as_json(step));
    list.push_back({{"block", layer.block},
                    {"name", layer.name},
                    {"role", layer.role},
                    {"rows", layer.report.rows},
                    {"cols", layer.report.cols},
                    {"exact_output_error", layer.report.exact_output_error},
                    {"notes", layer.report.notes},
                    {"objective", layer.report.objective},
                    {"steps", steps},
                    {"vanished_rows", layer.vanished_rows}});
  }
  return list;
}

std::vector<layer_result> layers_of_json(nlohmann::json const& list) {
  std::vector<layer_result> layers;
  for (json const& value : list) {
    layer_result layer;
    layer.block = value.at("block");
    layer.name = value.at("name");
    layer.role = value.at("role");
    layer.report.rows = value.at("rows");
    layer.report.cols = value.at("cols");
    layer.report.exact_output_error = value.at("exact_output_error");
    layer.report.notes = value.at("notes").get<std::vector<std::string>>();
    for (json const& x : value.at("objective")) layer.report.objective.push_back(number_of(x));
    for (json const& step : value.at("steps")) layer.report.steps.push_back(step_of_json(step));
    layer.vanished_rows = value.at("vanished_rows");
    layers.push_back(std::move(layer));
  }
  return layers;
}

run_folder::run_folder(fs::path path, bool resume) : path_(std::move(path)) {
  std::error_code error;
  fs::create_directory(path_, error);
  if (!fs::is_directory(path_, error))
    throw input_error("--run " + path_.string() + ": the folder cannot be made" + (error ? ": " + error.message() : ""));
  fs::path const lock = path_ / lock_name;
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) throw input_error("--run " + path_.string() + ": cannot be written: " + std::strerror(errno));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    std::string number;
    std::ifstream(lock) >> number;
    ::close(lock_);
    throw input_error("--run " + path_.string() + ": process " + number +
                      " works there; wait for its end or give another folder");
  }
  std::string const number = std::to_string(::getpid()) + "\n";
  [[maybe_unused]] bool const noted = ::ftruncate(lock_, 0) == 0 && ::write(lock_, number.data(), number.size()) > 0;
  bool const holds_run = fs::exists(path_ / settings_name, error);
  std::string why;
  if (holds_run && !resume) why = "holds a run already; go on with it by --resume, or give another folder";
  if (!holds_run && holds_other_files(path_)) why = "holds files and no run; give another folder";
  if (!why.empty()) {
    ::close(lock_);
    throw input_error("--run " + path_.string() + ": " + why);
  }
  std::vector<fs::path> left;
  for (auto const& file : fs::directory_iterator(path_, error))
    if (is_temporary(file.path())) left.push_back(file.path());
  for (auto const& file : left) fs::remove(file, error);
}

run_folder::~run_folder() {
  if (lock_ >= 0) ::close(lock_);
}

void run_folder::settle(json const& what) {
  fs::path const file = path_ / settings_name;
  std::error_code error;
  if (!fs::exists(file, error)) return write_file(file, what.dump(2) + "\n");
  json const kept = required(slim::read_json(file));
  for (auto const& [key, value] : what.items()) {
    json const before = kept.is_object() && kept.contains(key) ? kept[key] : json();
    if (before != value)
      throw input_error("--resume: " + path_.string() + " was begun with another " + key + ": " + before.dump() + " then, " +
                        value.dump() + " now; give what it was, or another --run");
  }
}

json run_folder::result(std::string const& name) const {
  fs::path const file = path_ / (name + ".json");
  std::error_code error;
  return fs::exists(file, error) ? required(slim::read_json(file)) : json();
}

void run_folder::keep_result(std::string const& name, json const& value) {
  write_file(path_ / (name + ".json"), value.dump(2) + "\n");
}

fs::path run_folder::block_file(index_t number) const {
  std::string digits = std::to_string(number);
  digits.insert(0, digits.size() < 4 ? 4 - digits.size() : 0, '0');
  return path_ / ("block-" + digits + ".safetensors");
}

void run_folder::keep_block(index_t number, packed_weights const& layers) { write_packed(block_file(number), layers); }

packed_weights run_folder::block(index_t number) const { return packed_file(block_file(number)).all(); }

void run_folder::keep_state(compression_state& state, evaluations const& beside) {
  std::vector<slim::outgoing_tensor> tensors;
  add_states(tensors, "windows", state.windows);
  add_states(tensors, "dense_windows", state.dense_windows);
  for (auto const& [name, evaluation] : beside) add_states(tensors, name, evaluation->states());
  json const about = {{"blocks", state.blocks}, {"seconds", state.seconds}, {"layers", layers_as_json(state.layers)}};
  auto const done = slim::save_safetensors(path_ / state_name, std::move(tensors), {{"state", about.dump()}});
  if (!done) throw input_error(done.why());
}

index_t run_folder::blocks_done() const {
  fs::path const path = path_ / state_name;
  std::error_code error;
  if (!fs::exists(path, error)) return 0;
  compression_state state;
  read_about(required(slim::safetensors_file::open(path)), state);
  return state.blocks;
}

void run_folder::restore_state(compression_state& state, evaluations const& beside, bool on_disk) const {
  fs::path const path = path_ / state_name;
  std::error_code error;
  if (!fs::exists(path, error)) return;
  auto const file = required(slim::safetensors_file::open(path));
  read_about(file, state);
  state.windows = states_of(file, "windows", on_disk);
  state.dense_windows = states_of(file, "dense_windows", on_disk);
  for (auto const& [name, evaluation] : beside) evaluation->restore(states_of(file, name, on_disk), state.blocks);
}

void run_folder::clean_up() {
  std::error_code error;
  std::vector<fs::path> files = {path_ / state_name};
  for (auto const& file : fs::directory_iterator(path_, error))
    if (file.path().filename().string().starts_with("block-")) files.push_back(file.path());
  for (auto const& file : files) fs::remove(file, error);
}

} // namespace slim_llm
