#pragma once
/// @file
/// Archetypes: for each concept of a chain's step (but joint_compressor) a model that offers what the concept demands and
/// nothing else. An algorithm that compiles with them needs no more than the concept promises. They can be moved, because
/// recipes hold their steps by value; they cannot be default-made, copied or assigned, and take arguments only in the exact
/// types that the concepts name.

#include "slim/adapters/diagonal_norm.hpp"
#include "slim/allocation/bit_allocator.hpp"
#include "slim/joint/joint_compressor.hpp"
#include "slim/joint/sweepable.hpp"
#include "slim/packing/packed_format.hpp"
#include "slim/pruning/pruner.hpp"
#include "slim/quantization/input_quantizer.hpp"
#include "slim/quantization/quantizer.hpp"
#include "slim/saliency/saliency.hpp"
#include "slim/transforms/transform.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Base of archetypes: what no archetype can do.
struct archetype_base {
  archetype_base() = delete;
  explicit archetype_base(int) {}
  archetype_base(archetype_base&&) = default;
  archetype_base(archetype_base const&) = delete;
  archetype_base& operator=(archetype_base&&) = delete;
  archetype_base& operator=(archetype_base const&) = delete;
  ~archetype_base() = default;
  void operator&() const = delete;
  void operator,(int) const = delete;
};

/// Converts to a string and can do nothing else.
struct text_archetype : archetype_base {
  using archetype_base::archetype_base;
  operator std::string() const { return "archetype"; }
};

/// Ranks columns by position: the last is the most important.
struct saliency_archetype : archetype_base {
  using archetype_base::archetype_base;

  struct scorer : archetype_base {
    using archetype_base::archetype_base;
    float operator()(index_t, index_t j) const { return static_cast<float>(j); }
    void operator()(auto, auto) const = delete; // positions are index_t
  };

  template <std::same_as<float> T>
  scorer prepare(matrix_view<T const>, calibration const&, context const&) const {
    return scorer(0);
  }
  text_archetype describe() const { return text_archetype(0); }
};

/// All channels weigh 1.
struct linear_saliency_archetype : archetype_base {
  using archetype_base::archetype_base;
  std::vector<float> channel_weights(calibration const& calib) const {
    return std::vector<float>(static_cast<std::size_t>(calib.channels()), 1.0f);
  }
  text_archetype describe() const { return text_archetype(0); }
};

/// Keeps the even columns.
struct pruner_archetype : archetype_base {
  using archetype_base::archetype_base;

  template <std::same_as<float> T>
  mask select(matrix_view<T const> w, calibration const&, context const&) const {
    mask kept(w.rows(), w.cols());
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); j += 2) kept.keep(i, j);
    return kept;
  }
  text_archetype describe() const { return text_archetype(0); }
};

/// All values are 1: a grid without 0.
struct codes_archetype : archetype_base {
  codes_archetype(index_t rows, index_t cols) : archetype_base(0), rows_(rows), cols_(cols) {}

  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }
  double stored_bits(mask const* kept) const { return static_cast<double>(kept ? kept->count() : rows_ * cols_); }
  template <std::same_as<float> T>
  void dequantize_into(matrix_view<T> values, context const&) const {
    if (values.rows() != rows_ || values.cols() != cols_) throw shape_error("codes_archetype: another shape");
    for (index_t i = 0; i < rows_; ++i)
      for (index_t j = 0; j < cols_; ++j) values(i, j) = 1.0f;
  }

private:
  index_t rows_, cols_;
};

/// Every weight gets the value 1.
struct quantizer_archetype : archetype_base {
  using archetype_base::archetype_base;

  template <std::same_as<float> T>
  codes_archetype quantize(matrix_view<T const> w, calibration const&, context const&) const {
    return {w.rows(), w.cols()};
  }
  text_archetype describe() const { return text_archetype(0); }
};

/// Leaves inputs alone.
struct input_quantizer_archetype : archetype_base {
  using archetype_base::archetype_base;
  template <std::same_as<float> T>
  void round_inplace(matrix_view<T>) const {}
  text_archetype describe() const { return text_archetype(0); }
};

