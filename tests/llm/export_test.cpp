// What export writes, read back: by import, which gives the same bytes when it is exported again, and by the forward pass,
// which sees whether names, rows and adapters are in their places. Readers that are not ours: tests/interop.

#include "compress/compress_model.hpp"
#include "evaluate/evaluate.hpp"
#include "formats/export_adapter.hpp"
#include "formats/export_folder.hpp"
#include "formats/export_gguf.hpp"
#include "formats/import_folder.hpp"
#include "formats/load.hpp"
#include "formats/slim_writer.hpp"
#include "models/family.hpp"
#include "tiny_folder.hpp"

#include "slim/packing/dense_codes.hpp"

#include <catch2/catch.hpp>

using namespace slim_llm;
using namespace slim_llm::testing;
using Catch::Contains;

namespace {

/// Two blocks whose extents other software can pack: hidden 64, 4 heads on 2, a norm that is not 1.
model exportable_llama(rope_style style) {
  model m = random_llama(256, style);
  model_config& c = m.config;
  c.hidden = c.embedding_dim = 64;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.intermediate = 96;
  m.embedding = random_matrix(c.vocab, c.hidden, 1, 0.5);
  m.final_norm.weight = random_vector(c.hidden, 9, 1.0, 0.1);
  for (std::size_t n = 0; n < m.blocks.size(); ++n) {
    std::uint64_t const seed = 100 * (n + 1);
    block& b = m.blocks[n];
    b.norms = {named_norm("attention_norm", random_vector(c.hidden, seed + 7, 1.0, 0.1)),
               named_norm("mlp_norm", random_vector(c.hidden, seed + 8, 1.0, 0.1))};
    b.linears = {random_linear("q", c.q_size(), c.hidden, seed),
                 random_linear("k", c.kv_size(), c.hidden, seed + 1),
                 random_linear("v", c.kv_size(), c.hidden, seed + 2),
                 random_linear("o", c.hidden, c.q_size(), seed + 3),
                 random_linear("gate", c.intermediate, c.hidden, seed + 4),
                 random_linear("up", c.intermediate, c.hidden, seed + 5),
                 random_linear("down", c.hidden, c.intermediate, seed + 6)};
  }
  return m;
}

slim::integer_codes quantized(matrix<float> const& w, int bits, slim::scale_block block, bool symmetric,
                              slim::number_format format) {
  return slim::absmax_quantizer({.bits = bits, .block = block, .symmetric = symmetric, .scale_format = format})
      .quantize(w.view(), slim::calibration(w.cols()), {});
}

/// A `.slim` file of a model: 3 bits with zero points, adapters of 4 bits and a rank of their own each; none at the last
/// linear.
void write_slim(std::filesystem::path const& path, checkpoint const& file, slim::number_format scales, bool adapted,
                bool small_embedding = false) {
  model const m = required(load_model(file.path()));
  side_types const sides = small_embedding ? default_side_types(m) : side_types();
  slim_writer writer(slim_source_of(file), m, path, {{"name", "a test"}}, {.sides = sides});
  std::uint64_t seed = 1;
  std::string const last = linears_of(m).back().name;
  for (index_t n = 0; n < m.config.layers; ++n) {
    block b = load_block(m, n);
    packed_weights layers;
    for (linear const& l : b.linears) {
      packed_layer& layer = layers[l.name];
      layer.weight = slim::dense_codes::pack(
          quantized(random_matrix(l.d_out(), l.d_in(), ++seed, 0.1), 3, slim::per_group(64), false, scales));
      index_t const rank = 2 + static_cast<index_t>(seed) % 5;
      if (!adapted || l.name == last) continue;
      auto const codes = [&](index_t rows, index_t cols, std::uint64_t s) {
        return slim::dense_codes::pack(
            quantized(random_matrix(rows, cols, s, 0.1), 4, slim::per_column_group(128), true, scales));
      };
      layer.left = codes(l.d_in(), rank, seed + 500);
      layer.right = codes(rank, l.d_out(), seed + 900);
    }
    use_packed(b, layers, std::nullopt);
    writer.add(b, layers);
  }
  CHECK(writer.finish() > 0);
}

/// A compressed model on disk, as export gets it.
struct packed_model {
  checkpoint file;
  model dense;
  export_source source;

