#pragma once
/// @file
/// The adapters of a compressed model as files that stock software loads beside the base model.

#include "formats/export_report.hpp"

namespace slim_llm {

/// A folder for PEFT (transformers, vLLM): adapter_model.safetensors with A = left^T (r x d_in) and B = right^T (d_out x r),
/// and adapter_config.json with the true rank of every module; r = lora_alpha, so that nothing is scaled. Factors are BF16 or
/// F16 where that is exact (or rounding is allowed: F16), else F32. `base` is the folder they belong to. Source: peft 0.21,
/// LoraConfig. @throws input_error naming a layer whose rank is above the limit.
void export_peft(export_source const& source, std::filesystem::path const& base, std::filesystem::path const& out,
                 export_options const& options, export_report& report);

/// The same for mlx-lm: adapters.safetensors with lora_a = left (d_in x r) and lora_b = right (r x d_out), filled up with zeros
/// to one rank, which mlx-lm wants. Source: mlx-lm 0.32,
/// load_adapters.
void export_mlx_adapter(export_source const& source, std::filesystem::path const& out, export_options const& options,
                        export_report& report);

/// A LoRA GGUF for llama.cpp. Factors with codes become Q4_0 or Q8_0, exactly, with the rank filled up with zeros to a multiple
/// of 32; others are as PEFT's. Source: llama.cpp, llama_adapter_lora_init.
void export_lora_gguf(export_source const& source, std::filesystem::path const& out, export_options const& options,
                      export_report& report);

/// Bytes of both factors of each adapter in the folders of export_peft and export_mlx_adapter (`one_rank`: all filled up to the
/// largest rank), and in export_lora_gguf's file.
[[nodiscard]] std::vector<double> factor_bytes_of(std::vector<slim::adapter> const& adapters, bool one_rank);
[[nodiscard]] std::vector<double> lora_gguf_bytes_of(std::vector<slim::adapter> const& adapters);

} // namespace slim_llm
