#include "formats/config_keys.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

// Words between blanks.

constexpr std::string_view harmless[] = {
    // the folder and who wrote it
    " _name_or_path name_or_path _commit_hash architectures model_type transformers_version dtype torch_dtype auto_map "
    "custom_pipelines unsloth_version unsloth_fixed transformers.js_config base_model_name_or_path task_specific_params "
    "finetuning_task id2label label2id num_labels problem_type tokenizer_class prefix title ",
    // how transformers computes, not what
    " use_cache cache_implementation return_dict output_hidden_states output_attentions output_router_logits "
    "tie_last_hidden_states chunk_size_feed_forward pretraining_tp attn_implementation _attn_implementation "
    "_attn_implementation_autoset _attn_implementation_internal experts_implementation _experts_implementation "
    "_experts_implementation_internal torchscript use_return_dict use_flash_attn _use_flash_attn _flash_attn_2_enabled "
    "gradient_checkpointing mlp_implementation torch_compile ",
    // training
    " initializer_range init_std attention_dropout attn_dropout hidden_dropout dropout layerdrop activation_dropout resid_pdrop "
    "embd_pdrop attn_pdrop router_aux_loss_coef router_z_loss_coef aux_loss_alpha classifier_dropout label_smoothing "
    "z_loss_coefficient ",
    // tokens and generation
    " bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id forced_bos_token_id "
    "forced_eos_token_id max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate "
    "remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens stop_token_ids chat_template "
    "generation_config "};

constexpr std::string_view telling[] = {
    // what the folder is
    " quantization_config compression_config sparsity_config pruned_heads per_layer_config text_config is_causal is_decoder "
    "is_encoder_decoder add_cross_attention cross_attention_hidden_size ",
    // attention and positions
    " alibi attention_bias attention_chunk_size attention_multiplier attention_sink attention_sinks attn_logit_softcapping "
    "attn_scale attn_temperature_tuning clip_qkv kv_lora_rank layer_types max_window_layers multi_query no_rope_layers "
    "nope_layers num_kv_shared_layers partial_rotary_factor position_embedding_type q_lora_rank qk_layernorm qk_norm qkv_bias "
    "query_pre_attn_scalar rope_interleaved rope_local_base_freq rotary_emb_base rotary_pct sliding_window "
    "sliding_window_pattern use_bidirectional_attention use_mrope use_qk_norm use_sliding_window window_size ",
    // norms, MLPs, embeddings, head
    " decoder_sparse_step dim_model_base embedding_multiplier embedding_scale ffn_bias final_logit_softcapping "
    "hidden_activation layer_norm_type lm_head_bias logit_scale logits_scaling mlp_bias mlp_only_layers moe_intermediate_size "
    "mup_scale n_routed_experts norm_type num_experts num_local_experts num_nextn_predict_layers num_shared_experts "
    "parallel_attn residual_multiplier scale_depth scale_emb scale_embedding shared_expert_intermediate_size use_bias "
    "use_parallel_residual use_post_norm word_embed_proj_dim "};

/// Values beyond the usual that change nothing.
struct neutral_value {
  std::string_view key;
  bool flag = false;
  std::string_view text = {};
};
constexpr neutral_value neutral[] = {{"is_causal", true},
                                     {"is_decoder", true},
                                     {"position_embedding_type", false, "rope"},
                                     {"hidden_activation", false, "silu"}};

template <std::size_t count>
bool lists(std::string_view const (&groups)[count], std::string_view key) {
  std::string word(1, ' ');
  word.append(key).push_back(' ');
  return key.find(' ') == std::string_view::npos &&
         std::any_of(std::begin(groups), std::end(groups),
                     [&](std::string_view group) { return group.find(word) != std::string_view::npos; });
}

} // namespace

bool is_harmless_key(std::string_view key) { return lists(harmless, key); }

bool is_telling_key(std::string_view key) { return lists(telling, key); }

bool is_neutral_value(std::string_view key, nlohmann::json const& value) {
  if (value.is_null() || value == false || value == 0 || value == 1 || value == "") return true;
  if (value.is_array() || value.is_object()) return value.empty();
  return std::any_of(std::begin(neutral), std::end(neutral), [&](neutral_value const& known) {
    return known.key == key && ((known.flag && value == true) || (!known.text.empty() && value == known.text));
  });
}

} // namespace slim_llm
