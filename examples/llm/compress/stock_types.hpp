#pragma once
/// @file
/// Which ggml type each linear of a model gets: the same one for all, or llama-quantize's own mixes.

#include "compress/recipe.hpp"
#include "models/model.hpp"

namespace slim_llm {

/// The recipe with the type of every linear of `m`, if it solves on ggml's grids; else as it is. "q4_k" and the like are one
/// type for all; "q2_k", "q3_k_m", "q4_k_m" and "q5_k_m" are what llama-quantize calls Q2_K, Q3_K_M, Q4_K_M and Q5_K_M with an
/// importance matrix (llama.cpp 0c1e5709, `tensor_type_fallback` and `llama_tensor_get_type_impl`; models without experts).
/// Rows that are no whole blocks get the type that it falls back to. @throws input_error naming a linear that no type in blocks
/// of 32 holds
[[nodiscard]] recipe with_stock_types(recipe how, model const& m);

/// llama.cpp's LLAMA_FTYPE_MOSTLY_* of a preset.
[[nodiscard]] std::uint32_t file_type_of(std::string const& preset);

} // namespace slim_llm
