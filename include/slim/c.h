/// @file
/// A small part of the library for programs that speak C (or Python's ctypes): compress one layer, pack it, multiply with it.
/// Linked as slim::c. Every function that can fail returns a code; `slim_last_error` is the sentence of this thread's last
/// failure. Matrices are floats, row-major: W (d_out x d_in), X (tokens x d_in), Y (tokens x d_out). Nothing throws.
#ifndef SLIM_C_H
#define SLIM_C_H

#include <stddef.h>

#if defined(SLIM_C_BUILDING) && defined(__GNUC__)
#define SLIM_C_API __attribute__((visibility("default")))
#else
#define SLIM_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/// What went wrong; 0: nothing. The sentence is `slim_last_error`.
enum slim_status {
  SLIM_OK = 0,
  SLIM_SHAPE_ERROR = 1,     ///< sizes that do not fit
  SLIM_CONFIG_ERROR = 2,    ///< a value of the recipe, a null pointer, activations that are needed and missing
  SLIM_NONFINITE_ERROR = 3, ///< NaN or infinity in W or X
  SLIM_OUT_OF_MEMORY = 4,
  SLIM_OTHER_ERROR = 5
};

/// How a layer is compressed. Begin with `slim_default_recipe()`.
struct slim_recipe {
  int bits;          ///< of a code, 2 to 8
  ptrdiff_t group;   ///< weights of a row that share a scale; 0: the whole row
  int prune_2_of_4;  ///< not 0: two of every four weights of a row are kept, by Wanda (needs X)
  double rank_ratio; ///< of the adapter, in 4 bits, of min(d_in, d_out); 0: none (needs X otherwise)
};

/// What became of the layer. An error that could not be measured is NaN.
struct slim_layer_report {
  double relative_error;  ///< ||W - W'|| / ||W||
  double output_error;    ///< ||X (W - W')^T|| / ||X W^T||
  double bits_per_weight; ///< of all that is stored
  double sparsity;
  ptrdiff_t rank;
};

typedef struct slim_layer slim_layer;
typedef struct slim_packed slim_packed;

SLIM_C_API int slim_version_number(void);                ///< SLIM_VERSION of slim/config.hpp
SLIM_C_API char const* slim_version_text(void);          ///< "0.1.0"
SLIM_C_API char const* slim_last_error(void);            ///< of this thread; "" before the first failure
SLIM_C_API struct slim_recipe slim_default_recipe(void); ///< 4 bits in groups of 128, 2:4, an adapter of rank 0.1

/// Compresses W with the statistics of X; X may be null (with tokens 0) where the recipe needs none. The layer is freed by
/// slim_layer_free.
SLIM_C_API int slim_compress(float const* w, ptrdiff_t d_out, ptrdiff_t d_in, float const* x, ptrdiff_t tokens,
                             struct slim_recipe const* recipe, slim_layer** layer);
SLIM_C_API int slim_report_of(slim_layer const* layer, struct slim_layer_report* report);
/// The dense weight that the layer computes, d_out x d_in.
SLIM_C_API int slim_decompress(slim_layer const* layer, float* w);
/// The layer in the layout that runs; freed by slim_packed_free.
SLIM_C_API int slim_pack(slim_layer const* layer, slim_packed** packed);
SLIM_C_API size_t slim_packed_bytes(slim_packed const* packed);
/// Y = X W'^T, with X rounded to 8 bits.
SLIM_C_API int slim_forward(slim_packed const* packed, float const* x, ptrdiff_t tokens, float* y);
SLIM_C_API void slim_layer_free(slim_layer* layer);
SLIM_C_API void slim_packed_free(slim_packed* packed);

#ifdef __cplusplus
}
#endif
#endif
