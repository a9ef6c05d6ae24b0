#include "models/model.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

template <class Parts>
auto* find_role(Parts& parts, std::string_view role) {
  auto const found = std::find_if(parts.begin(), parts.end(), [&](auto const& part) { return part.role == role; });
  return found == parts.end() ? nullptr : &*found;
}

template <class Linears>
auto& require_role(Linears& linears, std::string_view role) {
  auto* const found = find_role(linears, role);
  if (!found) throw slim::config_error(slim::message("the block has no linear '", role, "'"));
  return *found;
}

} // namespace

linear& block::operator[](std::string_view role) { return require_role(linears, role); }
linear const& block::operator[](std::string_view role) const { return require_role(linears, role); }
linear const& block::find_kept(std::string_view role) const { return require_role(kept, role); }
norm* block::find_norm(std::string_view role) { return find_role(norms, role); }
norm const* block::find_norm(std::string_view role) const { return find_role(norms, role); }

std::string tensor_of(std::string const& linear_name) {
  return linear_name.ends_with("]") ? linear_name.substr(0, linear_name.rfind('[')) : linear_name;
}

std::string slice_name(std::string const& tensor, index_t slice) { return tensor + "[" + std::to_string(slice) + "]"; }

block load_block(model const& m, index_t number, context const& ctx) {
  return m.blocks.empty() ? m.read_block(number, ctx) : m.blocks[static_cast<std::size_t>(number)];
}

void load_blocks(model& m, context const& ctx) {
  if (!m.blocks.empty()) return;
  // A block is many small tasks: whole blocks side by side need one parallel region in place of thousands.
  std::vector<block> blocks(static_cast<std::size_t>(m.config.layers));
  context const inner = ctx.inside_task();
  ctx.parallel_for(m.config.layers, 1,
                   [&](index_t n, index_t) { blocks[static_cast<std::size_t>(n)] = m.read_block(n, inner); });
  m.blocks = std::move(blocks);
}

void load_into_memory(model& m, context const& ctx) {
  if (!m.blocks.empty()) return;
  load_blocks(m, ctx);
  stored_matrix& head = m.head.empty() ? m.embedding : m.head;
  head = head.to_float(ctx);
}

std::vector<linear_info> linears_of(model const& m) {
  if (m.blocks.empty()) return m.file_linears;
  std::vector<linear_info> all;
  for (block const& b : m.blocks)
    for (linear const& l : b.linears) all.push_back({l.name, l.role, l.d_out(), l.d_in()});
  return all;
}

index_t linear_weight_count(model const& m) {
  index_t count = 0;
  for (linear_info const& l : linears_of(m)) count += l.d_out * l.d_in;
  return count;
}

} // namespace slim_llm
