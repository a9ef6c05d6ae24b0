#pragma once
/// @file
/// The families, each defined in a file of its own.

#include "models/family.hpp"

namespace slim_llm {

/// Llama, Mistral, SmolLM, Qwen2, Qwen3: RMSNorm, rotary positions, gated MLP.
extern model_family const llama_family;
/// OPT: LayerNorm, learned positions, ReLU MLP.
extern model_family const opt_family;

} // namespace slim_llm
