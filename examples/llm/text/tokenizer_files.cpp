// Tokenizers of Hugging Face folders: tokenizer.json, tokenizer.model, or vocab.json and merges.txt.

#include "run/model_files.hpp"
#include "text/sentencepiece_model.hpp"
#include "text/tokenizer.hpp"
#include "text/tokenizer_json.hpp"

#include <algorithm>
#include <tuple>

namespace slim_llm {
namespace {

using nlohmann::json;
using slim::failure;
using slim::message;

/// The document, or null if there is no such file. @throws unusable
json read_if_there(model_files const& files, std::string const& name) {
  if (!files.has(name)) return {};
  slim::result<json> document = files.json(name);
  require(document.has_value(), document.why());
  require(document->is_object(), message(files.path_of(name).string(), ": is not a JSON object"));
  return std::move(*document);
}

/// The content of a special token, which is a text or an object.
std::string content_of(json const& value) { return text_in(value.is_object() ? member(value, "content") : value); }

/// Lines of merges.txt.
void read_merges(std::string_view merges, vocabulary& words) {
  for (std::size_t at = 0; at < merges.size();) {
    std::size_t const end = std::min(merges.find('\n', at), merges.size());
    std::string_view line = merges.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with("#version")) words.merges.emplace_back(line);
    at = end + 1;
  }
}

/// Which rules vocab.json and merges.txt are used with: the class of the tokenizer says it, or else the model's type.
void read_class(model_files const& files, json const& settings, vocabulary& words) {
  std::string const name = text_in(member(settings, "tokenizer_class"));
  json const config = read_if_there(files, "config.json");
  std::string const type = text_in(member(config, "model_type"));
  bool const by_class = !name.empty();
  auto const is = [&](std::initializer_list<std::string_view> classes, std::initializer_list<std::string_view> types) {
    auto const among = [](auto const& list, std::string const& text) {
      return std::ranges::find(list, std::string_view(text)) != list.end();
    };
    return by_class ? among(classes, name) : among(types, type);
  };
  if (is({"Qwen2Tokenizer", "Qwen2TokenizerFast"}, {"qwen2", "qwen3", "qwen2_moe", "qwen3_moe"})) {
    words.rule = pre_tokenizer::qwen2;
    words.normalizer.push_back({normal_step::kind::nfc, {}, {}});
    return;
  }
  require(
      is({"GPT2Tokenizer", "GPT2TokenizerFast"}, {"gpt2", "opt", ""}),
      by_class
          ? message("the tokenizer class '", name, "' (tokenizer_config.json) is not known with vocab.json and merges.txt; ",
                    "GPT2Tokenizer and Qwen2Tokenizer are. A tokenizer.json would be read")
          : message(
                "vocab.json and merges.txt of a model of type '", type,
                "' without tokenizer_class (tokenizer_config.json): the rules are not known. A tokenizer.json would be read"));
  words.space_before_piece = flag_in(settings, "add_prefix_space");
}

/// Tokens written like <s> or <|endoftext|> are control tokens of GPT-2 and OPT, where no file says which are.
bool looks_special(std::string const& token) {
  return token.size() > 2 && token.front() == '<' && token.back() == '>' &&
         (token.starts_with("<|") || token == "<s>" || token == "</s>" || token == "<pad>" || token == "<unk>");
}

/// added_tokens.json, from names to ids. It does not say which are special.
void read_added_tokens_file(model_files const& files, vocabulary& words) {
  json const added = read_if_there(files, "added_tokens.json");
  std::size_t const most = most_ids(words.tokens.size() + added.size());
  for (auto const& [token, id] : added.items())
    place_added_token(words, {{"content", token}, {"special", looks_special(token)}}, id, most);
}

vocabulary from_vocab_and_merges(model_files const& files, json const& vocab, std::string_view merges, json const& settings) {
  vocabulary words;
  require(vocab.is_object(), "the vocabulary is not an object");
  std::size_t const most = most_ids(vocab.size());
  bool const listed = member(settings, "added_tokens_decoder").is_object() || files.has("added_tokens.json");
  for (auto const& [token, id] : vocab.items())
    place_token(words, token, id, most, !listed && looks_special(token) ? token_kind::control : token_kind::normal);
  read_added_tokens_file(files, words);
  read_merges(merges, words);
  read_class(files, settings, words);
  words.unknown = id_of_token(words, content_of(member(settings, "unk_token")));
  return words;
}

/// Added tokens of tokenizer_config.json. Two files may say the same of an id, or tokenizer_config.json may know more.
void read_added_tokens(json const& settings, vocabulary& words) {
  json const& decoder = member(settings, "added_tokens_decoder");
  if (!decoder.is_object()) return;
  std::size_t const most = most_ids(words.tokens.size() + decoder.size());
  for (auto const& [text, token] : decoder.items()) {
    json const id = json::parse(text, nullptr, false); // a number as a key
    require(id.is_number_unsigned(), message("added_tokens_decoder has the key '", text, "', which is no id"));
    std::string const content = text_in(member(token, "content"));
    auto const at = id.get<std::size_t>();
    require(at >= words.tokens.size() || words.tokens[at].empty() || words.tokens[at] == content,
            message("token ", at, " is '", at < words.tokens.size() ? words.tokens[at] : std::string(),
                    "' in the vocabulary and '", content, "' in added_tokens_decoder (tokenizer_config.json)"));
    place_added_token(words, token, id, most);
  }
}

/// What tokenizer_config.json says beside the vocabulary's own files.
void read_settings(json const& settings, vocabulary& words) {
  if (settings.is_null()) return;
  read_added_tokens(settings, words);
  if (auto const id = id_of_token(words, content_of(member(settings, "eos_token"))); id && !words.add_eos) words.eos = id;
  if (auto const id = id_of_token(words, content_of(member(settings, "bos_token"))); id && !words.add_bos) words.bos = id;
  for (auto const& [key, adds, id] :
       {std::tuple{"add_bos_token", &words.add_bos, &words.bos}, std::tuple{"add_eos_token", &words.add_eos, &words.eos}})
    if (json const& value = member(settings, key); value.is_boolean()) *adds = value.get<bool>() && id->has_value();
  json const& prefix = member(settings, "add_prefix_space");
  bool const bytewise = words.model == tokenizer_model::byte_bpe;
  require(!bytewise || !prefix.is_boolean() || prefix.get<bool>() == words.space_before_piece,
          "tokenizer_config.json and the vocabulary's own file differ in add_prefix_space");
  require(!flag_in(settings, "split_special_tokens"), "split_special_tokens (tokenizer_config.json) is not read");
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
  } catch (json::exception const&) {
    why = "a value has another type than expected";
  }
  bool const named = why.starts_with(path.parent_path().string() + "/");
  return failure{named ? why : message(path.string(), ": ", why)};
}

} // namespace

