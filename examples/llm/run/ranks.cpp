#include "run/ranks.hpp"

#include <cstdio>

namespace slim_llm {

void ranks::broadcast_bytes(std::span<std::byte>, index_t) {}
void ranks::unite(std::span<std::byte>) {}

int ranks::give_up(int code, std::string const& why) {
  if (!why.empty()) std::fprintf(stderr, "slim-llm: %s\n", why.c_str());
  return code;
}

void ranks::broadcast(matrix<float>& m, index_t from) {
  if (size_ == 1) return;
  index_t shape[2] = {m.rows(), m.cols()};
  broadcast(shape, from);
  if (shape[0] != m.rows() || shape[1] != m.cols()) m = matrix<float>(shape[0], shape[1]);
  broadcast_bytes(std::as_writable_bytes(std::span(m.data(), static_cast<std::size_t>(m.size()))), from);
}

} // namespace slim_llm
