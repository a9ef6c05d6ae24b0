// Tokenizers of Hugging Face folders: tokenizer.json, or vocab.json and merges.txt.

#include "slim/io/json.hpp"
#include "text/tokenizer.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

using nlohmann::json;
using slim::failure;
using slim::message;

/// A model file does not describe what we can do. Thrown and caught inside this file only.
struct unusable {
  std::string why;
};

void require(bool condition, std::string const& why) {
  if (!condition) throw unusable{why};
}

json const& member(json const& object, char const* name) {
  static json const none;
  if (!object.is_object()) return none;
  auto const at = object.find(name);
  return at == object.end() ? none : *at;
}

bool flag(json const& object, char const* name) {
  json const& value = member(object, name);
  return value.is_boolean() && value.get<bool>();
}

std::string text(json const& value) { return value.is_string() ? value.get<std::string>() : std::string(); }

// The two patterns that are used with Split, as tokenizer.json spells them.
constexpr std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Which of our rules a `pre_tokenizer` object is.
pre_tokenizer rule_of(json const& value) {
  std::vector<json> steps;
  if (text(member(value, "type")) == "Sequence")
    for (json const& step : member(value, "pretokenizers")) steps.push_back(step);
  else
    steps.push_back(value);
  require(!steps.empty() && text(member(steps.back(), "type")) == "ByteLevel", "the pre-tokenizer does not end with ByteLevel");
  require(!flag(steps.back(), "add_prefix_space"), "ByteLevel with add_prefix_space is not read");
  json const& use_regex = member(steps.back(), "use_regex");
  bool const gpt2_pattern = !use_regex.is_boolean() || use_regex.get<bool>(); // absent means true
  if (steps.size() == 1 && gpt2_pattern) return pre_tokenizer::gpt2;
  std::string const first = text(member(steps.front(), "type"));
  if (steps.size() == 2 && gpt2_pattern && first == "Digits" && flag(steps.front(), "individual_digits"))
    return pre_tokenizer::smollm;
  if (steps.size() == 2 && !gpt2_pattern && first == "Split" && text(member(steps.front(), "behavior")) == "Isolated" &&
      !flag(steps.front(), "invert")) {
    std::string const pattern = text(member(member(steps.front(), "pattern"), "Regex"));
    if (pattern == qwen2_pattern) return pre_tokenizer::qwen2;
    if (pattern == llama3_pattern) return pre_tokenizer::llama3;
    throw unusable{message("the pre-tokenizer pattern is not one that is known: ", pattern)};
  }
  throw unusable{"the pre-tokenizer is not that of GPT-2, SmolLM, Qwen2 or Llama 3"};
}

