#include "compress/rank_plan.hpp"

#include "compress/bit_plan.hpp"
#include "formats/export_plan.hpp"
#include "run/workspace.hpp"

#include "slim/slim.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

/// What one linear layer gains by bits.
struct rank_request {
  std::string tensor;
  slim::rank_offer offer;
  double bare_bits = 0; ///< without adapter
  double weights = 0;
};

/// What a component costs. Codes have a scale per group of each column of L, which every component pays, and of R, which the
/// first one pays for all that share its group.
void set_cost(rank_request& made, linear const& l, slim::adapter_format const& stored) {
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

/// Costs as the files of an export have them. @returns components that have to be taken together: a LoRA GGUF fills ranks up
index_t set_costs_of_export(std::vector<rank_request>& requests, recipe const& how, model const& m, std::string const& to) {
  index_t const step = std::max<index_t>(rank_step_of(to), 1);
  std::vector<slim::any_layer> blanks;
  std::map<std::pair<index_t, index_t>, std::size_t> kind_of_shape;
  std::map<std::string, std::size_t> kind_of;
  for (linear_info const& l : linears_of(m)) {
    auto const [at, is_new] = kind_of_shape.emplace(std::pair(l.d_out, l.d_in), blanks.size());
    if (is_new) blanks.push_back(how.blank(l.d_out, l.d_in, {.number = step}));
    kind_of[l.name] = at->second;
  }
  auto const planned = plan_export(to, std::move(blanks));
  for (rank_request& r : requests) {
    planned_export const& kind = planned[kind_of.at(r.tensor)];
    r.bare_bits = 8 * kind.linear_bytes;
    r.offer.bits_each = 8 * kind.adapter_bytes;
    std::vector<double> together;
    for (std::size_t k = 0; k < r.offer.gains.size(); ++k) {
      if (k % static_cast<std::size_t>(step) == 0) together.push_back(0.0);
      together.back() += r.offer.gains[k];
    }
    r.offer.gains = std::move(together);
  }
  return step;
}

/// The spectrum of the error that `how` leaves without adapter, in the norm of the output, relative to the output.
rank_request request_of(linear const& l, slim::calibration const& calib, recipe const& how, context const& ctx) {
  auto const bare = how.chain({.number = 0}).compress(l.weight.view(), calib, ctx);
  auto const size = static_cast<double>(l.weight.size());
  rank_request made{l.name, {}, bare.report.last().bits_per_weight * size, size};
  set_cost(made, l, *how.stored);
  matrix<float> error = l.weight;
  slim::subtract_into(error.view(), bare.weight.values(ctx).view(), error.view(), ctx);
  matrix<float> root = slim::hessian(calib, 0.01, ctx), weighted(error.rows(), error.cols());
  double const whole = slim::hessian_energy(l.weight.view(), root.view(), ctx);
  if (!(whole > 0.0) || !slim::cholesky_inplace(root.view(), ctx)) return made;
  slim::multiply_lower_into(error.view(), root.view(), weighted.view(), ctx);
  index_t const usual = how.rank_of(l.name, l.role).of(l.d_out(), l.d_in());
  for (float const sigma : slim::truncated_low_rank(weighted.view(), 3 * usual, {}, ctx).singular_values)
    made.offer.gains.push_back(std::min(static_cast<double>(sigma) * static_cast<double>(sigma) / whole,
                                        made.offer.gains.empty() ? 1e30 : made.offer.gains.back()));
  return made;
}

std::vector<rank_request> collect_requests(recipe const& how, model const& m, std::span<int const> tokens, index_t window,
                                           context const& ctx, progress const& report) {
  std::vector<rank_request> requests;
  for_each_dense_linear(
      m, tokens, window, {.gram = true},
      [&](linear const& l, slim::calibration const& calib) { requests.push_back(request_of(l, calib, how, ctx)); }, ctx,
      report);
  return requests;
}

void spend_budget(recipe& how, rank_options const& options, model const& m, std::vector<rank_request> requests) {
  double const budget = options.budget;
  bool const for_export = is_export_format(options.aim);
  index_t const step = for_export ? set_costs_of_export(requests, how, m, options.aim) : 1;
  double bare = 0, weights = 0, bits_of_one_rank = 0;
  std::vector<slim::rank_offer> offers;
  for (auto const& r : requests) {
    bare += r.bare_bits;
    weights += r.weights;
    bits_of_one_rank += r.offer.bits_each;
    offers.push_back(r.offer);
  }
  if (budget * weights < bare)
    throw input_error(slim::message("--rank-budget ", budget, ": recipe ", how.name, " takes ", bare / weights,
                                    " bits per weight without any adapter"));
  if (for_export && rank_step_of(options.aim) == 0) { // one rank for all
    auto const rank = static_cast<index_t>((budget * weights - bare) / bits_of_one_rank);
    for (auto const& r : requests) how.ranks[r.tensor] = {.number = rank};
    return;
  }
  auto const ranks = slim::allocate_ranks(offers, budget * weights - bare);
  for (std::size_t k = 0; k < requests.size(); ++k) how.ranks[requests[k].tensor] = {.number = ranks[k] * step};
}

std::string joined(std::vector<std::string> const& words) {
  std::string text;
  for (auto const& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

/// "q=0.05,down=0.12"
void read_ranks_by_role(recipe& how, std::string const& text, std::vector<std::string> const& roles) {
  std::size_t begin = 0;
  while (begin <= text.size()) {
    std::size_t const end = std::min(text.find(',', begin), text.size());
    std::string const part = text.substr(begin, end - begin);
    std::size_t const equals = part.find('=');
    std::string const role = part.substr(0, equals);
    if (equals == std::string::npos || std::find(roles.begin(), roles.end(), role) == roles.end())
      throw input_error("--rank-by-role '" + part + "': needed is ROLE=RANK with a role of " + joined(roles));
    how.ranks[role] = required(parse_rank(part.substr(equals + 1)));
    begin = end + 1;
  }
}

} // namespace

void for_each_dense_linear(model const& m, std::span<int const> tokens, index_t window,
                           slim::calibration_config const& collected,
                           std::function<void(linear const&, slim::calibration const&)> const& visit, context const& ctx,
                           progress const& report) {
  forward_pass const pass(m, window, ctx);
  index_t const windows = static_cast<index_t>(tokens.size()) / window;
  std::vector<matrix<float>> hidden;
  for (index_t w = 0; w < windows; ++w)
    hidden.push_back(pass.embed(tokens.subspan(static_cast<std::size_t>(w * window), static_cast<std::size_t>(window))));
  for (index_t n = 0; n < m.config.layers; ++n)
    with_block(m, n, ctx, [&](block const& b) {
      std::map<stage const*, slim::calibration> calib;
      for (auto& h : hidden)
        pass.run_block(b, h, [&](stage const& s, matrix_view<float const> x) {
          calib.try_emplace(&s, slim::calibration(x.cols(), collected)).first->second.observe(x, ctx);
        });
      for (stage const& s : pass.stages())
        for (std::string const& role : s.linears) visit(b[role], calib.at(&s));
      if (report) report(n + 1, m.config.layers);
    });
}

void plan_ranks(recipe& how, rank_options const& options, model const& m, std::span<int const> tokens, index_t context_tokens,
                context const& ctx, progress const& report) {
  if (options.bits != 0) plan_bits(how, options.bits, m, tokens, context_tokens, ctx, report);
  bool const asked = !options.rank.empty() || !options.by_role.empty() || options.budget != 0;
  if (!asked || !how.stored) return; // a recipe without adapters stands in grids beside those that have them
  if (!options.rank.empty()) how.rank = required(parse_rank(options.rank));
  if (!options.by_role.empty()) read_ranks_by_role(how, options.by_role, linear_roles(m.config));
  if (options.budget == 0) return;
  if (!(options.budget > 0)) throw input_error(slim::message("--rank-budget ", options.budget, ": needed is > 0"));
  index_t const window = std::min(context_tokens, static_cast<index_t>(tokens.size()));
  spend_budget(how, options, m, collect_requests(how, m, tokens, window, ctx, report));
}

} // namespace slim_llm
