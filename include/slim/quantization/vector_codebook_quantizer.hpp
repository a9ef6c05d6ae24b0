#pragma once
/// @file
/// One book of short vectors for a matrix: product quantization as iPQ does it (Stock et al., arXiv 1907.05686; Quant-Noise,
/// arXiv 2004.07320, section 3.2), without the fine-tuning between layers.

#include "slim/core/random.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"

#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// Books of `vector_codebook_quantizer`.
struct vector_codebook_config {
  index_t columns = 8;                             ///< neighbouring columns of a row that one code stands for, 1 to 64
  int bits = 8;                                    ///< 1 to 8: 2^bits levels
  int iterations = 15;                             ///< of k-means, at most
  number_format book_format = number_format::fp16; ///< levels are rounded to it before vectors are rounded to them
  std::uint64_t seed = 0;                          ///< of the vectors that levels begin with

  friend bool operator==(vector_codebook_config const&, vector_codebook_config const&) = default;
};

namespace detail {

/// The book of c, and where its numbers are: what vectors of `dim` columns are compared with. The last vector of a row may have
/// fewer columns; those that it lacks have no say.
class vector_search {
public:
  explicit vector_search(codebook_codes const& c) : levels_(c.levels()), dim_(c.dim), by_column_(c.dim, c.levels()) {
    for (index_t k = 0; k < levels_; ++k)
      for (index_t t = 0; t < dim_; ++t) by_column_(t, k) = c.books(0, k * dim_ + t);
  }

  /// The level nearest to the first `width` numbers of x; ties to the lowest. `scratch` has room for all levels.
  [[nodiscard]] index_t nearest(float const* x, index_t width, std::vector<float>& scratch) const {
    scratch.assign(static_cast<std::size_t>(levels_), 0.0f);
    float* const score = scratch.data(); // |c|^2 / 2 - x c
    for (index_t t = 0; t < width; ++t) {
      float const* const level = by_column_.row(t);
      float const number = x[t];
      for (index_t k = 0; k < levels_; ++k) score[k] += level[k] * (0.5f * level[k] - number);
    }
    return std::min_element(score, score + levels_) - score;
  }

private:
  index_t levels_, dim_;
  matrix<float> by_column_; ///< dim x levels
};

/// Codes of w by the book that c has, for a book for the whole matrix without scales: the nearest levels.
inline void encode_vectors(codebook_codes& c, matrix_view<float const> w, context const& ctx) {
  if (w.empty()) return;
  vector_search const search(c);
  ctx.parallel_for(w.rows(), 8, [&](index_t begin, index_t end) {
    std::vector<float> scratch;
    for (index_t i = begin; i < end; ++i)
      for (index_t v = 0; v < c.codes.cols(); ++v)
        c.codes(i, v) =
            static_cast<std::uint8_t>(search.nearest(w.row(i) + v * c.dim, std::min(c.dim, w.cols() - v * c.dim), scratch));
  });
}

} // namespace detail

/// Cuts each row into vectors of `columns` numbers, and rounds each to the nearest of the levels of one book, which k-means
/// finds. Levels begin as vectors drawn by the seed. A level that no vector is nearest to takes the place of the vector that is
/// farthest from its own level (the second farthest, ...): the squared error never rises from one iteration to the next.
///
/// **Numerics** Vectors are divided by a power of two first, so that no square overflows. Distances are float, means double. No
/// more distinct vectors than levels: exact, up to the format of the book, given enough iterations. O(iterations 2^bits n).
class vector_codebook_quantizer {
public:
  /// @throws config_error
  explicit vector_codebook_quantizer(vector_codebook_config config = {}) : config_(config) {
    if (config.columns < 1 || config.columns > 64 || config.bits < 1 || config.bits > 8 || config.iterations < 1)
      throw config_error(message("vector_codebook_quantizer: ", config.columns, " columns, ", config.bits, " bits, ",
                                 config.iterations, " iterations; possible are 1 to 64, 1 to 8, and from 1 on"));
  }

  [[nodiscard]] vector_codebook_config const& config() const noexcept { return config_; }

  [[nodiscard]] codebook_codes quantize(matrix_view<float const> w, calibration const&, context const& ctx = {}) const {
    codebook_codes codes(w.rows(), w.cols(), config_.bits, per_tensor, config_.columns);
    codes.book_format = config_.book_format;
    if (w.empty()) return codes;
    int const exponent = exponent_of(w);
    matrix<float> const scaled = shifted(w, -exponent);
    draw_book(codes, scaled);
    for (int iteration = 0; iteration < config_.iterations; ++iteration) {
      matrix<std::uint8_t> const before = codes.codes;
      detail::encode_vectors(codes, scaled, ctx);
      if (iteration > 0 && codes.codes == before) break;
      move_levels(codes, scaled, ctx);
    }
    for (index_t k = 0; k < codes.books.size(); ++k) {
      float& number = codes.books.data()[k];
      number = detail::stored_number(config_.book_format, std::ldexp(number, exponent));
    }
    encode_stored(codes, w, ctx);
    return codes;
  }

  /// Codes of w in a book that is there: what quantize ends with. @throws shape_error, config_error unless the codes are of
  /// this quantizer's kind
  void encode(codebook_codes& codes, matrix_view<float const> w, context const& ctx = {}) const {
    codes.check("vector_codebook_quantizer");
    detail::require_shape(codes.rows(), codes.cols(), w.rows(), w.cols(), "vector_codebook_quantizer");
    if (codes.bits != config_.bits || codes.dim != config_.columns || codes.books.rows() > 1 || !codes.scales.empty() ||
        !codes.channel_factors.empty())
      throw config_error(message("vector_codebook_quantizer: ", to_string(codes), "; needed is one book of ", 1 << config_.bits,
                                 " levels of ", config_.columns, " columns, without scales and factors"));
    if (!w.empty()) encode_stored(codes, w, ctx);
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.bits, " bit k-means of ", config_.columns, " columns per tensor",
                   config_.book_format == number_format::fp16 ? "" : message(", ", name_of(config_.book_format), " books"));
  }

