#include "training/run_state.hpp"

#include "run/input_error.hpp"

#include "slim/io/safetensors/writer.hpp"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>

namespace slim_llm {
namespace {

std::string exactly(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%a", value);
  return text;
}

std::optional<double> parse_exactly(std::string const& text) {
  char* end = nullptr;
  double const value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != 0 || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<std::ptrdiff_t> parse_count(std::string const& text) {
  std::ptrdiff_t value = 0;
  auto const end = text.data() + text.size();
  auto const [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < 0) return std::nullopt;
  return value;
}

/// What is wrong with a tensor, or nothing.
std::string read_numbers(slim::safetensors_file const& file, std::string const& name, std::vector<float>& numbers) {
  auto const* const tensor = file.find(name);
  if (!tensor) return "has no tensor '" + name + "'";
  if (tensor->type != slim::tensor_type::f32 || tensor->size() != std::ssize(numbers))
    return slim::message("has ", tensor->size(), " numbers of type ", tensor->stored_type, " in '", name, "', ", numbers.size(),
                         " of type F32 train");
  if (!numbers.empty()) std::memcpy(numbers.data(), tensor->bytes.data(), tensor->bytes.size());
  for (float const x : numbers)
    if (!std::isfinite(x)) return "holds a number that is not finite in '" + name + "'";
  return {};
}

} // namespace

void write_run_state(std::filesystem::path const& file, run_state const& state) {
  std::vector<slim::outgoing_tensor> tensors;
  for (std::size_t k = 0; k < state.values.size(); ++k) {
    tensors.push_back(slim::outgoing_vector("now." + std::to_string(k), slim::tensor_type::f32, state.values[k]));
    tensors.push_back(slim::outgoing_vector("best." + std::to_string(k), slim::tensor_type::f32, state.best[k]));
  }
  tensors.push_back({"optimizer", slim::tensor_type::other, "U8", {std::ssize(state.optimizer)}, std::span(state.optimizer)});
  auto const done = slim::save_safetensors(file, std::move(tensors),
                                           {{"run", state.name},
                                            {"step", std::to_string(state.step)},
                                            {"best_step", std::to_string(state.best_step)},
                                            {"before", exactly(state.before)},
                                            {"best_loss", exactly(state.best_loss)}});
  if (!done) throw input_error(done.why());
}

bool read_run_state(std::filesystem::path const& file, run_state& state) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return false;
  auto const stored = required(slim::safetensors_file::open(file));
  auto const refuse = [&](std::string const& why) { throw input_error(file.string() + ": " + why); };
  auto said = stored.metadata();
  if (said["run"] != state.name)
    refuse("is of another training run, '" + said["run"] + "'; this one is '" + state.name +
           "'. Remove the file, or name another one");
  auto const step = parse_count(said["step"]), best_step = parse_count(said["best_step"]);
  auto const before = parse_exactly(said["before"]), best_loss = parse_exactly(said["best_loss"]);
  if (!step || !best_step || *best_step > *step || !before || !best_loss) refuse("holds counts or losses that cannot be");
  run_state read{state.name, *step, *best_step, *before, *best_loss, state.values, state.best, {}};
  for (std::size_t k = 0; k < read.values.size(); ++k) {
    if (auto const why = read_numbers(stored, "now." + std::to_string(k), read.values[k]); !why.empty()) refuse(why);
    if (auto const why = read_numbers(stored, "best." + std::to_string(k), read.best[k]); !why.empty()) refuse(why);
  }
  auto const* const optimizer = stored.find("optimizer");
  if (!optimizer || optimizer->stored_type != "U8") refuse("has no state of the optimizer");
  read.optimizer.assign(optimizer->bytes.begin(), optimizer->bytes.end());
  state = std::move(read);
  return true;
}

} // namespace slim_llm
