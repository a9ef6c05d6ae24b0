/// @file
/// A record of what the program computes, bit for bit, so that a change of its structure can show that it changes no result.
/// Every line of tests/golden/llm_record.txt is the name of a result and its hash. Results of compress_model are computed with
/// scalar kernels and so do not depend on the machine; files that slim-llm writes depend on the machine's instruction set,
/// which is part of their names. A compiler may round differently, so the record holds for g++ on x86-64 without FMA.
///
/// To write the record anew: SLIM_WRITE_RECORD=tests/golden/llm_record.txt test_llm "[record]"

#include "compress/compress_model.hpp"
#include "compress/rank_plan.hpp"
#include "support/skip.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_gguf.hpp"

#include "slim/simd/levels.hpp"

#include <catch2/catch.hpp>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iomanip>
#include <map>
#include <sstream>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__FMA__)
constexpr bool bits_are_comparable = true;
#else
constexpr bool bits_are_comparable = false;
#endif

/// FNV-1a, 64 bits.
class hash {
public:
  void add_bytes(void const* bytes, std::size_t count) {
    for (std::size_t k = 0; k < count; ++k) value_ = (value_ ^ static_cast<unsigned char const*>(bytes)[k]) * 0x100000001b3u;
  }
  template <class T>
  void add(std::vector<T> const& values) {
    add_bytes(values.data(), values.size() * sizeof(T));
  }
  void add(matrix<float> const& m) { add_bytes(m.data(), static_cast<std::size_t>(m.size()) * sizeof(float)); }
  void add(double value) { add_bytes(&value, sizeof value); }

  [[nodiscard]] std::string text() const {
    std::ostringstream out;
    out << std::hex << std::setw(16) << std::setfill('0') << value_;
    return out.str();
  }

private:
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

using record = std::map<std::string, std::string>;

record read_record(std::filesystem::path const& file) {
  record found;
  std::ifstream in(file);
  std::string line;
  while (std::getline(in, line))
    if (auto const space = line.rfind(' '); !line.empty() && line[0] != '#' && space != std::string::npos)
      found[line.substr(0, space)] = line.substr(space + 1);
  return found;
}

/// Compares with the committed record, or adds to the file that SLIM_WRITE_RECORD names.
void check_against_record(record const& computed) {
  std::filesystem::path const committed = SLIM_GOLDEN_DIR "/llm_record.txt";
  if (char const* const target = std::getenv("SLIM_WRITE_RECORD")) {
    record all = read_record(target);
    for (auto const& [name, value] : computed) all[name] = value;
    std::ofstream out(target);
    out << "# Results of slim-llm and their FNV-1a hashes; written and checked by tests/llm/record_test.cpp.\n";
    for (auto const& [name, value] : all) out << name << ' ' << value << '\n';
    return;
  }
  record const expected = read_record(committed);
  for (auto const& [name, value] : computed) {
    INFO(name);
    CHECK(expected.contains(name));
    if (auto const at = expected.find(name); at != expected.end()) CHECK(value == at->second);
  }
}

context scalar_context() {
  context ctx;
  ctx.simd = slim::simd_level::scalar;
  return ctx;
}

/// Names whose order is that of the linears.
void name_in_order(model& m) {
  int number = 100;
  for (linear* l : all_linears(m)) l->name = "linear." + std::to_string(number++);
}

void add_packed(hash& sum, packed_weights const& packed) {
  for (auto const& [name, layer] : packed) {
    sum.add(layer.weight);
    sum.add(layer.left);
    sum.add(layer.right);
    sum.add(layer.left_values);
    sum.add(layer.right_values);
  }
}

void add_report(hash& sum, compression const& cost) {
  for (auto const& layer : cost.layers) {
    sum.add(static_cast<double>(layer.block));
    for (auto const& step : layer.report.steps)
      for (double const value : {step.relative_error, step.output_error, step.held_out_error, step.sparsity,
                                 step.bits_per_weight, static_cast<double>(step.rank), static_cast<double>(step.notes.size())})
        sum.add(std::isnan(value) ? 0.0 : value); // an error that is not measured was 0 when the record was made
  }
  for (double const value : {cost.bits_per_weight, cost.layer_error, cost.held_out_error}) sum.add(value);
}

bool has_codes(std::string const& recipe) {
  return recipe.find("magnitude") == std::string::npos && recipe.find("wanda-24") == std::string::npos &&
         recipe.find("dense") == std::string::npos;
}

void record_recipe(record& found, std::string const& model_name, model m, std::string const& recipe_name) {
  name_in_order(m);
  context const ctx = scalar_context();
  packed_weights layers;
  auto const cost = compress_in_place(
      m, random_tokens(80, 61), find_recipe(recipe_name).value(),
      {.context = 8, .calib_tokens = 56, .held_out_tokens = 24, .keep_packed = has_codes(recipe_name)}, 32, ctx, &layers);
  hash weights, packed, report;
  for (linear const* l : all_linears(m)) weights.add(l->weight);
  add_packed(packed, layers);
  add_report(report, cost);
  report.add(evaluate(m, random_tokens(64, 61, 6), {.context = 16}, ctx).window_nll);
  std::string const prefix = model_name + " " + recipe_name + " ";
  found[prefix + "weights"] = weights.text();
  found[prefix + "packed"] = packed.text();
  found[prefix + "report"] = report.text();
}

} // namespace

