#include "models/state_store.hpp"

namespace slim_llm {
namespace {

std::span<std::byte> bytes_of(matrix<float>& m) {
  return std::as_writable_bytes(std::span(m.data(), m.empty() ? 0 : static_cast<std::size_t>(m.size())));
}

/// Hidden states first, then the carried values.
std::vector<matrix<float>*> matrices_of(block_state& state) {
  std::vector<matrix<float>*> all = {&state.hidden};
  for (auto& value : state.carried) all.push_back(&value);
  return all;
}

} // namespace

state_store::state_store(bool on_disk) {
  if (on_disk) file_.emplace(std::filesystem::temp_directory_path());
}

void state_store::add(block_state state) {
  places_.emplace_back();
  put(places_.size() - 1, std::move(state));
}

block_state state_store::take(std::size_t w) {
  place& at = places_[w];
  if (!file_) return std::move(at.state);
  block_state state;
  state.carried.resize(at.shapes.size() - 1);
  std::uint64_t offset = at.offset;
  auto const matrices = matrices_of(state);
  for (std::size_t k = 0; k < matrices.size(); ++k) {
    *matrices[k] = matrix<float>(at.shapes[k].first, at.shapes[k].second);
    auto const bytes = bytes_of(*matrices[k]);
    file_->read(offset, bytes);
    offset += bytes.size();
  }
  return state;
}

void state_store::put(std::size_t w, block_state state) {
  place& at = places_[w];
  if (!file_) {
    at.state = std::move(state);
    return;
  }
  auto const matrices = matrices_of(state);
  std::uint64_t size = 0;
  at.shapes.clear();
  for (matrix<float>* m : matrices) {
    bool const there = !m->empty();
    at.shapes.emplace_back(there ? m->rows() : 0, there ? m->cols() : 0);
    size += bytes_of(*m).size();
  }
  if (size > at.capacity) {
    at.offset = file_->reserve(size);
    at.capacity = size;
  }
  std::uint64_t offset = at.offset;
  for (matrix<float>* m : matrices) {
    auto const bytes = bytes_of(*m);
    file_->write(offset, bytes);
    offset += bytes.size();
  }
}

} // namespace slim_llm