/// Every item gets the second of two widths.
struct bit_allocator_archetype : archetype_base {
  using archetype_base::archetype_base;
  std::vector<double> widths() const { return {2.0, 4.0}; }
  template <std::same_as<bit_offers> T>
  std::vector<index_t> allocate(T const& offers) const {
    offers.check("bit_allocator_archetype");
    if (offers.widths != widths()) throw config_error("bit_allocator_archetype: other widths");
    return std::vector<index_t>(offers.sizes.size(), 1);
  }
  text_archetype describe() const { return text_archetype(0); }
};

/// Rank 1, all zeros.
struct low_rank_solver_archetype : archetype_base {
  using archetype_base::archetype_base;

  template <std::same_as<float> T>
  adapter solve(matrix_view<T const> e, calibration const&, context const&) const {
    adapter zero;
    zero.left = matrix<float>(e.cols(), e.empty() ? 0 : 1);
    zero.right = matrix<float>(e.empty() ? 0 : 1, e.rows());
    return zero;
  }
  template <std::same_as<float> T>
  double energy(matrix_view<T const> e, calibration const&, context const&) const {
    double sum = 0;
    for (index_t i = 0; i < e.rows(); ++i)
      for (index_t j = 0; j < e.cols(); ++j) sum += static_cast<double>(e(i, j)) * static_cast<double>(e(i, j));
    return sum;
  }
  text_archetype describe() const { return text_archetype(0); }
};

/// The same with a diagonal norm: all channels weigh 1.
struct diagonal_norm_archetype : low_rank_solver_archetype {
  using low_rank_solver_archetype::low_rank_solver_archetype;
  std::vector<float> channel_weights(calibration const& calib) const {
    return std::vector<float>(static_cast<std::size_t>(calib.channels()), 1.0f);
  }
};

/// Changes nothing.
struct transform_archetype : archetype_base {
  using archetype_base::archetype_base;

  template <std::same_as<float> T>
  matrix<T> apply(matrix_view<T const> w) const {
    return matrix<T>(w);
  }
  template <std::same_as<float> T>
  matrix<T> invert(matrix_view<T const> w) const {
    return matrix<T>(w);
  }
  text_archetype describe() const { return text_archetype(0); }
};

/// The same, and a calibration follows it.
struct calibration_transform_archetype : transform_archetype {
  using transform_archetype::transform_archetype;
  calibration apply_to(calibration const& calib) const { return calib; }
};

/// Writes nothing and reads nothing. There is no object of a format.
struct packed_format_archetype {
  packed_format_archetype() = delete;
  static constexpr packed_kind kind = packed_kind::dense_codes;
  static std::vector<std::byte> pack(integer_codes const&, mask const&, context const& = {}) { return {}; }
  static std::vector<std::byte> pack(codebook_codes const&, mask const&, context const& = {}) { return {}; }
  static result<unpacked_matrix> unpack(std::span<std::byte const>, unpack_limit = {}, context const& = {}) {
    return failure{"archetype"};
  }
  static std::int64_t byte_size(integer_codes const&, mask const&) { return 0; }
  static std::int64_t byte_size(codebook_codes const&, mask const&) { return 0; }
};

/// Every weight is kept and becomes 1, without an adapter.
struct joint_compressor_archetype : archetype_base {
  using archetype_base::archetype_base;

  template <std::same_as<float> T>
  joint_result<none, codes_archetype> compress(matrix_view<T const> w, calibration const&, context const&) const {
    return {{{}, codes_archetype(w.rows(), w.cols())}, {}, {}, {}};
  }
  text_archetype describe() const { return text_archetype(0); }
};

/// Codes of a set: solvers copy them and assign them.
struct set_codes_archetype {
  set_codes_archetype(index_t rows, index_t cols) : signs(rows, cols) {}

  index_t rows() const { return signs.rows(); }
  index_t cols() const { return signs.cols(); }
  double stored_bits(mask const*) const { return static_cast<double>(signs.size()); }
  template <std::same_as<float> T>
  void dequantize_into(matrix_view<T> values, context const&) const {
    if (values.rows() != rows() || values.cols() != cols()) throw shape_error("set_codes_archetype: another shape");
    for (index_t i = 0; i < rows(); ++i)
      for (index_t j = 0; j < cols(); ++j) values(i, j) = scale * static_cast<float>(signs(i, j));
  }

