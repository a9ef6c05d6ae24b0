#include "compress/recipe_parts.hpp"

namespace slim_llm {
namespace {

constexpr auto g64 = slim::per_group(64);
constexpr auto g128 = slim::per_group(128);

constexpr mask_part pruned_by_magnitude{.method = mask_method::magnitude};
constexpr mask_part pruned_by_wanda{.method = mask_method::wanda};
constexpr mask_part pruned_by_solver{.method = mask_method::solver};

constexpr code_part slim_quant{.method = code_method::slim_quant};
constexpr code_part feedback_codes{.method = code_method::error_feedback};
constexpr code_part joint_codes{.method = code_method::joint};

constexpr adapter_part adapter_by(adapter_method method, int bits = 0) { return {.method = method, .bits = bits}; }

/// Adapters that a solver computes with the codes.
constexpr adapter_part solved_adapter(double rank_ratio, int bits) {
  return {.method = adapter_method::solver, .rank = {.ratio = rank_ratio}, .bits = bits};
}

/// Groups of input channels with a scale and a zero point each.
constexpr code_part asymmetric(code_method method, int bits, slim::scale_block block) {
  return {.method = method, .bits = bits, .block = block, .symmetric = false};
}

/// Symmetric codes, which compressed-tensors and GPTQ files hold.
constexpr recipe_parts symmetric_for_engines(slim::scale_block block) {
  return {.codes = {.method = code_method::targeted, .block = block}};
}

/// The types that llama-quantize would give a model, solved on their grids.
constexpr recipe_parts on_stock_grids(char const* preset) {
  return {.codes = {.method = code_method::stock, .preset = preset}};
}

constexpr base_recipe recipes[] = {
    {"dense", "the model as it is", {}},
    {"absmax", "4-bit codes, step from the largest weight", {.codes = {.method = code_method::absmax}}},
    {"slim-quant", "4-bit codes, step of least expected error (SLiM-Quant)", {.codes = slim_quant}},
    {"magnitude-24", "2:4 sparsity by magnitude", {.mask = pruned_by_magnitude}},
    {"wanda-24", "2:4 sparsity by Wanda", {.mask = pruned_by_wanda}},
    {"absmax-wanda", "absmax, then Wanda 2:4", {.codes = {.method = code_method::absmax}, .mask = pruned_by_wanda}},
    {"slim-quant-wanda", "SLiM-Quant, then Wanda 2:4", {.codes = slim_quant, .mask = pruned_by_wanda}},
    {"naive",
     "... + low-rank adapter by plain SVD of the error",
     {.codes = slim_quant, .mask = pruned_by_wanda, .adapter = adapter_by(adapter_method::svd)}},
    {"l2qer",
     "... + low-rank adapter with L2QER's channel scaling",
     {.codes = slim_quant, .mask = pruned_by_wanda, .adapter = adapter_by(adapter_method::l2qer)}},
    {"slim",
     "... + SLiM-LoRA: SVD of the error weighted by mean |x|",
     {.codes = slim_quant, .mask = pruned_by_wanda, .adapter = adapter_by(adapter_method::slim)}},
    {"slim-q",
     "slim with 4-bit adapters in groups of 128",
     {.codes = slim_quant, .mask = pruned_by_wanda, .adapter = adapter_by(adapter_method::slim, 4)}},
    {"slim-repo",
     "slim as its published code does it: its step search, RMS saliency, rank padded to 128, weights quantized again after",
     {.codes = {.method = code_method::slim_repo}, .mask = pruned_by_wanda, .adapter = adapter_by(adapter_method::slim_repo)}},
    {"qera",
     "... + low-rank adapter exact for the layer's output (QERA)",
     {.codes = slim_quant, .mask = pruned_by_wanda, .adapter = adapter_by(adapter_method::exact)}},
    {"slim-o",
     "slim with activation-aware SLiM-Quant^O",
     {.codes = {.method = code_method::slim_quant_o}, .mask = pruned_by_wanda, .adapter = adapter_by(adapter_method::slim)}},
    {"sparsegpt-gptq",
     "2:4 and 4-bit codes by error feedback, chosen together (SparseGPT + GPTQ)",
     {.codes = feedback_codes, .mask = pruned_by_solver}},
    {"eora",
     "sparsegpt-gptq + low-rank adapter exact for the output (EoRA)",
     {.codes = feedback_codes, .mask = pruned_by_solver, .adapter = adapter_by(adapter_method::exact)}},
    {"alternating",
     "error feedback and exact adapter in turn (CALDERA's loop over 2:4 + 4 bit)",
     {.codes = {.method = code_method::alternating}, .mask = pruned_by_solver, .adapter = solved_adapter(0.1, 0)}},
    {"joint",
     "2:4, 4-bit codes and adapter solved together, towards the dense model's outputs",
     {.codes = joint_codes, .mask = pruned_by_solver, .adapter = solved_adapter(0.1, 0)}},
    {"joint-q",
     "joint with 4-bit adapters in groups of 128",
     {.codes = joint_codes, .mask = pruned_by_solver, .adapter = solved_adapter(0.1, 4)}},
    {"joint-int8",
     "joint with 8-bit adapters of half the rank",
     {.codes = joint_codes, .mask = pruned_by_solver, .adapter = solved_adapter(0.05, 8)}},
    {"rtn-int4",
     "dense 4-bit groups of 128, rounded to nearest",
     {.codes = {.method = code_method::absmax, .block = g128, .full_range = true}}},
    {"gptq-int4", "dense 4-bit groups of 128 by GPTQ with act-order", {.codes = {.method = code_method::gptq, .block = g128}}},
    {"gptq-int3",
     "dense 3-bit groups of 128 with zero points by GPTQ with act-order",
     {.codes = asymmetric(code_method::gptq, 3, g128)}},
    {"gptq-int2",
     "dense 2-bit groups of 64 with zero points by GPTQ with act-order",
     {.codes = asymmetric(code_method::gptq, 2, g64)}},
    {"rtn-int3",
     "dense 3-bit codes with a zero point per output channel, rounded to nearest",
     {.codes = asymmetric(code_method::absmax, 3, slim::per_channel)}},
    {"kmeans-3", "3-bit books per output channel by k-means", {.codes = {.method = code_method::kmeans, .bits = 3}}},
    {"squeeze-3-dense",
     "3-bit books per output channel by k-means weighted with mean x^2 (SqueezeLLM without gradients)",
     {.codes = {.method = code_method::squeeze_llm, .bits = 3}}},
    {"squeeze-3",
     "... + 0.45% of the weights apart as 16-bit numbers",
     {.codes = {.method = code_method::squeeze_llm, .bits = 3, .apart = true}}},
    {"spqr-2", "spqr-3 with 2 bits", {.codes = {.method = code_method::spqr, .bits = 2}}},
    {"spqr-3",
     "3-bit groups of 16 with 3-bit scales and offsets, channels by energy, 0.4% of the weights apart (SpQR)",
     {.codes = {.method = code_method::spqr, .bits = 3}}},
    {"spqr-4", "spqr-3 with 4 bits", {.codes = {.method = code_method::spqr, .bits = 4}}},
    {"sba-2",
     "2 bits on average in groups of 64 columns, 1 or 3 where that loses less (SliM-LLM's bit allocation)",
     {.codes = {.method = code_method::balanced_bits, .bits = 2, .block = g64}}},
    {"sba-3",
     "3 bits on average in groups of 64 columns, 2 or 4 where that loses less",
     {.codes = {.method = code_method::balanced_bits, .bits = 3, .block = g64}}},
    {"bits-2-4-16",
     "2-bit groups of 32, 4 bits for a tenth of the columns, 0.5% of the weights apart in the others",
     {.codes = {.method = code_method::bits_2_4_16, .bits = 2, .block = slim::per_group(32)}}},
    {"rtn-w4a4",
     "4-bit groups of 64, rounded to nearest, inputs of 4 bits per token and 64 channels",
     {.codes = {.method = code_method::absmax, .block = g64}, .input_bits = 4}},
    {"smoothquant-w4a4",
     "... in the best of 39 scalings of the input channels",
     {.codes = {.method = code_method::smooth_quant}, .input_bits = 4}},
    {"svdquant",
     "... beside a branch of rank 32 in 16 bits that reads inputs as they come (SVDQuant)",
     {.codes = {.method = code_method::svdquant}, .input_bits = 4}},
    {"int2-lr",
     "dense 2-bit groups of 64 with zero points and 4-bit adapters, solved together",
     {.codes = asymmetric(code_method::joint, 2, g64), .adapter = solved_adapter(0.15, 4)}},
    {"int3-lr",
     "dense 3-bit groups of 128 with zero points and 4-bit adapters, solved together",
     {.codes = asymmetric(code_method::joint, 3, g128), .adapter = solved_adapter(0.075, 4)}},
    {"int4-lr",
     "dense 4-bit groups of 128 with zero points and 4-bit adapters, solved together",
     {.codes = asymmetric(code_method::joint, 4, g128), .adapter = solved_adapter(0.03, 4)}},
    {"ct:int4-g128",
     "dense symmetric 4-bit groups of 128 by error feedback and descent towards the dense model's outputs; export --to ct or gptq "
     "loads in transformers and vLLM as it is",
     symmetric_for_engines(g128)},
    {"ct:int4-g32", "... in groups of 32", symmetric_for_engines(slim::per_group(32))},
    {"mlx:3",
     "... 3-bit groups of 64 with zero points, scales of 8 significant bits; export --to mlx loads in mlx-lm as it is",
     {.codes = {.method = code_method::targeted,
                .bits = 3,
                .block = g64,
                .symmetric = false,
                .scale_format = slim::number_format::bf16}}},
    {"mlx:4",
     "... 4-bit groups of 64, scales of 7 significant bits: times a zero point they are numbers of fp16, as mlx-lm wants them",
     {.codes = {.method = code_method::targeted,
                .block = g64,
                .symmetric = false,
                .scale_format = slim::number_format::bf16,
                .scale_digits = 7}}},
    {"gguf:q4_0",
     "every linear on the grid of ggml's Q4_0, by error feedback and descent towards the dense model's outputs; --out X.gguf "
     "loads in llama.cpp as it is",
     on_stock_grids("q4_0")},
    {"gguf:q4_1", "... on that of Q4_1", on_stock_grids("q4_1")},
    {"gguf:q5_0", "... on that of Q5_0", on_stock_grids("q5_0")},
    {"gguf:q5_1", "... on that of Q5_1", on_stock_grids("q5_1")},
    {"gguf:q8_0", "... on that of Q8_0", on_stock_grids("q8_0")},
    {"gguf:iq4_nl", "... on that of IQ4_NL", on_stock_grids("iq4_nl")},
    {"gguf:iq4_xs", "... on that of IQ4_XS, or IQ4_NL where rows are no multiples of 256", on_stock_grids("iq4_xs")},
    {"gguf:q3_k", "... on that of Q3_K, or Q4_0 where rows are no multiples of 256", on_stock_grids("q3_k")},
    {"gguf:q4_k", "... on that of Q4_K, or Q5_0", on_stock_grids("q4_k")},
    {"gguf:q5_k", "... on that of Q5_K, or Q5_1", on_stock_grids("q5_k")},
    {"gguf:q6_k", "... on that of Q6_K, or Q8_0", on_stock_grids("q6_k")},
    {"gguf:q2_k", "... on the mix of types that llama-quantize calls Q2_K", on_stock_grids("q2_k")},
    {"gguf:q3_k_m", "... Q3_K_M", on_stock_grids("q3_k_m")},
    {"gguf:q4_k_m", "... Q4_K_M", on_stock_grids("q4_k_m")},
    {"gguf:q5_k_m", "... Q5_K_M", on_stock_grids("q5_k_m")},
};

} // namespace

std::span<base_recipe const> recipe_table() { return recipes; }

} // namespace slim_llm
