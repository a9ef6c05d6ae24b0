#include "formats/assemble.hpp"

#include "run/memory.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <set>

namespace slim_llm {
namespace {

std::string spelled(std::vector<index_t> const& shape) {
  std::string text;
  for (index_t const extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text.empty() ? "a single number" : text;
}

/// "a.b.weight" -> "a.b.bias"; of a parameter that is no module's: "a.b" -> "a.b_bias".
std::string bias_name(std::string const& weight) {
  constexpr std::string_view suffix = ".weight";
  return weight.ends_with(suffix) ? weight.substr(0, weight.size() - suffix.size()) + ".bias" : weight + "_bias";
}

/// A linear without its weight.
linear describe_linear(tensor_source& source, linear_tensor const& tensor, std::string const& prefix) {
  linear l;
  l.role = tensor.role;
  l.name = prefix + tensor.name;
  std::string const bias = bias_name(l.name);
  if (tensor.bias == bias_rule::required || (tensor.bias == bias_rule::allowed && source.has(bias)))
    l.bias = source.read_vector(bias, tensor.d_out);
  if (tensor.bias == bias_rule::none && source.has(bias))
    source.deny(bias, "the configuration says that '" + l.name + "' has no bias (attention_bias, mlp_bias, or the model type)");
  if (tensor.slice >= 0) l.name = slice_name(l.name, tensor.slice);
  return l;
}

/// Where the weight of a linear lies.
slim::tensor_info find_weight(tensor_source& source, linear_tensor const& tensor, std::string const& prefix) {
  std::string const name = prefix + tensor.name;
  return tensor.slice < 0 ? source.find(name, tensor.d_out, tensor.d_in) : source.find_slice(name, tensor);
}

bool holds_whole_numbers(slim::tensor_info const& tensor) {
  constexpr std::string_view types[] = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"};
  return std::find(std::begin(types), std::end(types), tensor.stored_type) != std::end(types);
}

/// Tested by bits: compilers may assume of floats that they are finite.
bool all_finite(float const* values, index_t count) {
  std::uint32_t bad = 0;
  for (index_t k = 0; k < count; ++k) {
    std::uint32_t bits;
    std::memcpy(&bits, values + k, sizeof(bits));
    bad |= static_cast<std::uint32_t>((bits & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}

/// Index of the first element of a matrix that is not a finite float; -1 if there is none.
index_t first_non_number(slim::tensor_info const& tensor, context const& ctx) {
  constexpr index_t elements_per_task = index_t{1} << 16;
  index_t const cols = tensor.cols(), rows_per_task = std::max<index_t>(1, elements_per_task / cols);
  std::mutex guard;
  index_t found = -1;
  ctx.parallel_for(tensor.rows(), rows_per_task, [&](index_t begin, index_t end) {
    matrix<float> values(std::min(rows_per_task, end - begin), cols);
    for (index_t row = begin; row < end; row += rows_per_task) {
      index_t const count = std::min(rows_per_task, end - row);
      auto const part = values.view().middle_rows(0, count);
      if (!slim::dequantize_rows_into(tensor, row, part)) return; // who takes the tensor has seen to that
      if (all_finite(part.row(0), count * cols)) continue;
      index_t at = 0;
      while (all_finite(part.row(0) + at, 1)) ++at;
      std::lock_guard const lock(guard);
      if (found < 0 || row * cols + at < found) found = row * cols + at;
      return;
    }
  });
  return found;
}

/// The same numbers, wherever and however they are stored.
bool same_numbers(stored_matrix const& a, stored_matrix const& b) {
  constexpr index_t rows_at_once = 256;
  for (index_t first = 0; first < a.rows(); first += rows_at_once) {
    index_t const count = std::min(rows_at_once, a.rows() - first);
    matrix<float> x(count, a.cols()), y(count, a.cols());
    a.rows_into(first, x.view());
    b.rows_into(first, y.view());
    if (std::memcmp(x.data(), y.data(), static_cast<std::size_t>(x.size()) * sizeof(float)) != 0) return false;
  }
  return true;
}

linear read_linear(tensor_source& source, linear_tensor const& tensor) {
  linear l = describe_linear(source, tensor, {});
  l.weight = source.read(l.name, tensor.d_out, tensor.d_in);
  return l;
}

norm read_norm(tensor_source& source, model_config const& c, norm_tensor const& tensor, std::string const& prefix,
               float offset) {
  norm n;
  n.role = tensor.role;
  n.name = prefix + tensor.name;
  bool const biased = c.family->norm == norm_kind::layer;
  auto const size = static_cast<std::size_t>(tensor.size);
  if (!c.has.norm_weights) {
    n.weight.assign(size, 1.0f);
    n.bias.assign(size, 0.0f);
    return n;
  }
  n.weight = source.read_vector(n.name, tensor.size);
  if (offset != 0)
    for (float& w : n.weight) w += offset;
  if (biased) n.bias = source.read_vector(bias_name(n.name), tensor.size);
  return n;
}

/// The blocks of a model in its file. Norms and biases are in memory, weights are not. Weights that are codes are left to
/// read_packed.
struct stored_blocks {
  std::shared_ptr<void const> file;
  std::vector<block> described;                        ///< without weights
  std::vector<std::vector<slim::tensor_info>> weights; ///< of the linears of each block

  [[nodiscard]] block read(index_t number, context const& ctx) const {
    auto const n = static_cast<std::size_t>(number);
    block b = described[n];
    for (std::size_t k = 0; k < b.linears.size(); ++k) {
      if (auto const& tensor = weights[n][k]; tensor.stored_type != coded_type)
        b.linears[k].weight = read_parallel(tensor, ctx);
    }
    return b;
  }
};

void add_block(stored_blocks& blocks, std::vector<linear_info>& linears, tensor_source& source, model_config const& c,
               tensor_layout const& layout, index_t number) {
  std::string const prefix = layout.block_prefix + std::to_string(number) + ".";
  block& b = blocks.described.emplace_back();
  auto& weights = blocks.weights.emplace_back();
  b.attention = c.attention_of(number);
  for (norm_tensor const& tensor : layout.norms) b.norms.push_back(read_norm(source, c, tensor, prefix, layout.norm_offset));
  for (linear_tensor const& tensor : layout.kept) {
    b.kept.push_back(describe_linear(source, tensor, prefix));
    b.kept.back().weight = source.read(prefix + tensor.name, tensor.d_out, tensor.d_in);
  }
  for (linear_tensor const& tensor : layout.linears) {
    b.linears.push_back(describe_linear(source, tensor, prefix));
    weights.push_back(find_weight(source, tensor, prefix));
    linears.push_back({b.linears.back().name, tensor.role, tensor.d_out, tensor.d_in});
  }
}

} // namespace

void tensor_source::add(std::span<slim::tensor_info const> tensors) {
  for (auto const& tensor : tensors)
    if (!tensors_.emplace(tensor.name, tensor).second) fail("tensor '" + tensor.name + "' occurs twice");
}

std::vector<index_t> tensor_source::shape_of(std::string const& name) const {
  auto const at = tensors_.find(name);
  return at == tensors_.end() ? std::vector<index_t>{} : at->second.shape;
}

void tensor_source::fail(std::string const& reason) {
  if (why_.empty()) why_ = file_ + ": " + reason;
}

slim::tensor_info const* tensor_source::require(std::string const& name) {
  if (!why_.empty()) return nullptr;
  used_.insert(name);
  auto const at = tensors_.find(name);
  if (at != tensors_.end()) return &at->second;
  fail("there is no tensor '" + name + "'");
  return nullptr;
}

slim::tensor_info tensor_source::find(std::string const& name, index_t rows, index_t cols) {
  slim::tensor_info const* const tensor = require(name);
  if (!tensor) return {};
  if (tensor->shape != std::vector<index_t>{rows, cols}) {
    fail(slim::message("tensor '", name, "' is ", spelled(tensor->shape), ", the configuration asks for ", rows, " x ", cols));
    return {};
  }
  if (tensor->stored_type == coded_type) return *tensor;
  if (auto const read = slim::dequantize_rows_into(*tensor, 0, {nullptr, 0, cols}); !read) { // no rows: only checks
    fail(read.why());
    return {};
  }
  return *tensor;
}

slim::tensor_info tensor_source::find_slice(std::string const& name, linear_tensor const& l) {
  if (has(slice_name(name, l.slice))) return find(slice_name(name, l.slice), l.d_out, l.d_in);
  slim::tensor_info const* const tensor = require(name);
  if (!tensor) return {};
  std::vector<index_t> const wanted = {l.slices / l.below, l.below * l.d_out, l.d_in};
  if (tensor->shape != wanted) {
    fail(slim::message("tensor '", name, "' is ", spelled(tensor->shape), ", the configuration asks for ", spelled(wanted)));
    return {};
  }
  slim::tensor_info part = *tensor;
  std::size_t const size = tensor->bytes.size() / static_cast<std::size_t>(l.slices);
  part.name = slice_name(name, l.slice);
  part.shape = {l.d_out, l.d_in};
  part.bytes = tensor->bytes.subspan(static_cast<std::size_t>(l.slice) * size, size);
  if (auto const read = slim::dequantize_rows_into(part, 0, {nullptr, 0, l.d_in}); !read) fail(read.why());
  return part;
}

matrix<float> tensor_source::read(std::string const& name, index_t rows, index_t cols) {
  auto const tensor = find(name, rows, cols);
  return failed() ? matrix<float>() : read_parallel(tensor, {});
}

std::vector<float> tensor_source::read_vector(std::string const& name, index_t size) {
  slim::tensor_info const* const tensor = require(name);
  if (!tensor) return {};
  if (tensor->shape != std::vector<index_t>{size}) {
    fail(slim::message("tensor '", name, "' has ", tensor->shape.size(), " dimensions and ", tensor->size(),
                       " elements, the configuration asks for a vector of ", size));
    return {};
  }
  auto const read = slim::read_matrix(*tensor);
  if (!read) {
    fail(read.why());
    return {};
  }
  return {read->data(), read->data() + size};
}

void tensor_source::deny(std::string const& name, std::string const& reason) {
  fail("tensor '" + name + "' is there, but " + reason);
}

void tensor_source::deny_blocks_from(std::string const& prefix, index_t number) {
  std::set<std::string> beyond;
  for (auto const& entry : tensors_) {
    std::string const& name = entry.first;
    std::size_t const dot = name.find('.', prefix.size());
    if (used_.contains(name) || !name.starts_with(prefix) || dot == std::string::npos) continue;
    std::string const digits = name.substr(prefix.size(), dot - prefix.size());
    bool const counts = !digits.empty() && digits.size() < 10 && digits.find_first_not_of("0123456789") == std::string::npos;
    if (counts && std::stol(digits) >= number) beyond.insert(name);
  }
  if (!beyond.empty()) deny(*beyond.begin(), slim::message("the configuration says that the model has ", number, " blocks"));
}

void tensor_source::leave_out(std::vector<std::string> const& prefixes) {
  for (std::string const& prefix : prefixes) {
    index_t count = 0;
    for (auto const& entry : tensors_)
      if (entry.first.starts_with(prefix)) {
        ++count;
        left_out_.insert(entry.first);
      }
    if (count > 0)
      note(slim::message("the ", count, " tensors of '", prefix,
                         "' are no part of the text model, which is what is read: files of ",
                         "this form are written with them as they are, GGUF files without them"));
  }
}

void tensor_source::settle_unused() {
  std::set<std::string> left; // in order, so that what is said does not depend on hashing
  for (auto const& entry : tensors_)
    if (!used_.contains(entry.first) && !left_out_.contains(entry.first)) left.insert(entry.first);
  std::vector<std::string> passed_over;
  for (std::string const& name : left) {
    slim::tensor_info const& tensor = tensors_.at(name);
    bool const buffer = name.ends_with("rotary_emb.inv_freq");
    if (buffer || tensor.size() == 0 || holds_whole_numbers(tensor))
      passed_over.push_back(name);
    else
      return fail("tensor '" + name +
                  "' has no place in a model that is as the configuration says (type, number of blocks, biases): either the "
                  "configuration is another model's, or the tensor is to be removed");
  }
  if (!passed_over.empty())
    note(slim::message(passed_over.size() == 1 ? "tensor '" : "tensors '", passed_over.front(), "'",
                       passed_over.size() == 1 ? "" : slim::message(" and ", passed_over.size() - 1, " more"),
                       " passed over: no part of the model needs ", passed_over.size() == 1 ? "it" : "them"));
}

void tensor_source::check_numbers(context const& ctx) {
  if (failed()) return;
  std::set<std::string> names; // in order: the first bad tensor is the same in every run
  for (std::string const& name : used_)
    if (tensors_.contains(name)) names.insert(name);
  for (std::string const& name : names) {
    slim::tensor_info tensor = tensors_.at(name);
    if (tensor.type == slim::tensor_type::other || tensor.shape.empty() || tensor.size() == 0) continue;
    tensor.shape = {tensor.size() / tensor.cols(), tensor.cols()}; // stacked matrices below each other
    if (auto const at = first_non_number(tensor, ctx); at >= 0)
      return fail(slim::message("tensor '", name, "' holds a number that is NaN, infinite or too large for a float, in row ",
                                at / tensor.cols(), ", column ", at % tensor.cols()));
    drop_pages(tensor.bytes);
  }
}

std::string why_not_valid(model_config const& c) {
  struct bound {
    char const* name;
    index_t value, most;
  };
  constexpr index_t wide = index_t{1} << 24;
  for (bound const& b : {bound{"layers", c.layers, 4096}, bound{"hidden size", c.hidden, wide},
                         bound{"attention heads", c.heads, wide}, bound{"key-value heads", c.kv_heads, wide},
                         bound{"head size", c.head_dim, wide}, bound{"intermediate size", c.intermediate, wide},
                         bound{"vocabulary", c.vocab, wide}, bound{"embedding size", c.embedding_dim, wide}})
    if (b.value < 1 || b.value > b.most)
      return slim::message("number of ", b.name, " is ", b.value, ", allowed are 1 .. ", b.most);
  if (c.max_positions < 0 || c.max_positions > wide)
    return slim::message("number of positions is ", c.max_positions, ", allowed are 0 .. ", wide);
  if (c.heads % c.kv_heads != 0)
    return slim::message(c.heads, " attention heads cannot share ", c.kv_heads, " key-value heads evenly");
  if (c.family->positions == position_kind::rotary && c.head_dim % 2 != 0)
    return slim::message("heads of odd size ", c.head_dim, " have no rotary positions");
  if (!(c.norm_epsilon >= 0) || c.norm_epsilon > 1)
    return slim::message("norm epsilon is ", c.norm_epsilon, ", allowed are 0 .. 1");
  return {};
}

slim::result<model> assemble(model_config config, tensor_layout const& layout, tensor_source& source,
                             std::shared_ptr<void const> file) {
  model m;
  m.embedding = {source.find(layout.embedding, config.vocab, config.embedding_dim), file};
  if (!layout.positions.empty()) m.positions = source.read(layout.positions, config.max_positions + 2, config.hidden);
  if (config.embedding_dim != config.hidden) {
    m.project_in = read_linear(source, {"project_in", layout.project_in, config.hidden, config.embedding_dim});
    m.project_out = read_linear(source, {"project_out", layout.project_out, config.embedding_dim, config.hidden});
  }
  auto const blocks = std::make_shared<stored_blocks>();
  blocks->file = file;
  for (index_t number = 0; number < config.layers && !source.failed(); ++number)
    add_block(*blocks, m.file_linears, source, config, layout, number);
  m.read_block = [blocks](index_t number, context const& ctx) { return blocks->read(number, ctx); };
  if (config.has.final_norm)
    m.final_norm = read_norm(source, config, {"final_norm", layout.final_norm, config.hidden}, {}, layout.norm_offset);
  if (!config.tied_embeddings && !source.has(layout.head))
    source.fail("there is no tensor '" + layout.head + "', and the configuration does not say that the head is the embedding " +
                "(tie_word_embeddings)");
  if (source.has(layout.head)) m.head = {source.find(layout.head, config.vocab, config.embedding_dim), file};
  source.leave_out(layout.left_out);
  source.deny_blocks_from(layout.block_prefix, config.layers);
  source.settle_unused();
  source.check_numbers();
  if (source.failed()) return slim::failure{source.why()};
  if (config.tied_embeddings && !m.head.empty()) {
    if (same_numbers(m.head, m.embedding)) {
      m.head = {}; // some writers store the shared matrix twice
      m.repeated_head = layout.head;
    } else {
      config.tied_embeddings = false;
      source.note("the configuration says that the head is the embedding (tie_word_embeddings), but '" + layout.head +
                  "' is there and differs; it is used, as transformers 5 does");
    }
  }
  m.notes = source.notes();
  m.config = std::move(config);
  return m;
}

} // namespace slim_llm