  explicit packed_model(std::filesystem::path const& path)
      : file(path), dense(required(load_model(path))), source(source_of(file, dense)) {}
};

struct fixture {
  slim_test::temporary_folder folder;
  std::filesystem::path hf = folder / "hf", gguf = folder / "pairs.gguf";

  explicit fixture(slim::number_format scales = slim::number_format::bf16, bool adapted = true) {
    model halves = exportable_llama(rope_style::rotate_half), pairs = exportable_llama(rope_style::adjacent_pairs);
    write_tiny_folder(hf, halves, "F16");
    write_tiny_gguf(gguf, pairs);
    write_slim(folder / "hf.slim", checkpoint(hf), scales, adapted);
    write_slim(folder / "gguf.slim", checkpoint(gguf), scales, adapted);
  }
  [[nodiscard]] packed_model from_folder() const { return packed_model(folder / "hf.slim"); }
  [[nodiscard]] packed_model from_gguf() const { return packed_model(folder / "gguf.slim"); }
};

std::string bytes(std::filesystem::path const& path) { return slim_test::read_file(path); }

model in_memory(std::filesystem::path const& path) {
  model m = required(load_model(path));
  load_into_memory(m);
  return m;
}

/// The dense model with the values that were packed, adapters added.
model compressed(packed_model const& p, bool adapted = true) {
  model m = in_memory(p.file.path());
  for (block& b : m.blocks)
    for (linear& l : b.linears) {
      export_layer const layer = p.source.read({l.name, l.role, l.d_out(), l.d_in()});
      l.weight = values_of(layer.codes);
      if (adapted && layer.adapter.rank() > 0) layer.adapter.add_to(l.weight.view());
    }
  return m;
}

double distance(matrix<float> const& a, matrix<float> const& b) {
  double change = 0, size = 0;
  for (index_t k = 0; k < b.size(); ++k) {
    double const d = static_cast<double>(a.data()[k]) - static_cast<double>(b.data()[k]);
    change += d * d;
    size += static_cast<double>(b.data()[k]) * static_cast<double>(b.data()[k]);
  }
  return std::sqrt(change / size);
}

} // namespace

TEST_CASE("a folder that was exported, imported and exported again has the same bytes, in every format") {
  fixture const f;
  packed_model const plain = f.from_folder();
  write_slim(f.folder / "small.slim", checkpoint(f.hf), slim::number_format::bf16, true, true);
  packed_model const small(f.folder / "small.slim"); // MLX quantizes the embedding, too
  for (std::string const name : {"ct", "gptq", "mlx", "mlx, embedding of 8 bits"}) {
    INFO(name);
    std::string const to = name.substr(0, name.find(','));
    packed_model const& p = to == name ? plain : small;
    export_report report;
    auto const out = f.folder / name, imported = f.folder / (name + ".slim"), again = f.folder / (name + "-again");
    export_folder(p.source, *find_layer_format(to), out, {}, report);
    CHECK(report.rounded_layers == 0);
    quantized_folder const read(out);
    for (linear_info const& l : p.source.linears)
      REQUIRE(values_of(read.codes(l.name.substr(0, l.name.rfind(".weight")))) == values_of(p.source.read(l).codes));
    imported_model const made = read.write_slim(imported, {});
    CHECK(made.bytes == static_cast<double>(std::filesystem::file_size(imported)));
    packed_model const q(imported);
    CHECK(q.file.container()->source().empty());
    export_folder(q.source, *find_layer_format(to), again, {}, report);
    CHECK(bytes(out / "model.safetensors") == bytes(again / "model.safetensors"));
    auto const config = nlohmann::json::parse(bytes(out / "config.json"));
    CHECK(config == nlohmann::json::parse(bytes(again / "config.json")));
    CHECK(config["torch_dtype"] == "float16");
    CHECK(config.contains("quantization_config"));
    CHECK(bytes(out / "tokenizer.json") == bytes(f.hf / "tokenizer.json"));
  }
}

