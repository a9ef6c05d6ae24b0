#pragma once
/// @file
/// The door: `as_matrix_view(m)` turns a matrix of any library into a matrix_view. Eigen, xtensor and mdspan-like types are
/// recognised by their members, without their headers. For a type of your own specialise `matrix_traits`:
///
///     template <> struct slim::matrix_traits<my_matrix> {
///       static auto view(my_matrix const& m) { return slim::matrix_view<float const>(m.values, m.height, m.width); }
///     };
///
/// Specialise before the first use of the type: compilers remember the answer of a concept.
/// Lazy expressions (`A + B`) and temporaries that own their elements are refused at compile time.

#include "slim/core/matrix.hpp"

#include <type_traits>
#include <utility>

namespace slim {
inline namespace SLIM_ABI {

/// The only extension point. A specialisation offers `static auto view(M& or M const&)` returning a matrix_view.
template <class M>
struct matrix_traits {};

namespace detail {

/// Eigen::Matrix, Map, Ref, Block with direct access.
template <class M>
concept eigen_like = requires(M& m) {
  m.data();
  m.rows();
  m.cols();
  m.innerStride();
  m.outerStride();
  { std::remove_const_t<M>::IsRowMajor } -> std::convertible_to<bool>;
  requires std::is_pointer_v<decltype(m.data())>;
};

/// xtensor containers, adaptors and strided views (0.24 and the newer header layout have the same members).
template <class M>
concept xtensor_like = requires(M& m) {
  m.data();
  m.shape()[0];
  m.strides()[0];
  m.dimension();
  requires std::is_pointer_v<decltype(m.data())>;
};

/// std::mdspan and the Kokkos one, of rank 2. Their members return references to const. An accessor that does not simply
/// read memory (scaled, conjugated) is refused: its elements are not those that the pointer shows.
template <class M>
concept mdspan_like = requires(M& m) {
  m.data_handle();
  m.extent(0);
  m.stride(0);
  requires(std::remove_const_t<M>::rank() == 2);
  requires std::is_pointer_v<std::remove_cvref_t<decltype(m.data_handle())>>;
  requires std::is_same_v<typename std::remove_const_t<M>::reference, decltype(*m.data_handle())>;
};

template <class M>
concept has_matrix_traits = requires(M& m) { matrix_traits<std::remove_const_t<M>>::view(m); };

template <class T, class Layout>
auto view_of(matrix_view<T, Layout> view) -> matrix_view<T, Layout> {
  return view;
}

template <class M>
  requires has_matrix_traits<M>
auto view_of(M& m) {
  return matrix_traits<std::remove_const_t<M>>::view(m);
}

template <class T>
auto view_of(matrix<T>& m) -> matrix_view<T> {
  return m.view();
}

template <class T>
auto view_of(matrix<T> const& m) -> matrix_view<T const> {
  return m.view();
}

template <class M>
  requires eigen_like<M> && (!has_matrix_traits<M>)
auto view_of(M& m) {
  using element = std::remove_pointer_t<decltype(m.data())>;
  constexpr bool by_rows = static_cast<bool>(std::remove_const_t<M>::IsRowMajor);
  index_t const inner = static_cast<index_t>(m.innerStride());
  index_t const outer = static_cast<index_t>(m.outerStride());
  index_t const rows = static_cast<index_t>(m.rows());
  index_t const cols = static_cast<index_t>(m.cols());
  return by_rows ? matrix_view<element, strided>(m.data(), rows, cols, outer, inner)
                 : matrix_view<element, strided>(m.data(), rows, cols, inner, outer);
}

template <class M>
  requires xtensor_like<M> && (!eigen_like<M>) && (!has_matrix_traits<M>)
auto view_of(M& m) {
  using element = std::remove_pointer_t<decltype(m.data())>;
  if (m.dimension() != 2)
    throw shape_error(message("as_matrix_view: a matrix has 2 dimensions, this tensor has ", m.dimension()));
  index_t offset = 0;
  if constexpr (requires { m.data_offset(); }) offset = static_cast<index_t>(m.data_offset()); // views: data() is the base's
  // xtensor gives stride 0 to a dimension of extent 1; such a stride is never multiplied by anything but 0.
  return matrix_view<element, strided>(m.data() + offset, static_cast<index_t>(m.shape()[0]),
                                       static_cast<index_t>(m.shape()[1]), static_cast<index_t>(m.strides()[0]),
                                       static_cast<index_t>(m.strides()[1]));
}

template <class M>
  requires mdspan_like<M> && (!has_matrix_traits<M>)
auto view_of(M& m) {
  using element = std::remove_pointer_t<std::remove_cvref_t<decltype(m.data_handle())>>;
  return matrix_view<element, strided>(m.data_handle(), static_cast<index_t>(m.extent(0)), static_cast<index_t>(m.extent(1)),
                                       static_cast<index_t>(m.stride(0)), static_cast<index_t>(m.stride(1)));
}

template <class M>
inline constexpr bool is_view = false;
template <class T, class Layout>
inline constexpr bool is_view<matrix_view<T, Layout>> = true;

} // namespace detail

/// Types that as_matrix_view takes as an lvalue. Their elements are real numbers: they convert to float.
template <class M>
concept matrix_like = requires(std::remove_reference_t<M>& m) {
  detail::view_of(m);
  static_cast<float>(*detail::view_of(m).data());
};

namespace detail {

struct as_matrix_view_fn {
  template <class M>
  [[nodiscard]] auto operator()(M&& m) const {
    static_assert(matrix_like<M>,
                  "slim: not a matrix of real numbers. Give an object with direct access to its elements (Eigen, xtensor, "
                  "mdspan-like; evaluate lazy expressions first), or specialise slim::matrix_traits for it.");
    static_assert(std::is_lvalue_reference_v<M> || is_view<std::remove_cvref_t<M>> || mdspan_like<std::remove_cvref_t<M>>,
                  "slim: a temporary matrix would be gone before its view is used. Name it first.");
    if constexpr (matrix_like<M>) return view_of(m); // one message, not ten
  }
};

} // namespace detail

/// The view of any matrix_like lvalue. O(1), no copy.
inline constexpr detail::as_matrix_view_fn as_matrix_view{};

/// Scalar type of a matrix_like.
template <class M>
using matrix_value_t = typename decltype(detail::view_of(std::declval<std::remove_reference_t<M>&>()))::value_type;

namespace detail {

/// A matrix_like as rows of floats: itself where it lies in memory like that, else a copy. Not to outlive the matrix.
template <class M>
class float_rows {
public:
  explicit float_rows(M const& m) {
    auto const view = view_of(m);
    if constexpr (std::is_same_v<typename decltype(view)::value_type, float>)
      if (view.col_stride() == 1) {
        view_ = {view.data(), view.rows(), view.cols(), view.row_stride()};
        return;
      }
    copy_ = matrix<float>(view);
    view_ = copy_.view();
  }
  float_rows(float_rows const&) = delete;
  float_rows& operator=(float_rows const&) = delete;

  [[nodiscard]] matrix_view<float const> view() const noexcept { return view_; }

private:
  matrix<float> copy_;
  matrix_view<float const> view_;
};

} // namespace detail

/// A row-major float copy of any matrix_like of real numbers: how weights and activations enter the library.
template <class M>
[[nodiscard]] matrix<float> to_float(M const& m) {
  static_assert(matrix_like<M const>,
                "slim: not a matrix of real numbers. Give an object with direct access to its elements (Eigen, xtensor, "
                "mdspan-like; evaluate lazy expressions first), or specialise slim::matrix_traits for it.");
  if constexpr (matrix_like<M const>)
    return matrix<float>(as_matrix_view(m));
  else
    return {};
}

} // namespace SLIM_ABI
} // namespace slim
