#pragma once
/// @file
/// A compressed model as a Hugging Face folder that stock software loads: linears in a layer_format, or as numbers.

#include "formats/export_report.hpp"
#include "formats/layer_format.hpp"

namespace slim_llm {

/// Linears as codes. Everything else is copied; tensors of a GGUF file become F16, or F32 where that is not exact (in MLX's
/// format, Q8_0 of the embedding becomes 8-bit groups of 32, which is). Written beside and renamed after every linear was read
/// back and compared. @throws input_error naming the layer and what the format cannot hold.
void export_folder(export_source const& source, layer_format& format, std::filesystem::path const& out,
                   export_options const& options, export_report& report);

/// Linears as numbers, adapters merged into them or left out: F16 where that is exact or rounding is allowed, else F32.
void export_dense_folder(export_source const& source, bool merge, std::filesystem::path const& out,
                         export_options const& options, export_report& report);

} // namespace slim_llm
