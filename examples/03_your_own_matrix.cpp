/// Your own matrix class: one specialization of slim::matrix_traits, and every function of the library takes it.
///
/// The class here keeps bf16 numbers in rows that begin at multiples of 64 bytes, as device memory often does.

#include <slim/slim.hpp>

#include <cstdio>
#include <vector>

namespace mine {

class padded_weights {
public:
  padded_weights(int height, int width)
      : height_(height), width_(width), pitch_((width + 31) / 32 * 32), values_(static_cast<std::size_t>(height * pitch_)) {}

  int height() const { return height_; }
  int width() const { return width_; }
  int pitch() const { return pitch_; } // elements from one row to the next
  slim::bf16 const* first() const { return values_.data(); }
  slim::bf16& at(int row, int column) { return values_[static_cast<std::size_t>(row * pitch_ + column)]; }

private:
  int height_, width_, pitch_;
  std::vector<slim::bf16> values_;
};

} // namespace mine

// Pointer, rows, columns, distance of rows. Before the first use of the type.
template <>
struct slim::matrix_traits<mine::padded_weights> {
  static auto view(mine::padded_weights const& m) {
    return slim::matrix_view<slim::bf16 const>(m.first(), m.height(), m.width(), m.pitch());
  }
};

static_assert(slim::matrix_like<mine::padded_weights>);

int main() {
  mine::padded_weights W(40, 100); // synthetic values; rows of 100 lie 128 apart
  slim::matrix<float> plain(40, 100);
  for (int i = 0; i < W.height(); ++i)
    for (int j = 0; j < W.width(); ++j) {
      W.at(i, j) = slim::bf16(static_cast<float>(0.05 * slim::random_normal(3, static_cast<std::uint64_t>(i * W.width() + j))));
      plain(i, j) = W.at(i, j);
    }

  // Weights become floats at the door: the result has the bits of the same numbers in the library's own matrix.
  auto const recipe =
      slim::chain(slim::slim_quantizer({.bits = 4}), slim::unstructured_pruner(slim::magnitude{}, {.sparsity = 0.5}));
  auto const layer = slim::compress(W, recipe);
  auto const expected = slim::compress(plain, recipe);

  for (auto const& step : layer.report.steps)
    std::printf("%-35s weight error %.4f, %.2f bits per weight\n", step.step.c_str(), step.relative_error,
                step.bits_per_weight);
  return layer.weight.codes == expected.weight.codes && layer.weight.mask == expected.weight.mask ? 0 : 1;
}
