/// @file
/// Hugging Face folder -> model. Keys and defaults: the configuration classes of transformers 5.24, and of 4.57 where they
/// spelled a thing differently.

#include "formats/assemble.hpp"
#include "formats/json_rotary.hpp"
#include "formats/load_formats.hpp"

namespace slim_llm {
namespace {

/// The configuration of the text model of a multimodal folder (Gemma3Config of transformers 5.24), whose class has defaults for
/// sizes that other types must name. What the folder says of the whole model is settled here.
json_config text_part_of(json_config& whole) {
  nlohmann::json text = {{"model_type", "gemma3_text"}, {"vocab_size", 262208},    {"hidden_size", 2304},
                         {"intermediate_size", 9216},   {"num_hidden_layers", 26}, {"num_attention_heads", 8}};
  if (whole.has("text_config")) {
    if (!whole.object().at("text_config").is_object())
      whole.fail("'text_config' is no object");
    else
      text.update(whole.object().at("text_config"));
  }
  bool const tied = whole.flag("tie_word_embeddings", true);
  auto const said = text.find("tie_word_embeddings");
  if (said != text.end() && !said->is_null() && *said != tied)
    whole.fail("'tie_word_embeddings' is said twice, and differently in 'text_config'");
  text["tie_word_embeddings"] = tied;
  if (auto const cap = text.find("final_logit_softcapping"); cap != text.end() && !cap->is_null())
    whole.fail(
        "'text_config' caps logits ('final_logit_softcapping'), which Gemma3ForConditionalGeneration does not do and the "
        "text model alone does");
  for (char const* key : {"model_type", "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index",
                          "image_token_index", "boi_token_id", "eoi_token_id", "image_token_id"})
    whole.used(key);
  whole.settle_unused();
  json_config part = whole.part("text_config", std::move(text));
  part.take_from(whole);
  return part;
}

model_config read_config(json_config& config, rope_defaults& rope) {
  model_config c;
  c.name = config.text("model_type");
  c.layers = config.whole("num_hidden_layers");
  c.hidden = config.whole("hidden_size");
  c.heads = config.whole("num_attention_heads");
  c.vocab = config.whole("vocab_size");
  c.embedding_dim = c.hidden;
  if (config.has("bos_token_id") && config.object().at("bos_token_id").is_number_integer()) {
    index_t const bos = config.whole("bos_token_id");
    if (bos >= c.vocab)
      config.note(
          slim::message("'bos_token_id' ", bos, " is outside the vocabulary of ", c.vocab, " tokens; there is no such token"));
  }
  if (config.has("quantization_config"))
    config.fail("the folder holds a quantized model ('quantization_config'); give the dense one");
  c.family = find_family(&model_family::hugging_face, c.name);
  if (!c.family) {
    config.fail("model type '" + c.name + "' is not known; " + known_types(&model_family::hugging_face) + " are");
    return c;
  }
  if (c.layers < 1 || c.layers > 4096)
    config.fail(slim::message("'num_hidden_layers' is ", c.layers, ", allowed are 1 .. 4096"));
  else
    c.family->hugging_face.read_config(config, c, rope);
  return c;
}

} // namespace

slim::result<model> model_of_hugging_face(model_files const& files, model_tensors const& tensors) {
  std::string const file = files.path_of("config.json").string();
  auto object = files.json("config.json");
  if (!object) return slim::failure{object.why()};
  if (!object->is_object()) return slim::failure{file + ": is not a JSON object"};
  json_config whole(file, std::move(*object));
  json_config reader = whole.text("model_type", "") == "gemma3" ? text_part_of(whole) : std::move(whole);
  rope_defaults defaults;
  model_config config = read_config(reader, defaults);
  if (!reader.why().empty()) return slim::failure{reader.why()};
  if (std::string const why = why_not_valid(config); !why.empty()) return slim::failure{file + ": " + why};
  std::vector<rotary_table> rotary;
  if (config.family->positions == position_kind::rotary) rotary = read_rotary(reader, config, defaults);
  reader.settle_unused();
  if (!reader.why().empty()) return slim::failure{reader.why()};

  tensor_source source(files.place().string());
  source.add(tensors.list);
  for (std::string const& note : tensors.notes) source.note(note);
  auto const layout =
      find_layout(config.family->hugging_face, config, [&](std::string const& name) { return source.has(name); });
  auto m = assemble(std::move(config), layout.tensors, source, tensors.file);
  if (!m) return m;
  m->rotary = std::move(rotary);
  m->notes.insert(m->notes.begin(), reader.notes().begin(), reader.notes().end());
  return m;
}

} // namespace slim_llm