TEST_CASE("compressed weights, packed bytes and reports of every recipe are those of the record", "[record]") {
  if (!bits_are_comparable) return slim_test::skip("the record holds for g++ on x86-64 without FMA");
  record found;
  for (char const* name : {"dense@fp8",
                           "absmax",
                           "slim-quant",
                           "magnitude-24",
                           "wanda-24",
                           "absmax-wanda",
                           "slim-quant-wanda",
                           "naive",
                           "l2qer@channel",
                           "slim",
                           "slim-q@g16",
                           "slim-repo",
                           "qera",
                           "slim-o@50",
                           "slim@prune-first@r3",
                           "slim@fp8",
                           "sparsegpt-gptq",
                           "eora",
                           "alternating",
                           "joint",
                           "joint-q@g16",
                           "joint-int8@50",
                           "joint@no-target",
                           "rtn-int4@g16",
                           "gptq-int4@g16",
                           "gptq-int3",
                           "int2-lr",
                           "int3-lr@g16@r2",
                           "int4-lr@int8"})
    record_recipe(found, "llama", random_llama(), name);
  for (char const* name : {"slim-q@g16", "joint-q@g16"}) {
    record_recipe(found, "qwen", random_qwen(), name);
    record_recipe(found, "opt-350m", random_opt(true), name);
  }
  for (char const* name : {"dense", "slim-q@g16", "eora", "joint-q@g16", "int3-lr@g16@r2", "gptq-int4@g16"})
    record_recipe(found, "opt", random_opt(), name);
  check_against_record(found);
}

TEST_CASE("ranks from a budget of bits are those of the record", "[record]") {
  if (!bits_are_comparable) return slim_test::skip("the record holds for g++ on x86-64 without FMA");
  record found;
  for (auto const& [name, m] : {std::pair("llama", random_llama()), std::pair("opt", random_opt())}) {
    model named = m;
    name_in_order(named);
    auto how = find_recipe("joint-q@g16").value();
    plan_ranks(how, {.rank = "", .by_role = "", .budget = 6.0}, named, random_tokens(80, 61), 8, scalar_context());
    hash ranks;
    for (auto const& [tensor, rank] : how.ranks) ranks.add(static_cast<double>(rank.number));
    found[std::string(name) + " rank budget"] = ranks.text();
  }
  check_against_record(found);
}

TEST_CASE("the files that slim-llm compress writes are those of the record", "[record]") {
  if (!bits_are_comparable) return slim_test::skip("the record holds for g++ on x86-64 without FMA");
  if (slim::best_simd_level() != slim::simd_level::avx512) return slim_test::skip("the record is of a machine with AVX-512");
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "tiny.gguf", m);
  std::string letters;
  for (int const id : random_tokens(900, 26, 8)) letters += static_cast<char>('a' + id);
  slim_test::write_file(folder / "text", letters);
  record found;
  for (std::string const recipe : {"slim-q@g32", "int3-lr@g32@r2"}) {
    std::string const at = folder.path().string();
    std::string const command = std::string(SLIM_LLM_PROGRAM) + " compress " + at + "/tiny.gguf --calib " + at +
                                "/text --text " + at +
                                "/text --context 32 --calib-tokens 256 --held-out-tokens 64 --max-tokens 128 --recipe " +
                                recipe + " --out " + at + "/out";
    for (std::string const ending : {".gguf", ".slim"}) {
      int const status = std::system((command + ending + " > " + at + "/log 2>&1").c_str());
      INFO(slim_test::read_file(folder / "log"));
      REQUIRE(status == 0);
    }
    auto const bytes = slim_test::read_file(folder / "out.gguf");
    hash whole, tensors; // metadata of a .slim file name the program's version
    whole.add_bytes(bytes.data(), bytes.size());
    auto const slim_file = slim::safetensors_file::open(folder / "out.slim").value();
    for (auto const& tensor : slim_file.tensors()) {
      tensors.add_bytes(tensor.name.data(), tensor.name.size());
      tensors.add_bytes(tensor.bytes.data(), tensor.bytes.size());
    }
    found["file avx512 " + recipe + " out.gguf"] = whole.text();
    found["file avx512 " + recipe + " out.slim tensors"] = tensors.text();
  }
  check_against_record(found);
}
