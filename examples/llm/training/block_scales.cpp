#include "training/block_scales.hpp"

#include "run/input_error.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace slim_llm {
namespace {

using slim::tensor_type;

/// Where a block keeps its fp16 numbers.
struct scale_fields {
  int count = 0;
  std::array<std::size_t, 2> offsets{};
};

scale_fields fields_of(tensor_type type) {
  using namespace slim::ggml;
  switch (type) {
  case tensor_type::q4_0: return {1, {offsetof(block_q4_0, d)}};
  case tensor_type::q4_1: return {2, {offsetof(block_q4_1, d), offsetof(block_q4_1, m)}};
  case tensor_type::q5_0: return {1, {offsetof(block_q5_0, d)}};
  case tensor_type::q5_1: return {2, {offsetof(block_q5_1, d), offsetof(block_q5_1, m)}};
  case tensor_type::q8_0: return {1, {offsetof(block_q8_0, d)}};
  case tensor_type::q2_k: return {2, {offsetof(block_q2_k, d), offsetof(block_q2_k, dmin)}};
  case tensor_type::q3_k: return {1, {offsetof(block_q3_k, d)}};
  case tensor_type::q4_k: return {2, {offsetof(block_q4_k, d), offsetof(block_q4_k, dmin)}};
  case tensor_type::q5_k: return {2, {offsetof(block_q5_k, d), offsetof(block_q5_k, dmin)}};
  case tensor_type::q6_k: return {1, {offsetof(block_q6_k, d)}};
  case tensor_type::iq4_nl: return {1, {offsetof(block_iq4_nl, d)}};
  case tensor_type::iq4_xs: return {1, {offsetof(block_iq4_xs, d)}};
  default: return {};
  }
}

constexpr std::size_t longest_block = 256;
constexpr index_t rows_per_task = 16;

float half_at(std::byte const* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return slim::ggml::half_to_float(bits);
}

void put_half(std::byte* at, float value) {
  std::uint16_t const bits = static_cast<slim::fp16>(value).bits;
  std::memcpy(at, &bits, sizeof bits);
}

void require_shape(std::string const& name, index_t rows, index_t cols, matrix_view<float const> m) {
  if (m.rows() != rows || m.cols() != cols)
    throw slim::shape_error(
        slim::message("block_scales: ", name, " is ", rows, " x ", cols, ", the matrix is ", m.rows(), " x ", m.cols()));
}

} // namespace

bool block_scales::train(tensor_type type) { return fields_of(type).count > 0; }

block_scales::block_scales(slim::tensor_info const& tensor)
    : name_(tensor.name), type_(tensor.type), rows_(tensor.rows()), cols_(tensor.cols()),
      first_(tensor.bytes.begin(), tensor.bytes.end()), bytes_(first_) {
  if (std::string const why = slim::detail::why_not_a_matrix(tensor); !why.empty()) throw input_error(why);
  if (!train(type_))
    throw input_error(
        slim::message("tensor '", name_, "' is stored as ", tensor.stored_type, ", which has no scales that could train"));
}

index_t block_scales::blocks_per_row() const { return cols_ / slim::block_of(type_).elements; }

index_t block_scales::count() const { return rows_ * blocks_per_row() * fields_of(type_).count; }

void block_scales::set(std::span<float const> factors, context const& ctx) {
  if (std::ssize(factors) != count())
    throw slim::shape_error(
        slim::message("block_scales: ", factors.size(), " factors for the ", count(), " numbers of ", name_));
  auto const fields = fields_of(type_);
  auto const size = static_cast<std::size_t>(slim::block_of(type_).bytes);
  ctx.parallel_for(rows_ * blocks_per_row(), 4096, [&](index_t begin, index_t end) {
    for (index_t b = begin; b < end; ++b)
      for (int f = 0; f < fields.count; ++f) {
        std::size_t const at = static_cast<std::size_t>(b) * size + fields.offsets[static_cast<std::size_t>(f)];
        float const factor = factors[static_cast<std::size_t>(b * fields.count + f)];
        constexpr float largest = 65504.0f;
        put_half(&bytes_[at], std::clamp(half_at(&first_[at]) * std::max(factor, 1e-3f), -largest, largest));
      }
  });
}

void block_scales::values_into(matrix_view<float> w, context const& ctx) const {
  require_shape(name_, rows_, cols_, w);
  index_t const row_bytes = blocks_per_row() * slim::block_of(type_).bytes;
  ctx.parallel_for(rows_, rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) slim::detail::dequantize_run(type_, bytes_.data() + i * row_bytes, cols_, w.row(i));
  });
}

void block_scales::add_gradient(matrix_view<float const> dw, std::span<float> gradient, context const& ctx) const {
  require_shape(name_, rows_, cols_, dw);
  if (std::ssize(gradient) != count())
    throw slim::shape_error(
        slim::message("block_scales: ", gradient.size(), " gradients for the ", count(), " numbers of ", name_));
  auto const fields = fields_of(type_);
  auto const layout = slim::block_of(type_);
  auto const size = static_cast<std::size_t>(layout.bytes);
  ctx.parallel_for(rows_, rows_per_task, [&](index_t begin, index_t end) {
    std::array<std::byte, longest_block> alone;
    std::array<float, 256> part;
    for (index_t i = begin; i < end; ++i)
      for (index_t k = 0; k < blocks_per_row(); ++k) {
        index_t const b = i * blocks_per_row() + k;
        float const* const d = dw.row(i) + k * layout.elements;
        for (int f = 0; f < fields.count; ++f) {
          std::memcpy(alone.data(), first_.data() + static_cast<std::size_t>(b) * size, size);
          for (int other = 0; other < fields.count; ++other)
            if (other != f) put_half(&alone[fields.offsets[static_cast<std::size_t>(other)]], 0.0f);
          slim::detail::dequantize_run(type_, alone.data(), layout.elements, part.data());
          float sum = 0;
          for (index_t j = 0; j < layout.elements; ++j) sum += d[j] * part[static_cast<std::size_t>(j)];
          gradient[static_cast<std::size_t>(b * fields.count + f)] += sum;
        }
      }
  });
}

} // namespace slim_llm
