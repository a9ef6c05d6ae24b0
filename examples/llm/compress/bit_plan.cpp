#include "compress/bit_plan.hpp"

#include "compress/rank_plan.hpp"
#include "run/table.hpp"
#include "run/workspace.hpp"

#include "slim/allocation/budget_allocation.hpp"
#include "slim/slim.hpp"

#include <algorithm>
#include <cstdio>

namespace slim_llm {
namespace {

constexpr int offered[] = {2, 3, 4};

/// All linears and what they offer.
struct bit_requests {
  std::vector<std::string> tensors, roles;
  slim::bit_offers offers;
  std::vector<double> losses; ///< items x widths
  double side_bits = 0;       ///< all that is stored beside codes, of all linears
};

bit_requests collect(recipe const& how, model const& m, std::span<int const> tokens, index_t window, context const& ctx,
                     progress const& report) {
  bit_requests all;
  for (int const bits : offered) all.offers.widths.push_back(bits);
  for_each_dense_linear(
      m, tokens, window, {.gram = true},
      [&](linear const& l, slim::calibration const& calib) {
        auto const size = static_cast<double>(l.weight.size());
        all.tensors.push_back(l.name);
        all.roles.push_back(l.role);
        all.offers.sizes.push_back(size);
        all.offers.scores.push_back(0.0);
        double side = 0;
        for (int const bits : offered) {
          auto const last =
              how.chain_of_bits(how.rank_of(l.name, l.role), bits).compress(l.weight.view(), calib, ctx).report.last();
          all.losses.push_back(last.output_error * last.output_error);
          side = std::max(side, (last.bits_per_weight - bits) * size);
        }
        all.side_bits += side;
      },
      ctx, report);
  all.offers.losses = matrix<double>(all.offers.count(), std::ssize(offered));
  std::copy(all.losses.begin(), all.losses.end(), all.offers.losses.data());
  return all;
}

/// A row per role: how many of its linears got which width.
void print_shares(bit_requests const& requests, std::vector<index_t> const& chosen) {
  table shares({"codes of bits", "2", "3", "4", "mean"});
  std::vector<std::string> roles;
  for (auto const& role : requests.roles)
    if (std::find(roles.begin(), roles.end(), role) == roles.end()) roles.push_back(role);
  for (auto const& role : roles) {
    std::vector<int> count(std::size(offered));
    double bits = 0, weights = 0;
    for (std::size_t k = 0; k < chosen.size(); ++k) {
      if (requests.roles[k] != role) continue;
      ++count[static_cast<std::size_t>(chosen[k])];
      bits += offered[chosen[k]] * requests.offers.sizes[k];
      weights += requests.offers.sizes[k];
    }
    shares.add({role, std::to_string(count[0]), std::to_string(count[1]), std::to_string(count[2]), fixed(bits / weights, 2)});
  }
  std::printf("%s\n", shares.text().c_str());
}

} // namespace

void plan_bits(recipe& how, double bits, model const& m, std::span<int const> tokens, index_t context_tokens,
               context const& ctx, progress const& report) {
  if (!how.chain_of_bits) throw input_error("--bits: recipe " + how.name + " has no codes of one width");
  if (!(bits > 0)) throw input_error(slim::message("--bits ", bits, ": needed is > 0"));
  if (how.towards_dense) throw input_error("--bits: recipe " + how.name + " aims at the dense model's outputs; add @no-target");
  index_t const window = std::min(context_tokens, static_cast<index_t>(tokens.size()));
  bit_requests const requests = collect(how, m, tokens, window, ctx, report);
  double weights = 0;
  for (double const size : requests.offers.sizes) weights += size;
  double const side = requests.side_bits / weights;
  if (bits - side < offered[0])
    throw input_error(slim::message("--bits ", bits, ": recipe ", how.name, " takes ", offered[0] + side,
                                    " bits per weight with codes of ", offered[0], " bits"));
  auto const chosen =
      slim::budget_allocation({.bits = bits - side, .widths = requests.offers.widths}).allocate(requests.offers);
  for (std::size_t k = 0; k < chosen.size(); ++k) how.bits[requests.tensors[k]] = offered[chosen[k]];
  print_shares(requests, chosen);
}

} // namespace slim_llm