TEST_CASE("adapters that were exported, imported and exported again have the same bytes, in every format") {
  fixture const f;
  packed_model const p = f.from_folder();
  export_report report;
  export_peft(p.source, f.hf, f.folder / "peft", {}, report);
  export_mlx_adapter(p.source, f.folder / "mlx", {}, report);
  export_lora_gguf(p.source, f.folder / "lora.gguf", {}, report);
  auto const config = nlohmann::json::parse(bytes(f.folder / "peft" / "adapter_config.json"));
  CHECK(config["r"] == config["lora_alpha"]);
  CHECK(config["rank_pattern"] == config["alpha_pattern"]);
  CHECK(config["target_modules"].size() == 13); // full names: the last linear has no adapter
  struct kind {
    char const* name;
    char const* file;
  };
  for (auto const& [name, file] :
       {kind{"peft", "adapter_model.safetensors"}, {"mlx", "adapters.safetensors"}, {"lora.gguf", ""}}) {
    auto const adapters = read_adapters(f.folder / name, p.file.tensors(), p.dense);
    CHECK(adapters.size() == (std::string(name) == "mlx" ? 14 : 13)); // zeros in mlx-lm's: every block has the same modules
    export_source again = p.source;
    again.read_adapter = [&](linear_info const& l) {
      slim::adapter const before = p.source.read_adapter(l);
      if (before.rank() == 0) return before;
      slim::adapter const& read = adapters.at(l.name);
      for (index_t i = 0; i < before.left.rows(); ++i) // behind the rank there may be zeros
        for (index_t k = 0; k < before.rank(); ++k) REQUIRE(read.left(i, k) == before.left(i, k));
      return read;
    };
    auto const out = f.folder / (std::string(name) + "-again");
    if (std::string(name) == "peft") export_peft(again, f.hf, out, {}, report);
    if (std::string(name) == "mlx") export_mlx_adapter(again, out, {}, report);
    if (std::string(name) == "lora.gguf") export_lora_gguf(again, out, {}, report);
    bool const folder = *file != 0;
    CHECK(bytes(folder ? f.folder / name / file : f.folder / name) == bytes(folder ? out / file : out));
    if (folder) CHECK(bytes(f.folder / name / "adapter_config.json") == bytes(out / "adapter_config.json"));
  }
  auto const lora = slim::gguf_file::open(f.folder / "lora.gguf").value();
  CHECK(lora.find("blk.0.attn_q.weight.lora_a")->type == slim::tensor_type::q4_0);
  CHECK(lora.find("blk.0.attn_q.weight.lora_b")->shape == std::vector<index_t>{64, 32});
}

