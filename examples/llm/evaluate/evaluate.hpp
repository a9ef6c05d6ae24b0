#pragma once
/// @file
/// Perplexity of a model on a sequence of tokens.

#include "models/forward.hpp"
#include "models/state_store.hpp"

#include "slim/core/result.hpp"

#include <optional>
#include <string>
#include <utility>

namespace slim_llm {

/// Which tokens are predicted from which.
enum class protocol {
  windows,   ///< GPTQ, SparseGPT, Wanda, SLiM: windows side by side, all their tokens but the first are predicted
  llama_cpp, ///< llama-perplexity: the same windows, only targets context / 2 + 1 .. context - 1
};

/// Formats of keys and values: "fp16" or "fp32".
[[nodiscard]] slim::result<slim::number_format> find_kv_cache(std::string const& name);

/// "windows" or "llama.cpp".
[[nodiscard]] slim::result<protocol> find_protocol(std::string const& name);

struct evaluation_config {
  index_t context = 2048; ///< tokens per window
  index_t stride = 0;     ///< from one window's start to the next; 0 means context. Larger: a sample of a long text
  index_t max_tokens = 0; ///< tokens inside windows at most; 0 means all
  slim_llm::protocol protocol = protocol::windows;
  bool states_on_disk = false;                              ///< hidden states wait in a scratch file for the next block
  slim::number_format kv_cache = slim::number_format::fp32; ///< of keys and values
  std::optional<int> first_token = {}; ///< takes the place of the first token of every window (llama-perplexity: BOS)
};

/// Natural logarithms throughout.
struct evaluation {
  double perplexity = 0;          ///< exp(nll)
  double nll = 0;                 ///< mean over all predicted tokens
  double nll_stderr = 0;          ///< standard deviation of window_nll / sqrt(windows); 0 for a single window. Tokens of a
                                  ///< window are not independent, windows nearly are
  index_t tokens = 0;             ///< number of predicted tokens
  std::vector<double> window_nll; ///< mean per window, in order: pair them to compare two models on the same windows
  index_t window = 0;             ///< tokens per window: the context, or fewer if the text has fewer
};

/// Called after each block with the number of blocks done and in all.
using progress = std::function<void(index_t done, index_t total)>;

/// An evaluation that gets the blocks of a model one after the other, so that only one needs to be in memory. Windows go
/// through a block in batches of some thousand tokens. Refers to the model and to the executor of `ctx`; both must outlive it.
///
/// A tail shorter than a window is dropped; a text shorter than one window is one window.
class block_evaluation {
public:
  /// @throws slim::config_error if there is nothing to predict or a value is out of range.
  block_evaluation(model const& m, std::span<int const> tokens, evaluation_config const& config, context const& ctx = {});

  /// All windows through the next block. @throws input_error naming the block if what it computes is not finite.
  void advance(block const& b);
  /// After the last block. @throws input_error naming the window if a token's likelihood is not a number, or no finite one.
  [[nodiscard]] evaluation finish();

  /// After the last block: calls `f` with each window, what the head multiplies at the positions that predict its targets
  /// (targets, embedding_dim), and these targets.
  using window_visitor = std::function<void(index_t window, matrix_view<float const> head_in, std::span<int const> targets)>;
  void visit_windows(window_visitor const& f);
  [[nodiscard]] forward_pass const& pass() const { return pass_; }
  [[nodiscard]] index_t windows() const { return plan_.count; }
  [[nodiscard]] index_t targets_per_window() const { return plan_.targets(); }
  [[nodiscard]] index_t window() const { return plan_.length; }

  /// Hidden states before the next block, and how many blocks are done: what is kept to go on later.
  [[nodiscard]] state_store& states() { return states_; }
  /// Goes on with states that were kept behind so many blocks. @throws input_error if they are of other windows.
  void restore(state_store states, index_t blocks);

  /// Tokens in windows: hidden states that wait between blocks.
  [[nodiscard]] static index_t tokens_in_windows(evaluation_config const& config, index_t available);

private:
  struct window_plan {
    index_t length = 0, stride = 0, count = 0;
    index_t first_target = 1; ///< position inside a window
    [[nodiscard]] index_t targets() const { return length - first_target; }
  };
  [[nodiscard]] static window_plan plan_windows(evaluation_config const& config, index_t available);
  [[nodiscard]] std::vector<int> tokens_of_windows(std::span<int const> tokens, index_t first, index_t count) const;

  window_plan plan_;
  index_t blocks_ = 0; ///< done
  model const& model_;
  forward_pass pass_;
  std::vector<std::vector<int>> batches_; ///< token ids as the model gets them
  state_store states_;                    ///< one per batch
};

/// Mean of one value per window and its standard error: standard deviation / sqrt(windows), 0 for a single window.
[[nodiscard]] std::pair<double, double> mean_and_standard_error(std::vector<double> const& values);

/// All blocks of the model, one at a time. @throws as block_evaluation.
[[nodiscard]] evaluation evaluate(model const& m, std::span<int const> tokens, evaluation_config const& config,
                                  context const& ctx = {}, progress const& report = {});

/// Mean of a.window_nll - b.window_nll over paired windows, its standard error, and the middle 95% of the means of 2000
/// resamples of the windows (Efron's percentile bootstrap, seed fixed).
struct paired_difference {
  double mean = 0;
  double standard_error = 0;
  double low = 0, high = 0;
};
/// @throws slim::shape_error if there are no windows.
[[nodiscard]] paired_difference summarise_windows(std::vector<double> const& differences);
/// @throws slim::shape_error if counts differ or there are no windows.
[[nodiscard]] paired_difference compare(evaluation const& a, evaluation const& b);
[[nodiscard]] paired_difference compare(std::vector<double> const& a, std::vector<double> const& b);

} // namespace slim_llm
