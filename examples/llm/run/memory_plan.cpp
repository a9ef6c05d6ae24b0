#include "run/memory_plan.hpp"

#include "models/family.hpp"
#include "run/input_error.hpp"
#include "run/memory.hpp"
#include "run/table.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

constexpr double float_bytes = 4, sum_bytes = 8;

// Measured with the library's components on random models, rounded up.
constexpr double program_bytes = 70e6;
constexpr double copies_of_linear = 9;  ///< of the largest linear, while it is compressed
constexpr double copies_of_hessian = 5; ///< d_in x d_in floats, by recipes that solve with the Hessian
constexpr double copies_of_record = 2;  ///< of what a backward pass keeps of a block, with the gradients on their way
constexpr double guided_tokens = 2048;  ///< that a backward pass takes at once (compress/token_energies.cpp), at least a window

/// Sizes of a block that the parts are made of.
struct block_sizes {
  double weights = 0;                          ///< of all linears
  double largest_linear = 0;                   ///< weights
  double widest_input = 0, widest_outputs = 0; ///< of a stage
  double gram = 0;                             ///< numbers of the largest Gram matrix
  double cross = 0;                            ///< numbers of the largest X^T Y
  double all_grams = 0;                        ///< numbers of the Gram matrices of all stages
  double kept_per_token = 0;                   ///< numbers that a backward pass keeps of a block
};

block_sizes sizes_of(model const& m) {
  auto const linears = linears_of(m);
  auto const find = [&](std::string const& role) {
    return *std::find_if(linears.begin(), linears.end(), [&](linear_info const& l) { return l.role == role; });
  };
  block_sizes sizes;
  for (stage const& s : m.config.family->stages(m.config)) {
    double outputs = 0, inputs = 0;
    for (std::string const& role : s.linears) {
      linear_info const l = find(role);
      double const weights = static_cast<double>(l.d_out) * static_cast<double>(l.d_in);
      sizes.weights += weights;
      sizes.largest_linear = std::max(sizes.largest_linear, weights);
      outputs += static_cast<double>(l.d_out);
      inputs = static_cast<double>(l.d_in);
    }
    sizes.widest_input = std::max(sizes.widest_input, inputs);
    sizes.widest_outputs = std::max(sizes.widest_outputs, outputs);
    sizes.gram = std::max(sizes.gram, inputs * inputs);
    sizes.cross = std::max(sizes.cross, inputs * outputs);
    sizes.all_grams += inputs * inputs;
    sizes.kept_per_token += static_cast<double>(m.config.hidden) + inputs + outputs;
  }
  return sizes;
}

std::string described(std::vector<memory_part> const& parts) {
  std::string text;
  for (auto const& part : parts) text += (text.empty() ? "" : ", ") + part.what + " " + readable_bytes(part.bytes);
  return text;
}

double sum_of(std::vector<memory_part> const& parts) {
  double sum = 0;
  for (auto const& part : parts) sum += part.bytes;
  return sum;
}

memory_plan planned(model const& m, planned_work const& work, bool states_on_disk) {
  block_sizes const sizes = sizes_of(m);
  double const hidden = static_cast<double>(m.config.hidden), window = static_cast<double>(work.window);
  bool const compresses = work.how && work.how->chain;
  bool const aims = compresses && work.how->towards_dense;
  double const held_out = work.held_out_tokens > 0 ? 1 : 0;
  double const states =
      (compresses ? static_cast<double>(work.calib_tokens + work.held_out_tokens) * (hidden + sizes.widest_input) : 0.0) *
          (aims ? 2 : 1) +
      static_cast<double>(work.evaluations * work.evaluated_tokens) * hidden;
  memory_plan plan;
  plan.states_on_disk = states_on_disk;
  plan.state_bytes = float_bytes * states;
  plan.parts = {{"program and tokenizer", program_bytes}, {"one block as floats", float_bytes * sizes.weights}};
  if (!states_on_disk) plan.parts.push_back({"hidden states of all windows", float_bytes * states});
  std::vector<memory_part> const running = {
      {"embedding and head as stored", m.embedding.stored_bytes() + m.head.stored_bytes()},
      {"activations of one window", float_bytes * window * (4 * hidden + 2 * sizes.widest_outputs)}};
  std::vector<memory_part> compressing;
  if (compresses) {
    double const hessians = work.how->needs_hessian ? copies_of_hessian * sizes.gram : 0.0;
    compressing = {{"statistics", sum_bytes * (sizes.gram * (1 + held_out) + (aims ? sizes.cross : 0.0))},
                   {"work on one linear", float_bytes * (copies_of_linear * sizes.largest_linear + hessians)}};
  }
  std::vector<memory_part> sharing, guiding;
  if (work.shares_bits)
    sharing = {
        {"statistics of all stages of a block, to share out bits", sum_bytes * sizes.all_grams},
        {"work on one linear", float_bytes * (copies_of_linear * sizes.largest_linear + copies_of_hessian * sizes.gram)}};
  if (compresses && work.how->guided) {
    double const tokens = static_cast<double>(work.calib_tokens + work.held_out_tokens);
    double const together = std::max(window, guided_tokens);
    double const weights_of_tokens = 2 * tokens * static_cast<double>(linears_of(m).size()); // as energies, then as weights
    double const activations = copies_of_record * (sizes.kept_per_token + 3 * sizes.widest_outputs);
    guiding = {
        {"embedding as stored", m.embedding.stored_bytes()},
        {"head as floats", float_bytes * static_cast<double>(m.config.vocab) * static_cast<double>(m.config.embedding_dim)},
        {"gradients of one batch", float_bytes * together * (static_cast<double>(m.config.layers) * hidden + activations)},
        {"weights of tokens", float_bytes * weights_of_tokens}};
    compressing.push_back({"weights of tokens", float_bytes * weights_of_tokens / 2});
  }
  auto const* most = &running; // phases that follow each other
  for (auto const* phase : {&compressing, &sharing, &guiding})
    if (sum_of(*phase) > sum_of(*most)) most = phase;
  plan.parts.insert(plan.parts.end(), most->begin(), most->end());
  return plan;
}

} // namespace

planned_work planned_compression(text_tokens const& tokens, text_options const& options, rank_options const& ranks,
                                 recipe const& how, index_t evaluations) {
  return {.window = options.context,
          .calib_tokens = static_cast<index_t>(tokens.fitted().size()),
          .held_out_tokens = tokens.held_out,
          .evaluated_tokens = static_cast<index_t>(tokens.evaluation.size()),
          .evaluations = evaluations,
          .shares_bits = ranks.budget != 0 || ranks.bits != 0,
          .how = &how};
}

double memory_plan::total() const { return sum_of(parts); }

needed_room memory_plan::scratch_room() const {
  return {"hidden states in", std::filesystem::temp_directory_path() / "scratch", states_on_disk ? state_bytes : 0.0};
}

memory_plan plan_memory(model const& m, planned_work const& work, double limit) {
  memory_plan const in_memory = planned(m, work, false);
  double const machine = physical_memory();
  double const comfortable = limit > 0 ? limit : machine > 0 ? machine / 2 : in_memory.total();
  if (in_memory.total() <= comfortable) return in_memory;
  memory_plan const on_disk = planned(m, work, true);
  if (limit > 0 && on_disk.total() > limit)
    throw input_error("--memory-limit " + readable_bytes(limit) + ": about " + readable_bytes(on_disk.total()) +
                      " are needed: " + described(on_disk.parts));
  return on_disk;
}

} // namespace slim_llm
