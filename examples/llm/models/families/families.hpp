#pragma once
/// @file
/// The families, each defined in a file of its own.

#include "models/family.hpp"

namespace slim_llm {

/// Llama, Mistral, SmolLM, SmolLM3, Qwen2, Qwen3: RMSNorm, rotary positions, gated MLP.
extern model_family const llama_family;
/// OLMo 2: norms behind attention and MLP.
extern model_family const olmo2_family;
/// Gemma 2 and 3: norms before and behind, scaled embeddings, alternating windows.
extern model_family const gemma_family;
/// Phi-3 and 4: fused linears.
extern model_family const phi3_family;
/// Qwen3-MoE and OLMoE: experts.
extern model_family const mixture_family;
/// OPT: LayerNorm, learned positions, ReLU MLP.
extern model_family const opt_family;

} // namespace slim_llm