private:
  /// 2^exponent is above all magnitudes.
  static int exponent_of(matrix_view<float const> w) {
    float largest = 0;
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) largest = std::max(largest, std::abs(w(i, j)));
    int exponent = 0;
    (void)std::frexp(largest, &exponent);
    return exponent;
  }

  /// w 2^by; NaN becomes 0.
  static matrix<float> shifted(matrix_view<float const> w, int by) {
    matrix<float> out(w);
    for (index_t k = 0; k < out.size(); ++k) {
      float& x = out.data()[k];
      x = x == x ? std::ldexp(x, by) : 0.0f;
    }
    return out;
  }

  /// With levels as they are stored, in the range where no square overflows.
  void encode_stored(codebook_codes& codes, matrix_view<float const> w, context const& ctx) const {
    int const exponent = std::max(exponent_of(w), exponent_of(codes.books));
    codebook_codes shrunk = codes;
    shrunk.books = shifted(codes.books, -exponent);
    detail::encode_vectors(shrunk, shifted(w, -exponent), ctx);
    codes.codes = std::move(shrunk.codes);
  }

  void draw_book(codebook_codes& codes, matrix<float> const& w) const {
    auto const vectors = static_cast<std::uint64_t>(codes.codes.size());
    for (index_t k = 0; k < codes.levels(); ++k) {
      auto const v = static_cast<index_t>(random_bits(config_.seed, static_cast<std::uint64_t>(k)) % vectors);
      index_t const i = v / codes.codes.cols(), first = v % codes.codes.cols() * codes.dim;
      std::copy_n(w.row(i) + first, std::min(codes.dim, w.cols() - first), codes.books.row(0) + k * codes.dim);
    }
  }

  /// Each level becomes the mean of its vectors; those without vectors are given the farthest ones.
  void move_levels(codebook_codes& codes, matrix<float> const& w, context const& ctx) const {
    index_t const across = codes.codes.cols(), dim = codes.dim;
    auto const levels = static_cast<std::size_t>(codes.levels()), size = static_cast<std::size_t>(dim);
    constexpr index_t rows_per_part = 64;
    struct sums {
      std::vector<double> sum, count; ///< of each number of each level
    };
    std::vector<sums> parts(static_cast<std::size_t>((w.rows() + rows_per_part - 1) / rows_per_part));
    std::vector<float> errors(static_cast<std::size_t>(codes.codes.size()));
    ctx.parallel_for(w.rows(), rows_per_part, [&](index_t begin, index_t end) {
      sums& part = parts[static_cast<std::size_t>(begin / rows_per_part)];
      part.sum.resize(levels * size);
      part.count.resize(levels * size);
      for (index_t i = begin; i < end; ++i)
        for (index_t v = 0; v < across; ++v) {
          std::size_t const first = std::size_t{codes.codes(i, v)} * size;
          for (index_t j = v * dim; j < std::min(w.cols(), (v + 1) * dim); ++j) {
            auto const at = first + static_cast<std::size_t>(j - v * dim);
            part.sum[at] += static_cast<double>(w(i, j));
            part.count[at] += 1;
            float const off = w(i, j) - codes.books.data()[at];
            errors[static_cast<std::size_t>(i * across + v)] += off * off;
          }
        }
    });
    sums all{std::vector<double>(levels * size), std::vector<double>(levels * size)};
    for (sums const& part : parts)
      for (std::size_t k = 0; k < levels * size; ++k) {
        all.sum[k] += part.sum[k];
        all.count[k] += part.count[k];
      }
    std::vector<index_t> empty;
    for (std::size_t k = 0; k < levels; ++k) {
      if (all.count[k * size] == 0) empty.push_back(static_cast<index_t>(k)); // every vector has a first column
      for (std::size_t t = k * size; t < (k + 1) * size; ++t)
        if (all.count[t] > 0) codes.books.data()[t] = static_cast<float>(all.sum[t] / all.count[t]);
    }
    fill(codes, w, empty, errors);
  }

  static void fill(codebook_codes& codes, matrix<float> const& w, std::vector<index_t> const& empty,
                   std::vector<float> const& errors) {
    if (empty.empty()) return;
    std::vector<index_t> order(errors.size());
    std::iota(order.begin(), order.end(), index_t{0});
    auto const count = std::min(empty.size(), order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                      [&](index_t a, index_t b) {
                        float const x = errors[static_cast<std::size_t>(a)], y = errors[static_cast<std::size_t>(b)];
                        return x > y || (x == y && a < b);
                      });
    for (std::size_t k = 0; k < count; ++k) {
      if (!(errors[static_cast<std::size_t>(order[k])] > 0)) return;
      index_t const i = order[k] / codes.codes.cols(), first = order[k] % codes.codes.cols() * codes.dim;
      std::copy_n(w.row(i) + first, std::min(codes.dim, w.cols() - first), codes.books.row(0) + empty[k] * codes.dim);
    }
  }

  vector_codebook_config config_;
};

static_assert(quantizer<vector_codebook_quantizer>);

} // namespace SLIM_ABI
} // namespace slim
