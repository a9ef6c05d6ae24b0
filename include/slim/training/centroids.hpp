#pragma once
/// @file
/// Code books that train: iPQ (Stock et al., arXiv 1907.05686, equation 9; Quant-Noise, arXiv 2004.07320, section 3.2).

#include "slim/quantization/vector_codebook_quantizer.hpp"
#include "slim/training/straight_through.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Gradient of a book for the whole matrix, given that by what the codes stand for, dQ (d_out x d_in): for each number of each
/// level the mean of dQ over the vectors that use the level, 0 if none does; as codes.books. A step c -= rate * mean moves
/// levels that many vectors share no farther than others. Codes are taken as constants. Sums are double. O(d_out d_in).
/// Bit-identical for any executor. @throws shape_error; config_error if there are several books, scales or factors.
[[nodiscard]] inline matrix<float> centroid_gradient(codebook_codes const& codes, matrix_view<float const> dq,
                                                     context const& ctx = {}) {
  codes.check("centroid_gradient");
  detail::require_shape(codes.rows(), codes.cols(), dq.rows(), dq.cols(), "centroid_gradient");
  if (codes.books.rows() > 1 || !codes.scales.empty() || !codes.channel_factors.empty())
    throw config_error(message("centroid_gradient: ", to_string(codes), "; possible is one book, without scales and factors"));
  auto const numbers = static_cast<std::size_t>(codes.books.size());
  constexpr index_t rows_per_part = 64;
  struct sums {
    std::vector<double> sum, count;
  };
  std::vector<sums> parts(static_cast<std::size_t>((dq.rows() + rows_per_part - 1) / rows_per_part));
  ctx.parallel_for(dq.rows(), rows_per_part, [&](index_t begin, index_t end) {
    sums& part = parts[static_cast<std::size_t>(begin / rows_per_part)];
    part.sum.resize(numbers);
    part.count.resize(numbers);
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < dq.cols(); ++j) {
        auto const at = static_cast<std::size_t>(index_t{codes.codes(i, j / codes.dim)} * codes.dim + j % codes.dim);
        part.sum[at] += static_cast<double>(dq(i, j));
        part.count[at] += 1;
      }
  });
  matrix<float> gradient(codes.books.rows(), codes.books.cols());
  for (std::size_t k = 0; k < numbers; ++k) {
    double sum = 0, count = 0;
    for (sums const& part : parts) {
      sum += part.sum[k];
      count += part.count[k];
    }
    if (count > 0) gradient.data()[k] = static_cast<float>(sum / count);
  }
  return gradient;
}

/// Vectors of columns rounded to the levels of a book that trains. Parameters: the book, first that of
/// vector_codebook_quantizer. The gradient by the weights is the identity, which `noise` needs (phi_PQ of Quant-Noise, whose
/// blocks are then vectors: noise_config::columns a multiple of the vector's columns); that by the book is centroid_gradient. A
/// run moves the weights, under noise, or the book, behind it.
class trainable_codebook {
public:
  /// @throws config_error
  explicit trainable_codebook(vector_codebook_config config = {}) : quantizer_(config) {}

  [[nodiscard]] std::vector<float> first(matrix_view<float const> w, context const& ctx = {}) const {
    codebook_codes const codes = quantizer_.quantize(w, calibration(w.cols()), ctx);
    return {codes.books.data(), codes.books.data() + codes.books.size()};
  }

  /// @throws shape_error
  [[nodiscard]] codebook_codes codes(matrix_view<float const> w, std::span<float const> parameters,
                                     context const& ctx = {}) const {
    vector_codebook_config const& config = quantizer_.config();
    codebook_codes made(w.rows(), w.cols(), config.bits, per_tensor, config.columns);
    made.book_format = config.book_format;
    detail::check_trainable("trainable_codebook", w, parameters, made.books.size(), w);
    for (index_t k = 0; k < made.books.size(); ++k)
      made.books.data()[k] = detail::stored_number(config.book_format, parameters[static_cast<std::size_t>(k)]);
    quantizer_.encode(made, w, ctx);
    return made;
  }

  /// @throws shape_error
  [[nodiscard]] quantizer_gradient backward(matrix_view<float const> w, std::span<float const> parameters,
                                            matrix_view<float const> dq, context const& ctx = {}) const {
    detail::check_trainable("trainable_codebook", w, parameters, std::ssize(parameters), dq);
    matrix<float> const by_book = centroid_gradient(codes(w, parameters, ctx), dq, ctx);
    return {matrix<float>(dq), {by_book.data(), by_book.data() + by_book.size()}};
  }

  [[nodiscard]] std::string describe() const { return quantizer_.describe() + ", the book trains"; }

private:
  vector_codebook_quantizer quantizer_;
};

static_assert(trainable_quantizer<trainable_codebook>);

} // namespace SLIM_ABI
} // namespace slim
