#include "compress/rank_plan.hpp"

#include "run/workspace.hpp"

#include "slim/slim.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

/// What one linear layer would do with bits.
struct wish {
  std::string tensor;
  slim::rank_offer offer;
  double bare_bits = 0; ///< without adapter
  double weights = 0;
};

/// What a component costs. Codes have a scale per group of each column of L, which every component pays, and of R, which the
/// first one pays for all that share its group.
void price(wish& made, linear const& l, slim::adapter_format const& stored) {
  auto const numbers = static_cast<double>(l.d_in() + l.d_out());
  if (stored.bits == 0) {
    made.offer.bits_each = slim::bit_width(stored.format) * numbers;
    return;
  }
  double const scale = slim::bit_width(stored.scale_format);
  made.offer.bits_each =
      stored.bits * numbers + scale * std::ceil(static_cast<double>(l.d_in()) / static_cast<double>(stored.group));
  made.bare_bits += scale * static_cast<double>(l.d_out());
}

/// The spectrum of the error that `how` leaves without adapter, in the norm of the output, relative to the output.
wish wish_of(linear const& l, slim::calibration const& seen, recipe const& how, std::string const& role, context const& ctx) {
  auto const bare = how.chain({.number = 0}).compress(l.weight.view(), seen, ctx);
  auto const size = static_cast<double>(l.weight.size());
  wish made{l.name, {}, bare.report.last().bits_per_weight * size, size};
  price(made, l, *how.stored);
  matrix<float> error = l.weight;
  for (index_t k = 0; k < error.size(); ++k) error.data()[k] -= bare.weights.data()[k];
  matrix<float> root = slim::curvature(seen, 0.01), weighted(error.rows(), error.cols());
  double const whole = slim::energy_under(l.weight.view(), root.view(), ctx);
  if (!(whole > 0.0) || !slim::cholesky_inplace(root.view(), ctx)) return made;
  slim::gemm_into(error.view(), root.view(), weighted.view(), ctx);
  index_t const usual = how.rank_of(l.name, role).of(l.d_out(), l.d_in());
  for (float const sigma : slim::truncated_low_rank(weighted.view(), 3 * usual, {}, ctx).singular_values)
    made.offer.gains.push_back(std::min(static_cast<double>(sigma) * static_cast<double>(sigma) / whole,
                                        made.offer.gains.empty() ? 1e30 : made.offer.gains.back()));
  return made;
}

std::vector<wish> collect_wishes(recipe const& how, model const& m, std::span<int const> tokens, index_t window,
                                 context const& ctx, progress const& report) {
  forward_pass const pass(m, window, ctx);
  index_t const windows = static_cast<index_t>(tokens.size()) / window;
  auto hidden = pass.embed(tokens.first(static_cast<std::size_t>(windows * window)));
  std::vector<wish> wishes;
  for (std::size_t b = 0; b < m.blocks.size(); ++b) {
    block copy = m.blocks[b];
    std::map<stage, slim::calibration> seen;
    for (index_t w = 0; w < windows; ++w)
      pass.run_block(copy, hidden.view().middle_rows(w * window, window),
                     [&](linear_group const& g, matrix_view<float const> x) {
                       seen.try_emplace(g.input, slim::calibration(x.cols(), {.gram = true})).first->second.observe(x, ctx);
                     });
    for (auto const& group : linear_groups(copy))
      for (linear const* member : group.members)
        wishes.push_back(wish_of(*member, seen.at(group.input), how, role_of(copy, *member), ctx));
    if (report) report(static_cast<index_t>(b) + 1, static_cast<index_t>(m.blocks.size()));
  }
  return wishes;
}

void spend_budget(recipe& how, double budget, std::vector<wish> const& wishes) {
  double bare = 0, weights = 0;
  std::vector<slim::rank_offer> offers;
  for (auto const& w : wishes) {
    bare += w.bare_bits;
    weights += w.weights;
    offers.push_back(w.offer);
  }
  if (budget * weights < bare)
    throw input_error(slim::message("--rank-budget ", budget, ": recipe ", how.name, " takes ", bare / weights,
                                    " bits per weight without any adapter"));
  auto const ranks = slim::allocate_ranks(offers, budget * weights - bare);
  for (std::size_t k = 0; k < wishes.size(); ++k) how.ranks[wishes[k].tensor] = {.number = ranks[k]};
}

/// "q=0.05,down=0.12"
void read_ranks_by_role(recipe& how, std::string const& text) {
  std::size_t begin = 0;
  while (begin <= text.size()) {
    std::size_t const end = std::min(text.find(',', begin), text.size());
    std::string const part = text.substr(begin, end - begin);
    std::size_t const equals = part.find('=');
    std::string const role = part.substr(0, equals);
    static std::vector<std::string> const roles = {"q", "k", "v", "o", "gate", "up", "down"};
    if (equals == std::string::npos || std::find(roles.begin(), roles.end(), role) == roles.end())
      throw input_error("--rank-by-role '" + part + "': needed is ROLE=RANK with a role of q, k, v, o, gate, up, down");
    how.ranks[role] = required(parse_rank(part.substr(equals + 1)));
    begin = end + 1;
  }
}

} // namespace

void plan_ranks(recipe& how, rank_options const& options, model const& m, std::span<int const> tokens, index_t context_tokens,
                context const& ctx, progress const& report) {
  bool const asked = !options.rank.empty() || !options.by_role.empty() || options.budget != 0;
  if (!asked || !how.stored) return; // a recipe without adapters stands in grids beside those that have them
  if (!options.rank.empty()) how.rank = required(parse_rank(options.rank));
  if (!options.by_role.empty()) read_ranks_by_role(how, options.by_role);
  if (options.budget == 0) return;
  if (!(options.budget > 0)) throw input_error(slim::message("--rank-budget ", options.budget, ": needed is > 0"));
  index_t const window = std::min(context_tokens, static_cast<index_t>(tokens.size()));
  spend_budget(how, options.budget, collect_wishes(how, m, tokens, window, ctx, report));
}

} // namespace slim_llm
