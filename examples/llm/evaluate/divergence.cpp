#include "evaluate/divergence.hpp"

#include "run/input_error.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

constexpr index_t rows_at_once = 64; ///< whose logits are in memory

/// What one position says.
struct position {
  double kl = 0, delta_p = 0, nll = 0, base_nll = 0;
  bool same_top = false;
};

/// log sum exp of a row, in double.
double log_sum_exp(float const* logits, index_t count) {
  double const largest = static_cast<double>(*std::max_element(logits, logits + count));
  double sum = 0;
  for (index_t j = 0; j < count; ++j) sum += std::exp(static_cast<double>(logits[j]) - largest);
  return largest + std::log(sum);
}

/// `base` are log-probabilities up to a constant `base_shift`; entries at or below `deepest` do not count.
position compare_rows(float const* base, double base_shift, float const* logits, index_t count, int target, double deepest) {
  double const shift = log_sum_exp(logits, count);
  position found;
  for (index_t j = 0; j < count; ++j) {
    double const p = static_cast<double>(base[j]) - base_shift;
    if (p > deepest) found.kl += std::exp(p) * (p - (static_cast<double>(logits[j]) - shift));
  }
  found.nll = shift - static_cast<double>(logits[target]);
  found.base_nll = base_shift - static_cast<double>(base[target]);
  found.delta_p = std::exp(-found.nll) - std::exp(-found.base_nll);
  found.same_top = std::max_element(base, base + count) - base == std::max_element(logits, logits + count) - logits;
  return found;
}

/// Calls `f` with some rows of logits of the whole vocabulary at a time, and the number of the first row.
template <class F>
void for_each_logits(forward_pass const& pass, matrix_view<float const> head_in, index_t vocab, F const& f) {
  for (index_t first = 0; first < head_in.rows(); first += rows_at_once) {
    index_t const count = std::min(rows_at_once, head_in.rows() - first);
    matrix<float> logits(count, vocab);
    pass.logits_into(head_in.middle_rows(first, count), 0, logits.view());
    f(first, logits);
  }
}

class collected_positions {
public:
  void add_window(std::vector<position> const& window) {
    double kl = 0, same = 0, delta = 0, excess = 0;
    for (position const& p : window) {
      if (!std::isfinite(p.kl) || !std::isfinite(p.nll) || !std::isfinite(p.base_nll))
        throw input_error(slim::message("window ", kl_.size(), " of the text: a prediction is no finite number"));
      kl += p.kl;
      same += p.same_top ? 1 : 0;
      delta += p.delta_p;
      excess += p.nll - p.base_nll;
      squares_ += p.delta_p * p.delta_p;
      nll_ += p.nll;
      base_nll_ += p.base_nll;
      all_kl_.push_back(p.kl);
    }
    auto const count = static_cast<double>(window.size());
    kl_.push_back(kl / count);
    same_.push_back(same / count);
    delta_.push_back(delta / count);
    excess_.push_back(excess / count);
  }

  divergence finish() {
    auto const count = static_cast<double>(all_kl_.size());
    std::sort(all_kl_.begin(), all_kl_.end());
    auto const share = [&](double part) {
      return all_kl_[static_cast<std::size_t>(part * static_cast<double>(all_kl_.size() - 1) + 0.5)];
    };
    divergence d;
    d.kl = summarise_windows(kl_);
    d.same_top = summarise_windows(same_);
    d.delta_p = summarise_windows(delta_);
    d.excess_nll = summarise_windows(excess_);
    d.rms_delta_p = std::sqrt(squares_ / count);
    d.kl_median = share(0.5);
    d.kl_99 = share(0.99);
    d.kl_largest = all_kl_.back();
    d.nll = nll_ / count;
    d.base_nll = base_nll_ / count;
    d.tokens = static_cast<index_t>(all_kl_.size());
    d.windows = static_cast<index_t>(kl_.size());
    d.window_kl = kl_;
    return d;
  }

private:
  std::vector<double> kl_, same_, delta_, excess_; ///< means of windows
  std::vector<double> all_kl_;
  double squares_ = 0, nll_ = 0, base_nll_ = 0;
};