TEST_CASE("a GGUF file becomes a folder that computes the same, and a folder's codes go into a GGUF file of the model") {
  fixture const f;
  auto const ids = random_tokens(40, 256);
  for (bool const pairs : {true, false}) {
    packed_model const p = pairs ? f.from_gguf() : f.from_folder();
    auto const expected = all_logits(compressed(p), ids, 40), bare = all_logits(compressed(p, false), ids, 40);
    CHECK(distance(bare, expected) > 0.02); // the adapters do something
    auto const name = [&](char const* what) { return f.folder / (std::string(pairs ? "pairs-" : "halves-") + what); };
    export_report report;
    export_dense_folder(p.source, true, name("merged"), {}, report);
    CHECK(report.rounded_layers == 0);
    CHECK(distance(all_logits(in_memory(name("merged")), ids, 40), expected) < 1e-5);
    export_dense_folder(p.source, false, name("bare"), {}, report);
    CHECK(distance(all_logits(in_memory(name("bare")), ids, 40), bare) < 1e-5);
    export_gguf(p.source, "", pairs ? "" : f.gguf, name("small.gguf"), {}, report);
    CHECK(slim::gguf_file::open(name("small.gguf")).value().find("blk.0.attn_k.weight")->type == slim::tensor_type::q4_0);
    export_gguf(p.source, "q4_1", pairs ? "" : f.gguf, name("q4_1.gguf"), {}, report);
    // Embedding and norms of the base are F32, those of the folder are rounded to F16.
    CHECK(distance(all_logits(in_memory(name("q4_1.gguf")), ids, 40), bare) < (pairs ? 1e-5 : 2e-3));
    auto const file = slim::gguf_file::open(name("q4_1.gguf")).value();
    CHECK(file.find("blk.1.ffn_down.weight")->type == slim::tensor_type::q4_1);
    CHECK(file.get<int>("general.file_type").value() == 3);
    auto const text = tokenizer::from_folder(name("merged"));
    REQUIRE(text);
    CHECK(text->encode("an apple 12") == p.file.load_tokenizer().encode("an apple 12"));
  }
  auto const adapters = [&](packed_model const& p) {
    export_report report;
    export_lora_gguf(p.source, f.folder / "l.gguf", {}, report);
    return read_adapters(f.folder / "l.gguf", p.file.tensors(), p.dense);
  };
  packed_model const p = f.from_folder();
  for (auto const& [name, a] : adapters(p)) // rows of q and k go there and come back
    for (linear_info const& l : p.source.linears)
      if (l.name == name) CHECK(a.right(0, 5) == p.source.read_adapter(l).right(0, 5));
}

TEST_CASE("what a format does not hold is refused by name, or rounded and told") {
  fixture const f(slim::number_format::fp16); // 11 bits of a scale times a zero point are more than F16 has
  packed_model const p = f.from_folder();
  export_report report;
  auto const says = [&](char const* sentence, auto const& work) { CHECK_THROWS_WITH(work(), Contains(sentence)); };
  says("model.layers.0.self_attn.q_proj.weight: mlx cannot hold it: scale",
       [&] { export_folder(p.source, *find_layer_format("mlx"), f.folder / "no", {}, report); });
  says("its adapter has rank", [&] { export_peft(p.source, f.hf, f.folder / "no", {.max_rank = 2}, report); });
  says("--base", [&] { export_gguf(p.source, "q4_1", "", f.folder / "no", {}, report); });
  says("rows of 64 are no whole blocks of 256", [&] { export_gguf(p.source, "q4_k", f.gguf, f.folder / "no", {}, report); });
  CHECK_FALSE(std::filesystem::exists(f.folder / "no"));
  export_report lossy;
  export_folder(p.source, *find_layer_format("mlx"), f.folder / "lossy", {.allow_lossy = true}, lossy);
  CHECK(lossy.rounded_layers > 0);
  CHECK((lossy.largest_change > 1e-6 && lossy.largest_change < 1e-3));
  export_report wide, narrow;
  export_peft(p.source, f.hf, f.folder / "wide", {}, wide);
  export_peft(p.source, f.hf, f.folder / "narrow", {.allow_lossy = true}, narrow);
  CHECK(wide.adapter_bytes == 2 * narrow.adapter_bytes);
  CHECK_THAT(wide.notes.at(0), Contains("written as F32"));
  CHECK_THAT(narrow.notes.at(0), Contains("rounded to F16"));
  matrix<float> w(1, 2), other(1, 2);
  other(0, 1) = 1;
  says("file: read back, 'a' has 0 in row 0, column 1, 1 was written", [&] { require_same("file", "a", w, other); });
  slim_test::write_file(f.hf / "model.safetensors.bak", "");
  CHECK_THROWS_WITH(quantized_folder(f.hf), Contains("names no quantization that is read here"));
}

TEST_CASE("bf16 scales make a recipe whose codes and adapters 16-bit files hold") {
  auto const r = find_recipe("int3-lr@bf16-scales").value();
  CHECK(r.stored->scale_format == slim::number_format::bf16);
  CHECK(find_recipe("wanda-24@bf16-scales").why().find("quantizes nothing") != std::string::npos);
}