slim::result<tokenizer> tokenizer::from_json(std::filesystem::path const& path) {
  slim::result<json> const document = slim::read_json(path);
  if (!document) return failure{document.why()};
  return built(path, [&] { return read_tokenizer_json(*document); });
}

slim::result<tokenizer> tokenizer::from_folder(std::filesystem::path const& folder) { return from_files(model_files(folder)); }

slim::result<tokenizer> tokenizer::from_files(model_files const& files) {
  auto const with_settings = [&](std::string const& name, auto const& make) {
    return built(files.path_of(name), [&] {
      json const settings = read_if_there(files, "tokenizer_config.json");
      vocabulary words = make(settings);
      read_settings(settings, words);
      if (words.model == tokenizer_model::sentencepiece) words.scores.resize(words.tokens.size()); // of added tokens
      return words;
    });
  };
  if (std::string const name = "tokenizer.json"; files.has(name)) {
    slim::result<json> const document = files.json(name);
    if (!document) return failure{document.why()};
    return with_settings(name, [&](json const&) { return read_tokenizer_json(*document); });
  }
  if (std::string const name = "tokenizer.model"; files.has(name)) {
    slim::result<std::string> const bytes = files.text(name);
    if (!bytes) return failure{bytes.why()};
    return with_settings(name, [&](json const&) {
      slim::result<vocabulary> words = read_sentencepiece(std::as_bytes(std::span(*bytes)));
      require(words.has_value(), words.why());
      read_added_tokens_file(files, *words);
      return std::move(*words);
    });
  }
  slim::result<json> const vocab = files.json("vocab.json");
  if (!vocab)
    return failure{message(files.place().string(),
                           ": has neither tokenizer.json nor tokenizer.model nor a readable vocab.json (", vocab.why(), ")")};
  slim::result<std::string> const merges = files.text("merges.txt");
  if (!merges) return failure{merges.why()};
  return with_settings("vocab.json",
                       [&](json const& settings) { return from_vocab_and_merges(files, *vocab, *merges, settings); });
}

} // namespace slim_llm
