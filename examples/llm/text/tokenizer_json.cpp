#include "text/tokenizer_json.hpp"

#include "slim/core/result.hpp"

#include <algorithm>
#include <initializer_list>

namespace slim_llm {
namespace {

using nlohmann::json;
using slim::message;

// The two patterns that are used with Split, as tokenizer.json spells them.
constexpr std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// @throws unusable if the object has a member, not null, that is not listed.
void require_known(json const& object, std::initializer_list<std::string_view> known, std::string const& what) {
  if (!object.is_object()) return;
  for (auto const& [key, value] : object.items())
    require(value.is_null() || std::ranges::find(known, key) != known.end(),
            message(what, " has '", key, "', which is not known"));
}

std::string type_of(json const& value) { return text_in(member(value, "type")); }

/// The steps of a Sequence, or the value itself as the only step, or none for null.
std::vector<json> steps_of(json const& value, char const* list) {
  if (value.is_null()) return {};
  if (type_of(value) != "Sequence") return {value};
  require_known(value, {"type", list}, "a Sequence");
  std::vector<json> steps;
  for (json const& step : member(value, list))
    for (json const& inner : steps_of(step, list)) steps.push_back(inner);
  return steps;
}

void read_normalizer(json const& value, vocabulary& words) {
  for (json const& step : steps_of(value, "normalizers")) {
    std::string const type = type_of(step);
    if (type == "NFC") {
      require_known(step, {"type"}, "the normalizer NFC");
      words.normalizer.push_back({normal_step::kind::nfc, {}, {}});
    } else if (type == "Prepend") {
      require_known(step, {"type", "prepend"}, "the normalizer Prepend");
      words.normalizer.push_back({normal_step::kind::prepend, {}, text_in(member(step, "prepend"))});
    } else if (type == "Replace") {
      require_known(step, {"type", "pattern", "content"}, "the normalizer Replace");
      json const& pattern = member(step, "pattern");
      require(member(pattern, "String").is_string() && !text_in(pattern.at("String")).empty(),
              message("the normalizer Replace has the pattern ", pattern.dump(), "; only plain strings are read"));
      words.normalizer.push_back({normal_step::kind::replace, text_in(pattern.at("String")), text_in(member(step, "content"))});
    } else {
      throw unusable{message("the normalizer '", type, "' is not read; NFC, Prepend and Replace are")};
    }
  }
}

/// Which of our rules the steps of a pre-tokenizer that ends with ByteLevel are.
pre_tokenizer byte_rule(std::vector<json> const& steps) {
  json const& use_regex = member(steps.back(), "use_regex");
  bool const gpt2_pattern = !use_regex.is_boolean() || use_regex.get<bool>(); // absent means true
  if (steps.size() == 1 && gpt2_pattern) return pre_tokenizer::gpt2;
  std::string const first = type_of(steps.front());
  if (steps.size() == 2 && gpt2_pattern && first == "Digits" && flag_in(steps.front(), "individual_digits"))
    return pre_tokenizer::smollm;
  std::string const behavior = text_in(member(steps.front(), "behavior"));
  bool const inverted = flag_in(steps.front(), "invert"); // what matches no pattern, and there is nothing, is removed
  bool const keeps_matches = (behavior == "Isolated" && !inverted) || (behavior == "Removed" && inverted);
  if (steps.size() == 2 && !gpt2_pattern && first == "Split" && keeps_matches) {
    std::string const pattern = text_in(member(member(steps.front(), "pattern"), "Regex"));
    if (pattern == qwen2_pattern) return pre_tokenizer::qwen2;
    if (pattern == llama3_pattern) return pre_tokenizer::llama3;
    throw unusable{message("the pre-tokenizer pattern is not one that is known: ", pattern)};
  }
  throw unusable{"the pre-tokenizer is not that of GPT-2, SmolLM, Qwen2 or Llama 3"};
}

metaspace read_metaspace(json const& value) {
  require_known(value, {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"},
                "the pre-tokenizer Metaspace");
  metaspace spaces;
  if (std::string const symbol = text_in(member(value, "replacement")); !symbol.empty()) spaces.symbol = symbol;
  json const &prefix = member(value, "add_prefix_space"), &split = member(value, "split");
  std::string const scheme = text_in(member(value, "prepend_scheme"));
  bool const without = prefix.is_boolean() && !prefix.get<bool>();
  require(scheme.empty() || scheme == "always" || scheme == "first" || scheme == "never",
          message("Metaspace has the prepend_scheme '", scheme, "', which is not known"));
  spaces.place = scheme == "never" || (scheme.empty() && without) ? metaspace::front::never
                 : scheme == "first"                              ? metaspace::front::first
                                                                  : metaspace::front::always;
  spaces.cuts = !split.is_boolean() || split.get<bool>();
  return spaces;
}

/// Gemma cuts at spaces, of which its normalizer has left none: no cut at all.
bool never_cuts(json const& step, vocabulary const& words) {
  std::string const pattern = text_in(member(member(step, "pattern"), "String"));
  return type_of(step) == "Split" && !pattern.empty() && !flag_in(step, "invert") &&
         std::ranges::any_of(words.normalizer, [&](normal_step const& replaced) {
           return replaced.what == normal_step::kind::replace && replaced.pattern == pattern &&
                  replaced.content.find(pattern) == std::string::npos;
         });
}

/// Says which model it is too: bytes are spelled by the pre-tokenizer.
void read_pre_tokenizer(json const& value, vocabulary& words) {
  std::vector<json> const steps = steps_of(value, "pretokenizers");
  for (json const& step : steps) {
    require_known(step,
                  {"type", "add_prefix_space", "trim_offsets", "use_regex", "pattern", "behavior", "invert",
                   "individual_digits", "replacement", "str_rep", "prepend_scheme", "split"},
                  message("the pre-tokenizer ", type_of(step)));
  }
  if (!steps.empty() && type_of(steps.back()) == "ByteLevel") {
    require(!words.byte_fallback, "BPE with byte_fallback behind ByteLevel is not read");
    words.model = tokenizer_model::byte_bpe;
    words.rule = byte_rule(steps);
    words.space_before_piece =
        flag_in(steps.back(), "add_prefix_space") || !member(steps.back(), "add_prefix_space").is_boolean();
    require(steps.size() == 1 || !words.space_before_piece,
            "ByteLevel with add_prefix_space behind another pre-tokenizer is not read");
    return;
  }
  words.model = tokenizer_model::character_bpe;
  if (steps.size() == 1 && type_of(steps[0]) == "Metaspace") {
    words.spaces = read_metaspace(steps[0]);
    return;
  }
  for (json const& step : steps)
    require(never_cuts(step, words), message("the pre-tokenizer '", type_of(step),
                                             "' is not read; ByteLevel (behind Digits or Split), Metaspace and none are"));
}

void read_bpe(json const& model, std::size_t most, vocabulary& words) {
  std::string const type = type_of(model);
  require(type == "BPE" || member(model, "type").is_null(), message("the tokenizer's model is '", type, "', not BPE"));
  require_known(model,
                {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
                 "ignore_merges", "vocab", "merges"},
                "the BPE model");
  for (char const* const name : {"continuing_subword_prefix", "end_of_word_suffix"})
    require(text_in(member(model, name)).empty(), message("BPE with ", name, " is not read"));
  json const& dropout = member(model, "dropout");
  require(dropout.is_null() || dropout == 0.0, "BPE with dropout is not read: its ids are random");
  require(member(model, "vocab").is_object() && member(model, "merges").is_array(), "the BPE model lacks vocab or merges");
  for (auto const& [token, id] : member(model, "vocab").items()) place_token(words, token, id, most, token_kind::normal);
  for (json const& merge : member(model, "merges")) {
    bool const pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    require(pair || merge.is_string(), "a merge is neither a string nor a pair of strings");
    if (!pair) {
      words.merges.push_back(merge.get<std::string>());
      continue;
    }
    auto const left = merge[0].get<std::string>(), right = merge[1].get<std::string>();
    char const gap = (left + right).find(' ') == std::string::npos ? ' ' : '\0';
    words.merges.push_back(left + gap + right);
  }
  words.whole_piece_first = flag_in(model, "ignore_merges");
  words.fuse_unknown = flag_in(model, "fuse_unk");
  words.byte_fallback = flag_in(model, "byte_fallback");
  words.unknown = id_of_token(words, text_in(member(model, "unk_token")));
}

/// The id of a special token of a template.
token_id id_in_template(json const& processor, json const& token, vocabulary const& words) {
  std::string const name = text_in(member(token, "id"));
  json const& ids = member(member(member(processor, "special_tokens"), name.c_str()), "ids");
  if (ids.is_array() && ids.size() == 1 && ids[0].is_number_integer()) return ids[0].get<token_id>();
  require(!ids.is_array() || ids.empty(), message("the template's token '", name, "' stands for ", ids.size(), " ids"));
  auto const id = id_of_token(words, name);
  require(id.has_value(), message("the template's token '", name, "' is not in the vocabulary"));
  return *id;
}

/// A text in a template: at most one special token before it (bos), at most one behind it (eos).
void read_template(json const& processor, vocabulary& words) {
  bool behind = false;
  for (json const& piece : member(processor, "single")) {
    if (piece.contains("Sequence")) {
      require(!behind, "the post-processor's template has the text twice");
      behind = true;
      continue;
    }
    require(piece.contains("SpecialToken"), "the post-processor's template has a piece that is not known");
    bool& adds = behind ? words.add_eos : words.add_bos;
    require(!adds, message("the post-processor's template puts several tokens ", behind ? "behind" : "before", " a text"));
    (behind ? words.eos : words.bos) = id_in_template(processor, piece.at("SpecialToken"), words);
    adds = true;
  }
}

/// What is put around a text.
void read_post_processor(json const& value, vocabulary& words) {
  for (json const& step : steps_of(value, "processors")) {
    std::string const type = type_of(step);
    if (type == "ByteLevel") continue; // about offsets
    if (type == "TemplateProcessing") {
      read_template(step, words);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      json const &cls = member(step, "cls"), &sep = member(step, "sep"); // ["<s>", 0]
      require(cls.is_array() && cls.size() == 2 && cls[1].is_number_integer() && sep.is_array() && sep.size() == 2 &&
                  sep[1].is_number_integer(),
              message("the post-processor ", type, " lacks cls or sep"));
      words.bos = cls[1].get<token_id>();
      words.eos = sep[1].get<token_id>();
      words.add_bos = words.add_eos = true;
    } else {
      throw unusable{
          message("the post-processor '", type, "' is not read; TemplateProcessing, ByteLevel and RobertaProcessing are")};
    }
  }
}

} // namespace

void require(bool condition, std::string const& why) {
  if (!condition) throw unusable{why};
}

json const& member(json const& object, char const* name) {
  static json const none;
  if (!object.is_object()) return none;
  auto const at = object.find(name);
  return at == object.end() ? none : *at;
}

bool flag_in(json const& object, char const* name) {
  json const& value = member(object, name);
  return value.is_boolean() && value.get<bool>();
}

std::string text_in(json const& value) { return value.is_string() ? value.get<std::string>() : std::string(); }

void place_token(vocabulary& words, std::string const& token, json const& id, std::size_t most, token_kind kind) {
  require(id.is_number_integer() && id >= 0 && id < most,
          message("token '", token, "' has an id that is no number below ", most));
  std::size_t const at = id.get<std::size_t>();
  if (at >= words.tokens.size()) {
    words.tokens.resize(at + 1);
    words.kinds.resize(at + 1, token_kind::unused);
  }
  words.tokens[at] = token;
  words.kinds[at] = kind;
}

void place_added_token(vocabulary& words, json const& token, json const& id, std::size_t most) {
  require(member(token, "content").is_string(), "an added token has no content");
  require_known(token, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special", "__type"},
                "an added token");
  added_token added{.content = text_in(member(token, "content")),
                    .special = flag_in(token, "special"),
                    .normalized = flag_in(token, "normalized"),
                    .lstrip = flag_in(token, "lstrip"),
                    .rstrip = flag_in(token, "rstrip"),
                    .single_word = flag_in(token, "single_word")};
  place_token(words, added.content, id, most, added.special ? token_kind::control : token_kind::user_defined);
  added.id = id.get<token_id>();
  std::erase_if(words.added, [&](added_token const& other) { return other.id == added.id; });
  words.added.push_back(std::move(added));
}

std::optional<token_id> id_of_token(vocabulary const& words, std::string const& token) {
  auto const at = std::ranges::find(words.tokens, token);
  if (token.empty() || at == words.tokens.end()) return std::nullopt;
  return static_cast<token_id>(at - words.tokens.begin());
}

vocabulary read_tokenizer_json(json const& document) {
  require_known(
      document,
      {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"},
      "the tokenizer");
  vocabulary words;
  json const &model = member(document, "model"), &added = member(document, "added_tokens");
  std::size_t const most = most_ids(member(model, "vocab").size() + added.size());
  read_bpe(model, most, words);
  for (json const& token : added) place_added_token(words, token, member(token, "id"), most);
  std::stable_partition(words.added.begin(), words.added.end(), [](added_token const& token) { return token.special; });
  read_normalizer(member(document, "normalizer"), words);
  read_pre_tokenizer(member(document, "pre_tokenizer"), words);
  read_post_processor(member(document, "post_processor"), words);
  return words;
}

} // namespace slim_llm
