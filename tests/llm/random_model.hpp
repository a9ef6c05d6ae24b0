#pragma once
/// @file
/// Small models with random weights, made in memory.

#include "compress/compress_model.hpp"
#include "models/families/families.hpp"
#include "models/forward.hpp"

#include "slim/core/random.hpp"

#include <cmath>

namespace slim_llm::testing {

inline matrix<float> random_matrix(index_t rows, index_t cols, std::uint64_t seed, double scale = 1.0) {
  matrix<float> m(rows, cols);
  for (index_t k = 0; k < m.size(); ++k)
    m.data()[k] = static_cast<float>(scale * slim::random_normal(seed, static_cast<std::uint64_t>(k)));
  return m;
}

inline linear random_linear(std::string name, index_t d_out, index_t d_in, std::uint64_t seed) {
  linear l;
  l.role = name;
  l.name = std::move(name);
  l.weight = random_matrix(d_out, d_in, seed, 1.5 / std::sqrt(static_cast<double>(d_in)));
  return l;
}

inline norm named_norm(std::string role, std::vector<float> weight, std::vector<float> bias = {}) {
  return {role, role, std::move(weight), std::move(bias)};
}

inline rotary_table rotary_of_pairs(std::vector<double> frequencies) {
  rotary_table table;
  table.frequencies = std::move(frequencies);
  return table;
}

/// Two blocks of 6 heads on 3 key-value heads; `vocab` tokens. With a head_dim of 16 rows are whole blocks of 32.
inline model random_llama(index_t vocab = 61, rope_style style = rope_style::rotate_half, index_t head_dim = 4) {
  model m;
  model_config& c = m.config;
  c.family = &llama_family;
  c.name = "llama";
  c.layers = 2;
  c.hidden = 6 * head_dim;
  c.heads = 6;
  c.kv_heads = 3;
  c.head_dim = head_dim;
  c.intermediate = 10 * head_dim;
  c.vocab = vocab;
  c.embedding_dim = c.hidden;
  c.rope = style;
  m.embedding = random_matrix(vocab, c.hidden, 1);
  m.rotary = {rotary_of_pairs({1.0, 0.1})};
  std::vector<float> const ones(static_cast<std::size_t>(c.hidden), 1.0f);
  for (index_t n = 0; n < c.layers; ++n) {
    block b;
    std::uint64_t const seed = 100 * static_cast<std::uint64_t>(n + 1);
    b.norms = {named_norm("attention_norm", ones), named_norm("mlp_norm", ones)};
    b.linears = {random_linear("q", c.q_size(), c.hidden, seed),
                 random_linear("k", c.kv_size(), c.hidden, seed + 1),
                 random_linear("v", c.kv_size(), c.hidden, seed + 2),
                 random_linear("o", c.hidden, c.q_size(), seed + 3),
                 random_linear("gate", c.intermediate, c.hidden, seed + 4),
                 random_linear("up", c.intermediate, c.hidden, seed + 5),
                 random_linear("down", c.hidden, c.intermediate, seed + 6)};
    m.blocks.push_back(std::move(b));
  }
  m.final_norm.weight = ones;
  return m;
}

inline std::vector<float> random_vector(index_t size, std::uint64_t seed, double mean, double scale) {
  std::vector<float> v;
  for (index_t k = 0; k < size; ++k)
    v.push_back(static_cast<float>(mean + scale * slim::random_normal(seed, static_cast<std::uint64_t>(k))));
  return v;
}

/// The same with everything that Qwen2 and Qwen3 add: biases of q, k and v, norms of the heads, a head of its own.
inline model random_qwen(index_t vocab = 61) {
  model m = random_llama(vocab, rope_style::adjacent_pairs);
  m.config.name = "qwen3";
  std::uint64_t seed = 900;
  for (block& b : m.blocks) {
    for (char const* role : {"q", "k", "v"}) b[role].bias = random_vector(b[role].d_out(), ++seed, 0, 0.3);
    for (char const* role : {"q_norm", "k_norm"})
      b.norms.push_back(named_norm(role, random_vector(m.config.head_dim, ++seed, 1, 0.2)));
    b.find_norm("attention_norm")->weight = random_vector(m.config.hidden, ++seed, 1, 0.2);
  }
  m.config.tied_embeddings = false;
  m.head = random_linear("head", vocab, m.config.hidden, 899).weight;
  return m;
}

/// An OPT of two blocks. As OPT-350M, norms come after the residual additions and the embedding is narrower than the blocks.
inline model random_opt(bool as_350m = false, index_t vocab = 61) {
  model m;
  model_config& c = m.config;
  c.family = &opt_family;
  c.name = "opt";
  c.activation = activation_kind::relu;
  c.layers = 2;
  c.hidden = 24;
  c.heads = c.kv_heads = 6;
  c.head_dim = 4;
  c.intermediate = 40;
  c.vocab = vocab;
  c.embedding_dim = as_350m ? 16 : c.hidden;
  c.max_positions = 64;
  c.norm_before = !as_350m;
  m.embedding = random_matrix(vocab, c.embedding_dim, 1);
  m.positions = random_matrix(c.max_positions + 2, c.hidden, 2, 0.3);
  std::uint64_t seed = 500;
  auto const random_norm = [&](char const* role) {
    auto weight = random_vector(c.hidden, ++seed, 1, 0.2);
    return named_norm(role, std::move(weight), random_vector(c.hidden, ++seed, 0, 0.2));
  };
  auto const biased = [&](char const* name, index_t d_out, index_t d_in) {
    linear l = random_linear(name, d_out, d_in, ++seed);
    l.bias = random_vector(d_out, ++seed, 0, 0.3);
    return l;
  };
  if (as_350m) {
    m.project_in = random_linear("project_in", c.hidden, c.embedding_dim, 3);
    m.project_out = random_linear("project_out", c.embedding_dim, c.hidden, 4);
  } else {
    m.final_norm = random_norm("final_norm");
  }
  for (index_t n = 0; n < c.layers; ++n) {
    block b;
    b.norms.push_back(random_norm("attention_norm"));
    b.norms.push_back(random_norm("mlp_norm"));
    b.linears.push_back(biased("q", c.hidden, c.hidden));
    b.linears.push_back(biased("k", c.hidden, c.hidden));
    b.linears.push_back(biased("v", c.hidden, c.hidden));
    b.linears.push_back(biased("o", c.hidden, c.hidden));
    b.linears.push_back(biased("up", c.intermediate, c.hidden));
    b.linears.push_back(biased("down", c.hidden, c.intermediate));
    m.blocks.push_back(std::move(b));
  }
  return m;
}

/// A model of any family that reads Hugging Face folders: two blocks with random numbers in all tensors that the family lists.
/// `change` gets the configuration before that.
inline model random_of(model_family const& family, std::function<void(model_config&)> const& change = {}) {
  model m = random_llama();
  m.blocks.clear();
  model_config& c = m.config;
  c.family = &family;
  c.name = family.name;
  c.activation = family.gguf.activation;
  if (change) change(c);
  m.rotary.resize(2, rotary_of_pairs({0.7, 0.03}));
  tensor_layout const layout = family.hugging_face.tensors(c, "");
  std::uint64_t seed = 4000;
  auto const random_linears = [&](std::vector<linear_tensor> const& tensors) {
    std::vector<linear> linears;
    for (linear_tensor const& t : tensors) linears.push_back(random_linear(t.role, t.d_out, t.d_in, ++seed));
    return linears;
  };
  for (index_t n = 0; n < c.layers; ++n) {
    block b;
    for (norm_tensor const& t : layout.norms) {
      auto weight = random_vector(t.size, ++seed, 1, 0.2);
      b.norms.push_back(named_norm(t.role, std::move(weight), random_vector(t.size, ++seed, 0, 0.1)));
    }
    b.linears = random_linears(layout.linears);
    b.kept = random_linears(layout.kept);
    b.attention = c.attention_of(n);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

/// One small model of each family with the features that set it apart, by name.
inline std::vector<std::pair<std::string, model>> random_families() {
  std::vector<std::pair<std::string, model>> all;
  all.emplace_back("windows", random_of(llama_family, [](model_config& c) { c.attention = {{.window = 5}, {.window = 70}}; }));
  all.emplace_back("blocks without positions", random_of(llama_family, [](model_config& c) {
                     c.attention = {{.window = 0, .rotary = block_attention::no_rotary}, {}};
                   }));
  all.emplace_back("olmo2", random_of(olmo2_family));
  all.emplace_back("gemma2", random_of(gemma_family, [](model_config& c) {
                     c.attention = {{.window = 7}, {}};
                     c.attention_soft_cap = 2;
                     c.logit_soft_cap = 3;
                     c.attention_scale = 0.4;
                     c.embedding_scale = 1.5;
                   }));
  all.emplace_back("gemma3", random_of(gemma_family, [](model_config& c) {
                     c.has.head_norms = true;
                     c.attention = {{.window = 7, .rotary = 1}, {}};
                   }));
  all.back().second.rotary[1] = rotary_of_pairs({1.0, 0.2});
  all.back().second.rotary[1].attention_factor = 1.2;
  all.emplace_back("phi3", random_of(phi3_family));
  for (rotary_table& table : all.back().second.rotary) table.frequencies = {0.5}; // half of each head
  auto const experts = [](model_config& c) {
    c.experts = 5;
    c.experts_per_token = 2;
    c.has.head_norms = c.normalize_expert_weights = true;
  };
  all.emplace_back("experts", random_of(mixture_family, experts));
  return all;
}

inline std::vector<int> random_tokens(index_t count, index_t vocab, std::uint64_t seed = 5) {
  std::vector<int> ids;
  for (index_t k = 0; k < count; ++k)
    ids.push_back(static_cast<int>(slim::random_bits(seed, static_cast<std::uint64_t>(k)) % static_cast<std::uint64_t>(vocab)));
  return ids;
}

/// The linears of all blocks.
inline std::vector<linear*> all_linears(model& m) {
  std::vector<linear*> all;
  for (block& b : m.blocks)
    for (linear& l : b.linears) all.push_back(&l);
  return all;
}

/// Linears need names of their own to be told apart in a file.
inline void name_linears(model& m) {
  int number = 0;
  for (linear* l : all_linears(m)) l->name = "linear." + std::to_string(number++);
}

/// compress_model on a model in memory, which gets the compressed blocks. Packed layers go to `packed`, if they are kept.
inline compression compress_in_place(model& m, std::span<int const> ids, recipe const& how, compress_config const& config,
                                     double source_bits = 32, context const& ctx = {}, packed_weights* packed = nullptr) {
  return compress_model(
      m, ids, how, config, source_bits,
      [&](index_t n, block& b, packed_weights& layers) {
        m.blocks[static_cast<std::size_t>(n)] = std::move(b);
        if (packed) packed->merge(layers);
      },
      ctx);
}

/// Logits of all tokens, tokens x vocab.
inline matrix<float> all_logits(model const& m, std::vector<int> const& ids, index_t window, context const& ctx = {}) {
  forward_pass const pass(m, window, ctx);
  auto hidden = pass.embed(ids);
  for (block const& b : m.blocks) pass.run_block(b, hidden);
  matrix<float> logits(hidden.rows(), m.config.vocab);
  pass.logits_into(pass.head_input(hidden), 0, logits);
  return logits;
}

} // namespace slim_llm::testing