index_t vocabulary_of(block_evaluation const& e) { return e.pass().config().vocab; }

void require_same(index_t base, index_t measured, char const* what) {
  if (base != measured)
    throw input_error(slim::message("--kl: the base has ", what, " of ", base, ", the model of ", measured));
}

} // namespace

divergence diverge(block_evaluation& base, block_evaluation& measured, context const& ctx) {
  index_t const vocab = vocabulary_of(measured);
  require_same(vocabulary_of(base), vocab, "a vocabulary");
  require_same(base.windows() * base.window(), measured.windows() * measured.window(), "windows");
  std::vector<matrix<float>> head_in; // of the base, by window: small beside logits
  base.visit_windows([&](index_t, matrix_view<float const> rows, std::span<int const>) { head_in.emplace_back(rows); });
  collected_positions all;
  measured.visit_windows([&](index_t w, matrix_view<float const> rows, std::span<int const> targets) {
    std::vector<position> found(targets.size());
    auto const& base_rows = head_in[static_cast<std::size_t>(w)];
    for_each_logits(measured.pass(), rows, vocab, [&](index_t first, matrix<float> const& logits) {
      matrix<float> expected(logits.rows(), vocab);
      base.pass().logits_into(base_rows.view().middle_rows(first, logits.rows()), 0, expected.view());
      ctx.parallel_for(logits.rows(), 1, [&](index_t begin, index_t end) {
        for (index_t i = begin; i < end; ++i) {
          auto const at = static_cast<std::size_t>(first + i);
          found[at] =
              compare_rows(expected.row(i), log_sum_exp(expected.row(i), vocab), logits.row(i), vocab, targets[at], -INFINITY);
        }
      });
    });
    all.add_window(found);
  });
  return all.finish();
}

divergence diverge(logits_file const& base, block_evaluation& measured, context const& ctx) {
  constexpr double deepest = -16;
  index_t const vocab = vocabulary_of(measured);
  require_same(base.vocab(), vocab, "a vocabulary");
  require_same(base.windows() * base.window(), measured.windows() * measured.window(), "windows");
  require_same(base.rows_per_window(), measured.targets_per_window(), "predictions per window");
  collected_positions all;
  measured.visit_windows([&](index_t w, matrix_view<float const> rows, std::span<int const> targets) {
    std::vector<position> found(targets.size());
    for_each_logits(measured.pass(), rows, vocab, [&](index_t first, matrix<float> const& logits) {
      ctx.parallel_for(logits.rows(), 1, [&](index_t begin, index_t end) {
        std::vector<float> expected(static_cast<std::size_t>(vocab));
        for (index_t i = begin; i < end; ++i) {
          auto const at = static_cast<std::size_t>(first + i);
          base.read_row(w, first + i, expected);
          found[at] = compare_rows(expected.data(), 0, logits.row(i), vocab, targets[at], deepest);
        }
      });
    });
    base.drop_window(w);
    all.add_window(found);
  });
  return all.finish();
}

void save_logits(block_evaluation& of, std::span<int const> tokens, std::filesystem::path const& path) {
  index_t const vocab = vocabulary_of(of);
  logits_writer writer(path, of.window(), vocab, tokens.first(static_cast<std::size_t>(of.windows() * of.window())));
  of.visit_windows([&](index_t, matrix_view<float const> rows, std::span<int const>) {
    for_each_logits(of.pass(), rows, vocab, [&](index_t, matrix<float> const& logits) {
      for (index_t i = 0; i < logits.rows(); ++i)
        writer.add_row(std::span(logits.row(i), static_cast<std::size_t>(logits.cols())));
    });
  });
  writer.finish();
}

} // namespace slim_llm
