// The golden record: what every component makes of two small layers, bit for bit, as hashes. A change of structure must not
// change it. Where results change on purpose, docs/decisions.md says why, and the record is written again:
//   SLIM_WRITE_RECORD=tests/golden/record.txt build/release/tests/test_record
#include "support/skip.hpp"

#include "slim/slim.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <map>
#include <sstream>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) // the last bits of float loops are those of one compiler
namespace {

using namespace slim;

/// FNV-1a, 64 bits.
class fnv {
public:
  void bytes(void const* data, std::size_t size) {
    auto const* p = static_cast<unsigned char const*>(data);
    for (std::size_t k = 0; k < size; ++k) state_ = (state_ ^ p[k]) * 0x100000001b3u;
  }
  template <class T>
  void number(T value) {
    bytes(&value, sizeof value);
  }
  template <class T>
  void values(matrix<T> const& m) {
    number(m.rows());
    number(m.cols());
    bytes(m.data(), static_cast<std::size_t>(m.size()) * sizeof(T));
  }
  [[nodiscard]] std::string text() const {
    std::ostringstream out;
    out << std::hex << std::setw(16) << std::setfill('0') << state_;
    return out.str();
  }

private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

std::string hash_of(matrix<float> const& m) {
  fnv h;
  h.values(m);
  return h.text();
}

std::string hash_of(integer_codes const& codes) {
  fnv h;
  h.values(codes.codes);
  for (index_t i = 0; i < codes.rows(); ++i)
    for (index_t j = 0; j < codes.cols(); ++j) {
      h.number(codes.scale_at(i, j));
      h.number(codes.zero_at(i, j));
      h.number(codes.factor_at(j));
    }
  return h.text();
}

std::string hash_of(mask const& kept) {
  fnv h;
  for (index_t i = 0; i < kept.rows(); ++i) h.bytes(kept.row(i), static_cast<std::size_t>(kept.cols()));
  return h.text();
}

std::string hash_of(adapter const& a) {
  fnv h;
  h.values(a.left);
  h.values(a.right);
  return h.text();
}

std::string hash_of(layer_report const& report) {
  fnv h;
  for (double const x : report.objective) h.number(x);
  for (auto const& step : report.steps)
    for (double const x : {step.relative_error, step.output_error, step.held_out_error, step.sparsity})
      h.number(std::isnan(x) ? 0.0 : x); // an error that is not measured was 0 when the record was made
  return h.text();
}

struct small_layer {
  char const* name;
  matrix<float> weight;
  calibration calib;
};

/// Not divisible by 16, 64 or 128 in any direction, with dead channels and an outlier, and one that is wide.
std::vector<small_layer> layers() {
  std::vector<small_layer> all;
  for (auto const& [name, rows, cols] : {std::tuple{"37x70", 37, 70}, std::tuple{"24x144", 24, 144}}) {
    matrix<float> w = testing::normal_matrix(rows, cols, 11, 0.02f), x = testing::normal_matrix(96, cols, 12);
    w(5, 7) = 0.4f;
    for (index_t t = 0; t < x.rows(); ++t)
      for (index_t j = 1; j < cols; ++j)
        x(t, j) = j % 29 == 3 ? 0.0f : 0.4f * x(t, j - 1) + x(t, j) * (j % 13 == 2 ? 8.0f : 1.0f);
    calibration calib(cols, {.gram = true}), held_out(cols, {.gram = true});
    calib.observe(x.view().middle_rows(0, 80));
    held_out.observe(x.view().middle_rows(80, 16));
    calib.hold_out(std::move(held_out));
    all.push_back({name, std::move(w), std::move(calib)});
  }
  return all;
}

constexpr serial_executor serial;

/// Name of a component or recipe on a layer -> its hashes.
using record = std::map<std::string, std::string>;

template <class... Steps>
void add_chain(record& all, std::string const& name, Steps const&... steps) {
  context ctx;
  ctx.where = serial;
  ctx.simd = simd_level::scalar;
  for (auto const& l : layers()) {
    auto const made = any_chain(chain(steps...)).compress(l.weight.view(), l.calib, ctx);
    std::ostringstream line;
    line << "weights " << hash_of(made.weight.values(ctx));
    if (auto const* codes = made.weight.codes.get_if<integer_codes>()) line << " codes " << hash_of(*codes);
    if (made.weight.mask) line << " mask " << hash_of(*made.weight.mask);
    if (made.adapter) line << " adapter " << hash_of(*made.adapter);
    line << " report " << hash_of(made.report) << " bits " << std::setprecision(12) << made.report.last().bits_per_weight;
    all[name + " on " + l.name] = line.str();
  }
}

template <class Set>
void add_joint(record& all, std::string const& name, Set const& set) {
  adapter_rank const rank{.number = 4};
  add_chain(all, "feedback " + name, error_feedback(set));
  add_chain(all, "feedback act-order " + name, error_feedback(set, {.act_order = true}));
  add_chain(all, "feedback descent " + name, error_feedback(set, {.descents = 2}));
  add_chain(all, "alternating " + name, joint_slr(set, alternating_config(rank)));
  add_chain(all, "joint " + name, joint_slr(set, {.rank = rank, .stored = {.bits = 4, .group = 32}, .iterations = 3}));
}

record made_now() {
  record all;
  constexpr auto fp16_scales = number_format::fp16;
  for (auto const block : {per_tensor, per_channel, per_group(32), per_column_group(16)})
    for (int const bits : {2, 4, 8}) {
      std::string const name = message(bits, " bit ", describe(block));
      add_chain(all, "absmax " + name, absmax_quantizer({.bits = bits, .block = block}));
      add_chain(all, "absmax zeros " + name,
                absmax_quantizer({.bits = bits, .block = block, .symmetric = false, .scale_format = fp16_scales}));
      add_chain(all, "slim " + name, slim_quantizer({.bits = bits, .block = block, .scale_format = fp16_scales}));
    }
  add_chain(all, "slim outliers", slim_quantizer({.bits = 4, .outlier_share = 0.05}));
  add_chain(all, "slim reference", slim_quantizer({.bits = 4, .search = scale_search::reference}));
  add_chain(all, "magnitude 2:4", nm_pruner<2, 4>(magnitude{}));
  add_chain(all, "wanda 2:4", nm_pruner<2, 4>(wanda{}));
  add_chain(all, "ria 4:8", nm_pruner<4, 8>(ria{}));
  add_chain(all, "wanda 50%", unstructured_pruner(wanda{}, {.sparsity = 0.5}));
  add_chain(all, "alps 2:4", alps(nm_pruner<2, 4>(magnitude{})));
  adapter_rank const rank{.number = 5};
  slim_quantizer const int4({.bits = 4, .scale_format = fp16_scales});
  auto const half = nm_pruner<2, 4>(wanda{});
  absmax_quantizer const grouped({.bits = 4, .block = per_column_group(32), .scale_format = fp16_scales});
  add_chain(all, "slim chain", int4, half, slim_lora({.rank = rank, .format = number_format::bf16}));
  add_chain(all, "slim chain, pruned first", half, int4, slim_lora({.rank = rank}));
  add_chain(all, "naive chain", int4, half, naive_lora({.rank = rank}));
  add_chain(all, "l2qer chain", int4, l2qer_lora({.rank = rank}));
  add_chain(all, "exact chain", int4, half, exact_lora({.rank = rank}));
  add_chain(all, "quantized adapter", int4, half, quantized_adapter(slim_lora({.rank = rank}), grouped));
  add_chain(all, "sparse adapter", int4, half, sparse_adapter(slim_lora({.rank = rank}), half));
  add_joint(all, "2:4 int4", quantized_set({.bits = 4}, nm<2, 4>{}));
  add_joint(all, "2:4 int4 groups", quantized_set({.bits = 4, .block = per_group(32)}, nm<2, 4>{}));
  add_joint(all, "dense int3 zeros", quantized_set({.bits = 3, .block = per_group(32), .symmetric = false}, dense_pattern{}));
  add_joint(all, "dense int4 absmax",
            quantized_set({.bits = 4, .block = per_group(32), .rule = scale_rule::absmax}, dense_pattern{}));
  add_joint(all, "half int4", quantized_set({.bits = 4}, unstructured_pattern{}));
  add_chain(all, "feedback refitted",
            error_feedback(quantized_set({.bits = 3, .block = per_group(32), .symmetric = false}, dense_pattern{}),
                           {.refit_groups = true}));
  return all;
}

record read(std::string const& path) {
  record all;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (auto const at = line.find(": "); at != std::string::npos) all[line.substr(0, at)] = line.substr(at + 2);
  return all;
}

} // namespace

TEST_CASE("every component makes of two small layers what the record holds, bit for bit") {
  record const now = made_now();
  if (char const* const path = std::getenv("SLIM_WRITE_RECORD")) {
    std::ofstream file(path);
    for (auto const& [name, line] : now) file << name << ": " << line << "\n";
    return;
  }
  record const before = read(SLIM_RECORD);
  CHECK(now.size() == before.size());
  for (auto const& [name, line] : now) {
    INFO(name);
    auto const found = before.find(name);
    CHECK((found == before.end() ? "not recorded" : found->second) == line);
  }
}
#else
TEST_CASE("every component makes of two small layers what the record holds, bit for bit") {
  slim_test::skip("the record's bits are those of g++ on x86-64");
}
#endif