/// Puts a token at its id; the list grows as needed, in proportion to the number of tokens (`most`).
void place(vocabulary& words, std::string const& token, json const& id, std::size_t most, token_kind kind) {
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

void read_bpe(json const& model, std::size_t most, vocabulary& words) {
  require(text(member(model, "type")) == "BPE" || member(model, "type").is_null(), "the tokenizer's model is not BPE");
  for (char const* const name : {"continuing_subword_prefix", "end_of_word_suffix"})
    require(text(member(model, name)).empty(), message("BPE with ", name, " is not read"));
  require(!flag(model, "byte_fallback"), "BPE with byte_fallback is not read; take the model's GGUF file");
  require(member(model, "vocab").is_object() && member(model, "merges").is_array(), "the BPE model lacks vocab or merges");
  for (auto const& [token, id] : member(model, "vocab").items()) place(words, token, id, most, token_kind::normal);
  for (json const& merge : member(model, "merges")) {
    bool const pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    require(pair || merge.is_string(), "a merge is neither a string nor a pair of strings");
    words.merges.push_back(pair ? message(merge[0].get<std::string>(), " ", merge[1].get<std::string>())
                                : merge.get<std::string>());
  }
  words.whole_piece_first = flag(model, "ignore_merges");
}

void read_added_tokens(json const& list, std::size_t most, vocabulary& words) {
  for (json const& token : list) {
    require(member(token, "content").is_string(), "an added token has no content");
    bool const special = flag(token, "special");
    place(words, text(member(token, "content")), member(token, "id"), most,
          special ? token_kind::control : token_kind::user_defined);
    require(!flag(token, "single_word"), "added tokens with single_word are not read");
    if (flag(token, "lstrip")) words.strip_left.push_back(member(token, "id").get<token_id>());
    if (flag(token, "rstrip")) words.strip_right.push_back(member(token, "id").get<token_id>());
  }
}

void read_normalizer(json const& value, vocabulary& words) {
  std::string const type = text(member(value, "type"));
  if (type == "NFC")
    words.compose = true;
  else
    require(value.is_null() || (type == "Sequence" && member(value, "normalizers").empty()),
            message("the normalizer '", type, "' is not read"));
}

std::optional<token_id> id_of(vocabulary const& words, std::string const& token) {
  auto const at = std::ranges::find(words.tokens, token);
  if (token.empty() || at == words.tokens.end()) return std::nullopt;
  return static_cast<token_id>(at - words.tokens.begin());
}

/// A template that begins with a special token (Llama 3, OPT) tells which one is put before a text.
void read_post_processor(json const& value, vocabulary& words) {
  if (text(member(value, "type")) == "Sequence")
    for (json const& step : member(value, "processors")) read_post_processor(step, words);
  if (text(member(value, "type")) != "TemplateProcessing") return;
  json const& single = member(value, "single");
  if (!single.is_array() || single.empty()) return;
  if (auto const id = id_of(words, text(member(member(single[0], "SpecialToken"), "id")))) {
    words.bos = id;
    words.add_bos = true;
  }
}

/// Room for ids: every token its own, and some that nobody uses.
std::size_t most_ids(json const& vocab, json const& added) { return vocab.size() + added.size() + 65536; }

vocabulary from_document(json const& document) {
  vocabulary words;
  json const& model = member(document, "model");
  json const& added = member(document, "added_tokens");
  std::size_t const most = most_ids(member(model, "vocab"), added);
  read_bpe(model, most, words);
  if (added.is_array()) read_added_tokens(added, most, words);
  read_normalizer(member(document, "normalizer"), words);
  words.rule = rule_of(member(document, "pre_tokenizer"));
  words.unknown = id_of(words, text(member(model, "unk_token")));
  read_post_processor(member(document, "post_processor"), words);
  return words;
}

/// vocab.json and merges.txt of GPT-2 and OPT. Tokens written like <s> or <|endoftext|> are control tokens there.
vocabulary from_vocab_and_merges(json const& vocab, std::string_view merges) {
  vocabulary words;
  require(vocab.is_object(), "the vocabulary is not an object");
  for (auto const& [token, id] : vocab.items()) {
    bool const control = token.size() > 2 && token.front() == '<' && token.back() == '>' &&
                         (token.starts_with("<|") || token == "<s>" || token == "</s>" || token == "<pad>" || token == "<unk>");
    place(words, token, id, vocab.size() + 65536, control ? token_kind::control : token_kind::normal);
  }
  for (std::size_t at = 0; at < merges.size();) {
    std::size_t const end = std::min(merges.find('\n', at), merges.size());
    std::string_view line = merges.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with("#version")) words.merges.emplace_back(line);
    at = end + 1;
  }
  return words;
}

/// bos, eos and add_bos of tokenizer_config.json, where it exists and says so.
void read_config(std::filesystem::path const& path, vocabulary& words) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return;
  slim::result<json> const config = slim::read_json(path);
  require(config.has_value(), config.why());
  auto const token = [&](char const* name) {
    json const& value = member(*config, name);
    return id_of(words, text(value.is_object() ? member(value, "content") : value));
  };
  if (auto const id = token("bos_token")) words.bos = id;
  if (auto const id = token("eos_token")) words.eos = id;
  if (json const& value = member(*config, "add_bos_token"); value.is_boolean()) words.add_bos = value.get<bool>() && words.bos;
}

/// Runs `make`, which returns a vocabulary or throws `unusable`; every failure names the file.
template <class Make>
slim::result<tokenizer> built(std::filesystem::path const& path, Make const& make) {
  std::string why;
  try {
    slim::result<tokenizer> out = tokenizer::build(make());
    if (out) return out;
    why = out.why();
  } catch (unusable const& problem) {
    why = problem.why;
  } catch (json::exception const& problem) {
    why = problem.what();
  }
  return failure{why.starts_with(path.string()) ? why : message(path.string(), ": ", why)};
}

} // namespace

slim::result<tokenizer> tokenizer::from_json(std::filesystem::path const& path) {
  slim::result<json> const document = slim::read_json(path);
  if (!document) return failure{document.why()};
  return built(path, [&] { return from_document(*document); });
}

slim::result<tokenizer> tokenizer::from_folder(std::filesystem::path const& folder) {
  std::error_code ignored;
  std::filesystem::path const config = folder / "tokenizer_config.json";
  if (std::filesystem::exists(folder / "tokenizer.json", ignored)) {
    slim::result<json> const document = slim::read_json(folder / "tokenizer.json");
    if (!document) return failure{document.why()};
    return built(folder / "tokenizer.json", [&] {
      vocabulary words = from_document(*document);
      read_config(config, words);
      return words;
    });
  }
  slim::result<json> const vocab = slim::read_json(folder / "vocab.json");
  if (!vocab)
    return failure{message(folder.string(), ": has neither tokenizer.json nor a readable vocab.json (", vocab.why(), ")")};
  slim::result<slim::mapped_file> const merges = slim::mapped_file::open(folder / "merges.txt");
  if (!merges) return failure{merges.why()};
  return built(folder / "vocab.json", [&] {
    vocabulary words = from_vocab_and_merges(*vocab, merges->text());
    read_config(config, words);
    return words;
  });
}

} // namespace slim_llm