  matrix<std::int8_t> signs;
  float scale = 0.0f;
};

/// All matrices of one number and two signs: the signs of V times the mean of |V|, whatever H is.
struct set_archetype : archetype_base {
  using archetype_base::archetype_base;
  using mask_type = none;
  using codes_type = set_codes_archetype;
  using element = sparse_codes<mask_type, codes_type>;

  template <std::same_as<float> T>
  element start(matrix_view<T const> v, calibration const&, context const&) const {
    element p{{}, set_codes_archetype(v.rows(), v.cols())};
    fit(v, p);
    return p;
  }
  template <std::same_as<float> T>
  void sweep(matrix_view<T const> v, matrix_view<T const>, element& p, feedback_options const&, context const&) const {
    fit(v, p);
  }
  template <std::same_as<float> T>
  void refine(matrix_view<T>, matrix_view<T const>, element&, context const&) const {}
  template <std::same_as<float> T>
  void refit(matrix_view<T>, matrix_view<T const>, element&, context const&) const {}
  index_t group() const { return 1; }
  text_archetype describe() const { return text_archetype(0); }

private:
  static void fit(matrix_view<float const> v, element& p) {
    double sum = 0;
    for (index_t i = 0; i < v.rows(); ++i)
      for (index_t j = 0; j < v.cols(); ++j) {
        p.codes.signs(i, j) = v(i, j) < 0.0f ? std::int8_t{-1} : std::int8_t{1};
        sum += std::abs(static_cast<double>(v(i, j)));
      }
    p.codes.scale = v.empty() ? 0.0f : static_cast<float>(sum / static_cast<double>(v.rows() * v.cols()));
  }
};

/// A grid of one value, 0.
struct grid_archetype : archetype_base {
  using archetype_base::archetype_base;
  using codes_type = set_codes_archetype;

  codes_type empty(index_t rows, index_t cols) const { return {rows, cols}; }
  template <std::same_as<float> T>
  void fit(codes_type&, matrix_view<T const>, context const&) const {}
  index_t groups(codes_type const&) const { return 1; }
  index_t group_cols(codes_type const& codes) const { return codes.cols(); }
  index_t fit_cols(codes_type const&) const { return 0; }
  void fit_tile(codes_type&, float const*, index_t, index_t, index_t, index_t, context const&) const {}
  index_t level_count() const { return 0; }
  void load(codes_type const&, index_t, index_t, index_t, lane_group const& lanes) const {
    for (index_t lane = 0; lane < grid_lanes; ++lane)
      lanes.scale[lane] = lanes.inverse[lane] = lanes.low[lane] = lanes.high[lane] = lanes.offset[lane] = 0.0f;
  }
  void store(codes_type&, index_t, index_t, float, bool) const {}
  float level(codes_type const&, index_t, index_t) const { return 0.0f; }
  float value(codes_type const&, index_t, index_t) const { return 0.0f; }
  template <std::same_as<float> T>
  void refit(codes_type&, mask const*, matrix_view<T>, matrix_view<T const>, context const&) const {}
  text_archetype describe() const { return text_archetype(0); }
};

/// Runs tasks in order.
struct executor_archetype : archetype_base {
  using archetype_base::archetype_base;
  void for_each(index_t count, task_ref task) const {
    for (index_t k = 0; k < count; ++k) task(k);
  }
};

static_assert(saliency<saliency_archetype> && linear_saliency<linear_saliency_archetype> && pruner<pruner_archetype>);
static_assert(quantized_matrix<codes_archetype> && quantizer<quantizer_archetype> &&
              input_quantizer<input_quantizer_archetype>);
static_assert(packed_format<packed_format_archetype> && bit_allocator<bit_allocator_archetype>);
static_assert(joint_compressor<joint_compressor_archetype> && sweepable<set_archetype> && grid<grid_archetype>);
static_assert(low_rank_solver<low_rank_solver_archetype> && diagonal_norm<diagonal_norm_archetype> &&
              executor<executor_archetype> && transform<transform_archetype> &&
              calibration_transform<calibration_transform_archetype>);

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
