#include "text/tokenizer.hpp"

#include "slim/core/random.hpp"
#include "slim/io/gguf/writer.hpp"
#include "slim/io/json.hpp"
#include "support/skip.hpp"
#include "support/temporary_folder.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>

namespace {

using nlohmann::json;
using slim_llm::pre_tokenizer;
using slim_llm::token_id;
using slim_llm::token_kind;
using slim_llm::tokenizer;
using slim_llm::vocabulary;
using ids = std::vector<token_id>;
using pieces = std::vector<std::string_view>;

json golden(std::string_view name) {
  auto read = slim::read_json(std::filesystem::path(SLIM_GOLDEN_DIR) / name);
  REQUIRE(read.why() == "");
  return std::move(read).value();
}

/// The small vocabulary of tests/golden: 256 bytes, three control tokens, some merges, two tokens no merge leads to.
vocabulary small_words(json const& small, pre_tokenizer rule) {
  vocabulary words;
  words.rule = rule;
  words.tokens = small["tokens"].get<std::vector<std::string>>();
  words.merges = small["merges"].get<std::vector<std::string>>();
  for (int const kind : small["token_types"]) words.kinds.push_back(static_cast<token_kind>(kind));
  words.whole_piece_first = rule == pre_tokenizer::llama3;
  return words;
}

/// The same vocabulary as a tokenizer.json.
json small_document(json const& small, std::string const& rule) {
  json model = {{"type", "BPE"}, {"merges", small["merges"]}, {"ignore_merges", rule == "llama3"}, {"unk_token", nullptr}};
  json added = json::array();
  for (std::size_t k = 0; k < small["tokens"].size(); ++k) {
    if (small["token_types"][k] == 3) added.push_back({{"id", k}, {"content", small["tokens"][k]}, {"special", true}});
    model["vocab"][small["tokens"][k].get<std::string>()] = k;
  }
  return {{"model", model},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", small["rules"][rule]["pre_tokenizer"]}};
}

pre_tokenizer rule_named(std::string_view name) {
  return name == "gpt2"     ? pre_tokenizer::gpt2
         : name == "smollm" ? pre_tokenizer::smollm
         : name == "qwen2"  ? pre_tokenizer::qwen2
                            : pre_tokenizer::llama3;
}

/// A word of `count` letters out of the first `letters` of the alphabet.
std::string random_word(std::uint64_t seed, std::size_t count, std::uint64_t letters) {
  std::string out;
  for (std::size_t k = 0; k < count; ++k) out.push_back(static_cast<char>('a' + slim::random_bits(seed, k) % letters));
  return out;
}

/// Letters a, b, c and merges of random pairs of tokens, in random order of rank.
vocabulary random_merges(std::uint64_t seed) {
  vocabulary words;
  words.tokens = {"a", "b", "c"};
  for (std::uint64_t k = 0; words.tokens.size() < 40; ++k) {
    std::string const left = words.tokens[slim::random_bits(seed, 2 * k) % words.tokens.size()];
    std::string const right = words.tokens[slim::random_bits(seed, 2 * k + 1) % words.tokens.size()];
    if (std::ranges::find(words.tokens, left + right) != words.tokens.end()) continue;
    words.tokens.push_back(left + right);
    words.merges.push_back(left + " " + right);
  }
  auto const first = words.merges.begin() + static_cast<std::ptrdiff_t>(seed % words.merges.size());
  std::rotate(words.merges.begin(), first, words.merges.end()); // std::ranges::rotate does not compile with clang 14
  return words;
}

/// BPE by its definition: look at all pairs, join the leftmost of the lowest rank, start again.
std::vector<std::string> merged_by_definition(vocabulary const& words, std::string const& word) {
  std::vector<std::string> parts;
  for (char const c : word) parts.emplace_back(1, c);
  while (true) {
    std::size_t best = words.merges.size();
    std::size_t where = 0;
    for (std::size_t k = 0; k + 1 < parts.size(); ++k) {
      auto const found = std::ranges::find(words.merges, parts[k] + " " + parts[k + 1]);
      std::size_t const rank = static_cast<std::size_t>(found - words.merges.begin());
      if (rank < best) best = rank, where = k;
    }
    if (best == words.merges.size()) return parts;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
}

/// SentencePiece by its definition: join the leftmost pair whose union has the highest score, start again.
std::vector<std::string> joined_by_definition(vocabulary const& words, std::string const& word) {
  std::vector<std::string> parts;
  for (char const c : word) parts.emplace_back(1, c);
  while (true) {
    double best = -1e30;
    std::size_t where = parts.size();
    for (std::size_t k = 0; k + 1 < parts.size(); ++k) {
      auto const found = std::ranges::find(words.tokens, parts[k] + parts[k + 1]);
      if (found == words.tokens.end()) continue;
      double const score = static_cast<double>(words.scores[static_cast<std::size_t>(found - words.tokens.begin())]);
      if (score > best) best = score, where = k;
    }
    if (where == parts.size()) return parts;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
}

vocabulary sentencepiece_words() {
  vocabulary words;
  words.model = slim_llm::tokenizer_model::sentencepiece;
  words.spaces = slim_llm::metaspace{.even_before_space = true};
  auto const add = [&](std::string const& token, float score, token_kind kind) {
    words.tokens.push_back(token);
    words.scores.push_back(score);
    words.kinds.push_back(kind);
  };
  add("<unk>", 0, token_kind::unknown);
  add("<s>", 0, token_kind::control);
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    add(name, 0, token_kind::byte);
  }
  std::string const space = "\xe2\x96\x81";
  add(space, -10, token_kind::normal);
  for (char const* const token : {"h", "e", "l", "o"}) add(token, -10, token_kind::normal);
  add("ll", -3, token_kind::normal);
  add("he", -1, token_kind::normal);
  add("hell", -2, token_kind::normal);
  add("lo", -1, token_kind::normal); // better than "ll": h e l lo
  add(space + "he", -5, token_kind::normal);
  words.unknown = 0;
  words.bos = 1;
  return words;
}

std::vector<std::string> spelled(tokenizer const& words, ids const& found) {
  std::vector<std::string> out;
  for (token_id const id : found) out.push_back(words.words().tokens[static_cast<std::size_t>(id)]);
  return out;
}

} // namespace

TEST_CASE("a small vocabulary gives the ids of the tokenizers package under all four pre-tokenizers") {
  json const small = golden("small_tokenizer.json");
  slim_test::temporary_folder const folder;
  for (auto const& [name, rule] : small["rules"].items()) {
    INFO(name);
    auto const built = tokenizer::build(small_words(small, rule_named(name)));
    REQUIRE(built.why() == "");
    slim_test::write_file(folder / "tokenizer.json", small_document(small, name).dump());
    auto const read = tokenizer::from_folder(folder.path());
    REQUIRE(read.why() == "");
    for (std::size_t k = 0; k < small["strings"].size(); ++k) {
      std::string const text = small["strings"][k].get<std::string>();
      INFO(text);
      ids const expected = rule["ids"][k].get<ids>();
      REQUIRE(built->encode(text) == expected);
      REQUIRE(read->encode(text) == expected);
      REQUIRE(built->decode(expected) == text);
    }
  }
}

TEST_CASE("folders of every kind give the ids of the tokenizers package") {
  auto const from_hex = [](std::string const& hex) {
    std::string bytes;
    for (std::size_t k = 0; k + 1 < hex.size(); k += 2)
      bytes.push_back(static_cast<char>(std::stoi(hex.substr(k, 2), nullptr, 16)));
    return bytes;
  };
  for (json const& kind : golden("folder_ids.json")) {
    INFO(kind["name"]);
    slim_test::temporary_folder const folder;
    for (auto const& [name, content] : kind["files"].items()) {
      auto const text = content.get<std::string>();
      slim_test::write_file(folder / name, name.ends_with(".model") ? from_hex(text) : text);
    }
    auto const words = tokenizer::from_folder(folder.path());
    REQUIRE(words.why() == "");
    for (std::size_t k = 0; k < kind["strings"].size(); ++k) {
      auto const text = kind["strings"][k].get<std::string>();
      INFO(text);
      REQUIRE(words->encode(text) == kind["ids"][k].get<ids>());
      if (text.find('<') == std::string::npos && !std::string(kind["name"]).ends_with("unknown") &&
          words->words().model != slim_llm::tokenizer_model::byte_bpe && text.find("\xe2\x96\x81") == std::string::npos &&
          !text.starts_with(' '))
        CHECK(words->decode(words->encode(text)) == text);
    }
  }
}

TEST_CASE("a damaged or unusual tokenizer.model gives a tokenizer or a sentence naming the file") {
  std::string good;
  for (json const& kind : golden("folder_ids.json"))
    if (kind["name"] == "sentencepiece") {
      auto const hex = kind["files"]["tokenizer.model"].get<std::string>();
      for (std::size_t k = 0; k + 1 < hex.size(); k += 2)
        good.push_back(static_cast<char>(std::stoi(hex.substr(k, 2), nullptr, 16)));
    }
  slim_test::temporary_folder const folder;
  auto const why = [&](std::string const& bytes) {
    slim_test::write_file(folder / "tokenizer.model", bytes);
    auto const words = tokenizer::from_folder(folder.path());
    if (words) (void)words->encode("a b <s> \u00e9");
    if (!words) CHECK_THAT(words.why(), Catch::Contains("tokenizer.model: "));
    return words.why();
  };
  CHECK(why(good) == "");
  CHECK(tokenizer::from_folder(folder.path())->bos() == 1);
  CHECK(tokenizer::from_folder(folder.path())->adds_bos());
  CHECK_THAT(why(""), Catch::Contains("no pieces"));
  // A later message of a protocol buffer overrides fields of an earlier one: 0x12 trainer_spec, 0x1a normalizer_spec.
  CHECK_THAT(why(good + std::string("\x12\x02\x18\x01", 4)), Catch::Contains("Unigram"));
  CHECK_THAT(why(good + std::string("\x1a\x02\x20\x01", 4)), Catch::Contains("remove_extra_whitespaces"));
  CHECK_THAT(why(good + std::string("\x1a\x03\x12\x01x", 5)), Catch::Contains("identity"));
  CHECK_THAT(why(good + std::string("\x12\x03\xc0\x01\x01", 5)), Catch::Contains("treat_whitespace_as_suffix"));
  CHECK_THAT(why(good + std::string("\x0a\x02\x18\x05", 4)), Catch::Contains("unused"));
  CHECK_THAT(why(good + std::string("\x12\x7f", 2)), Catch::Contains("damaged"));
  slim_test::write_file(folder / "tokenizer_config.json", R"({"add_bos_token": false})");
  slim_test::write_file(folder / "tokenizer.model", good);
  CHECK_FALSE(tokenizer::from_folder(folder.path())->adds_bos());
  for (std::size_t k = 0; k < 500; ++k) {
    std::string bytes = good;
    std::size_t const at = slim::random_bits(6, 3 * k) % bytes.size();
    bytes[at] = static_cast<char>(slim::random_bits(6, 3 * k + 1));
    (void)why(bytes);
    (void)why(good.substr(0, at));
  }
}

TEST_CASE("SmolLM2's own vocabulary gives the ids of the tokenizers package on hard strings") {
  char const* const model = std::getenv("SLIM_MODEL");
  if (!model || !std::filesystem::exists(model)) return slim_test::skip("SLIM_MODEL does not name the SmolLM2 GGUF file");
  auto const file = slim::gguf_file::open(model);
  REQUIRE(file.why() == "");
  auto const words = tokenizer::from_gguf(*file);
  REQUIRE(words.why() == "");
  CHECK(words->size() == 49152);
  CHECK_FALSE(words->adds_bos());
  json const expected = golden("smollm2_ids.json");
  for (std::size_t k = 0; k < expected["strings"].size(); ++k) {
    INFO(expected["strings"][k]);
    REQUIRE(words->encode(expected["strings"][k].get<std::string>()) == expected["ids"][k].get<ids>());
  }
}

TEST_CASE("text is cut as the published expressions cut it") {
  auto const cut = [](pre_tokenizer rule, std::string_view text) { return slim_llm::split(rule, text); };
  CHECK(cut(pre_tokenizer::gpt2, "I'll pay 100  dollars \n now") ==
        pieces{"I", "'ll", " pay", " 100", " ", " dollars", " \n", " now"});
  CHECK(cut(pre_tokenizer::gpt2, "a   b") == pieces{"a", "  ", " b"});
  CHECK(cut(pre_tokenizer::gpt2, "a\n\nb  ") == pieces{"a", "\n", "\n", "b", "  "});
  CHECK(cut(pre_tokenizer::smollm, "in 2000 ,") == pieces{"in", " ", "2", "0", "0", "0", " ,"});
  CHECK(cut(pre_tokenizer::smollm, "a  1") == pieces{"a", "  ", "1"}); // the run of spaces ends at the digit
  CHECK(cut(pre_tokenizer::qwen2, "a 12\n\n  b") == pieces{"a", " ", "1", "2", "\n\n", " ", " b"});
  CHECK(cut(pre_tokenizer::llama3, "I'LL 12345.\n x") == pieces{"I", "'LL", " ", "123", "45", ".\n", " x"});
  CHECK(cut(pre_tokenizer::llama3, "(word) ") == pieces{"(word", ")", " "});
  CHECK(cut(pre_tokenizer::gpt2, "").empty());
}

TEST_CASE("the pieces of any text, joined, are the text") {
  std::string const alphabet[] = {" ",      "\n", "\r",     "'s",         "1",      "a",      "\u00e9",
                                  "\u4e2d", ".",  "\u00a0", "\U0001f600", "\u0301", "\u0663", "'"};
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    std::string text;
    for (std::uint64_t k = 0; k < seed % 40; ++k) text += alphabet[slim::random_bits(seed, k) % std::size(alphabet)];
    for (auto const rule : {pre_tokenizer::gpt2, pre_tokenizer::smollm, pre_tokenizer::qwen2, pre_tokenizer::llama3}) {
      std::string joined;
      for (std::string_view const piece : slim_llm::split(rule, text)) {
        REQUIRE_FALSE(piece.empty());
        joined += piece;
      }
      REQUIRE(joined == text);
    }
  }
}

TEST_CASE("invalid UTF-8 becomes U+FFFD, one for each maximal part, as in Python and Rust") {
  std::string const r = "\xef\xbf\xbd";
  std::pair<std::string, std::string> const cases[] = {// Python's bytes.decode("utf-8", "replace")
                                                       {"a\xff"
                                                        "b",
                                                        "a" + r + "b"},
                                                       {"\xc3", r},
                                                       {"\xc3(", r + "("},
                                                       {"\xe2\x82", r},
                                                       {"\xe2\x82x", r + "x"},
                                                       {"\xf0\x9f\x98", r},
                                                       {"\xf0\x80\x80"
                                                        "A",
                                                        r + r + r + "A"},
                                                       {"\xed\xa0\x80", r + r + r},
                                                       {"\xf4\x90\x80\x80", r + r + r + r},
                                                       {"\xc0\xaf", r + r},
                                                       {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf"
                                                        "A",
                                                        r + r + r + r + "A"},
                                                       {"\u00e9\U0010ffff", "\u00e9\U0010ffff"},
                                                       {"", ""}};
  for (auto const& [bytes, expected] : cases) CHECK(slim_llm::valid_utf8(bytes) == expected);
  auto const words = tokenizer::build(small_words(golden("small_tokenizer.json"), pre_tokenizer::smollm));
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::string bytes;
    for (std::uint64_t k = 0; k < 40; ++k)
      bytes.push_back(static_cast<char>(slim::random_bits(seed, k) & (seed % 2 ? 0xff : 0xcf)));
    std::string const valid = slim_llm::valid_utf8(bytes);
    REQUIRE(slim_llm::valid_utf8(valid) == valid);
    REQUIRE(words->decode(words->encode(bytes)) == valid);
  }
}

TEST_CASE("merging with a heap is merging by the definition") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    vocabulary const rules = random_merges(seed);
    auto const words = tokenizer::build(rules);
    REQUIRE(words.why() == "");
    for (std::size_t length = 0; length < 60; length += 7) {
      std::string const word = random_word(seed * 100 + length, length, 3);
      INFO(word);
      REQUIRE(spelled(*words, words->encode(word)) == merged_by_definition(rules, word));
    }
  }
}

TEST_CASE("SentencePiece joins by score, puts a space in front and falls back to bytes") {
  auto const words = tokenizer::build(sentencepiece_words());
  REQUIRE(words.why() == "");
  std::string const space = "\xe2\x96\x81";
  CHECK(spelled(*words, words->encode("hello")) == std::vector<std::string>{space + "he", "l", "lo"});
  CHECK(spelled(*words, words->encode("hell")) == std::vector<std::string>{space, "hell"}); // he, ll, hell before the space
  CHECK(spelled(*words, words->encode("\u00e9h")) == std::vector<std::string>{space, "<0xC3>", "<0xA9>", "h"});
  CHECK(spelled(*words, words->encode("he<s>he")) == std::vector<std::string>{space + "he", "<s>", space + "he"});
  CHECK(words->encode("", {.add_bos = true}) == ids{1});
  CHECK(words->decode(words->encode("hello \u00e9\n  lo")) == "hello \u00e9\n  lo");
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    vocabulary scored = random_merges(seed);
    scored.merges.clear();
    scored.model = slim_llm::tokenizer_model::sentencepiece;
    for (std::size_t k = 0; k < scored.tokens.size(); ++k)
      scored.scores.push_back(-static_cast<float>(slim::random_bits(seed, 1000 + k) % 10)); // many ties: the leftmost wins
    auto const by_score = tokenizer::build(scored);
    std::string const word = random_word(seed, 50, 3);
    REQUIRE(spelled(*by_score, by_score->encode(word)) == joined_by_definition(scored, word));
  }
}

TEST_CASE("control tokens in a text: the longest wins, and they can be switched off") {
  vocabulary words;
  words.tokens = {"<", "e", ">", "<e>", "<e>>", "ee"};
  words.kinds = {token_kind::normal,  token_kind::normal,  token_kind::normal,
                 token_kind::control, token_kind::control, token_kind::user_defined};
  words.bos = 3;
  auto const built = tokenizer::build(words);
  REQUIRE(built.why() == "");
  CHECK(built->encode("<e>e") == ids{3, 1});
  CHECK(built->encode("<e>>>") == ids{4, 2});
  CHECK(built->encode("<e>ee", {.special = false}) == ids{0, 1, 2, 5}); // user-defined tokens are ordinary words
  CHECK(built->encode("e", {.add_bos = true}) == ids{3, 1});
  CHECK(built->encode("x<") == ids{0}); // no token for x, and no unknown token
  words.unknown = 1;
  CHECK(tokenizer::build(words)->encode("x<") == ids{1, 0});
  CHECK(built->decode(ids{3, -1, 99, 1}) == "<e>e");
  CHECK(built->find("ee") == 5);
  CHECK_FALSE(built->find("nothing").has_value());
}

TEST_CASE("a vocabulary that does not fit together is refused with the reason") {
  auto const why = [](auto const& change) {
    vocabulary words;
    words.tokens = {"a", "b", "ab"};
    words.merges = {"a b"};
    change(words);
    return tokenizer::build(words).why();
  };
  CHECK(why([](vocabulary&) {}) == "");
  CHECK_THAT(why([](vocabulary& w) { w.tokens.clear(); }), Catch::Contains("empty"));
  CHECK_THAT(why([](vocabulary& w) { w.kinds = {token_kind::normal}; }), Catch::Contains("3 tokens and 1 token types"));
  CHECK_THAT(why([](vocabulary& w) { w.merges = {"a c"}; }), Catch::Contains("joins a token that does not exist"));
  CHECK_THAT(why([](vocabulary& w) { w.merges = {"b a"}; }), Catch::Contains("makes a token that does not exist"));
  CHECK_THAT(why([](vocabulary& w) { w.merges = {"ab"}; }), Catch::Contains("is not two tokens"));
  CHECK_THAT(why([](vocabulary& w) { w.merges = {""}; }), Catch::Contains("is not two tokens"));
  CHECK_THAT(why([](vocabulary& w) { w.bos = 3; }), Catch::Contains("bos token has id 3"));
  CHECK_THAT(why([](vocabulary& w) { w.model = slim_llm::tokenizer_model::sentencepiece; }), Catch::Contains("0 scores"));
}

TEST_CASE("GGUF metadata that lacks or misspells the tokenizer is a sentence") {
  slim_test::temporary_folder const folder;
  auto const why = [&](auto const& change) {
    slim::gguf_writer writer;
    writer.set("tokenizer.ggml.model", "gpt2");
    writer.set("tokenizer.ggml.pre", "smollm");
    writer.set("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab"});
    writer.set("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
    change(writer);
    REQUIRE(writer.write(folder / "m.gguf").why() == "");
    auto const file = slim::gguf_file::open(folder / "m.gguf");
    REQUIRE(file.why() == "");
    return tokenizer::from_gguf(*file).why();
  };
  CHECK(why([](auto&) {}) == "");
  CHECK_THAT(why([](auto& w) { w.erase("tokenizer.ggml.model"); }), Catch::Contains("'tokenizer.ggml.model' is missing"));
  CHECK_THAT(why([](auto& w) { w.set("tokenizer.ggml.model", "t5"); }), Catch::Contains("'t5' is not read"));
  CHECK_THAT(why([](auto& w) { w.set("tokenizer.ggml.pre", "odd"); }), Catch::Contains("'odd' is not known"));
  CHECK_THAT(why([](auto& w) { w.set("tokenizer.ggml.tokens", std::vector<int>{1}); }), Catch::Contains("array of i32"));
  CHECK_THAT(why([](auto& w) { w.set("tokenizer.ggml.bos_token_id", std::uint32_t{7}); }),
             Catch::Contains("bos token has id 7"));
  CHECK_THAT(why([](auto& w) { w.set("tokenizer.ggml.token_type", std::vector<std::int32_t>{1}); }),
             Catch::Contains("1 token types"));
  CHECK_THAT(why([](auto& w) { w.set("tokenizer.ggml.model", "llama"); }), Catch::Contains("0 scores"));
}

TEST_CASE("a damaged or unusual tokenizer.json gives a tokenizer or a sentence naming the file") {
  json const small = golden("small_tokenizer.json");
  slim_test::temporary_folder const folder;
  auto const why = [&](std::string const& text) {
    slim_test::write_file(folder / "tokenizer.json", text);
    std::string const reason = tokenizer::from_json(folder / "tokenizer.json").why();
    if (!reason.empty()) CHECK_THAT(reason, Catch::Contains("tokenizer.json: "));
    return reason;
  };
  json const good = small_document(small, "llama3");
  auto const changed = [&](char const* pointer, json value) {
    json document = good;
    document[json::json_pointer(pointer)] = std::move(value);
    return why(document.dump());
  };
  CHECK(why(good.dump()) == "");
  CHECK_THAT(changed("/model/type", "Unigram"), Catch::Contains("not BPE"));
  CHECK_THAT(changed("/model/merges/0", 3), Catch::Contains("neither a string nor a pair"));
  CHECK_THAT(changed("/model/vocab/far", std::uint64_t{1} << 40), Catch::Contains("'far'"));
  CHECK_THAT(changed("/model/vocab/far", -1), Catch::Contains("'far'"));
  CHECK_THAT(changed("/normalizer", {{"type", "Lowercase"}}), Catch::Contains("Lowercase"));
  CHECK_THAT(changed("/pre_tokenizer/pretokenizers/0/pattern/Regex", "x+"), Catch::Contains("x+"));
  CHECK_THAT(changed("/pre_tokenizer", {{"type", "Whitespace"}}), Catch::Contains("'Whitespace' is not read"));
  CHECK_THAT(changed("/added_tokens/0/content", 5), Catch::Contains("no content"));
  CHECK(changed("/post_processor",
                {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<|endoftext|>"}}}}}}}) == "");
  CHECK(tokenizer::from_json(folder / "tokenizer.json")->adds_bos());
  auto const special = [](char const* name) { return json{{"SpecialToken", {{"id", name}}}}; };
  json const sequence = {{"Sequence", {{"id", "A"}}}};
  auto const with_template = [&](json const& single) {
    return changed("/post_processor",
                   {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", {{"x", {{"ids", {9}}}}}}});
  };
  CHECK(with_template({special("x"), sequence, special("<|im_end|>")}) == "");
  auto const both = tokenizer::from_json(folder / "tokenizer.json");
  CHECK(both->bos() == 9);
  CHECK(both->adds_eos());
  CHECK(both->eos() == both->find("<|im_end|>"));
  CHECK_THAT(with_template({special("x"), special("x"), sequence}), Catch::Contains("several tokens before"));
  CHECK_THAT(with_template({special("nobody"), sequence}), Catch::Contains("'nobody' is not in the vocabulary"));
  CHECK_THAT(changed("/post_processor", {{"type", "Odd"}}), Catch::Contains("'Odd' is not read"));
  CHECK_THAT(changed("/post_procesor", {{"type", "Odd"}}), Catch::Contains("'post_procesor'"));
  CHECK_THAT(changed("/model/byte_fallback", true), Catch::Contains("byte_fallback behind ByteLevel"));
  CHECK_THAT(changed("/pre_tokenizer/pretokenizers/0/invert", true), Catch::Contains("is not that of"));
  json inverted = good; // as tiktoken's vocabularies are converted: what matches no pattern is removed, which is nothing
  inverted["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed";
  inverted["pre_tokenizer"]["pretokenizers"][0]["invert"] = true;
  CHECK(why(inverted.dump()) == "");
  CHECK_THAT(changed("/model/dropout", 0.1), Catch::Contains("dropout"));
  CHECK_THAT(changed("/model/vocabulary", 1), Catch::Contains("'vocabulary'"));
  CHECK_THAT(changed("/added_tokens/0/stripped", true), Catch::Contains("'stripped'"));
  CHECK_THAT(changed("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}}),
             Catch::Contains("'last'"));
  CHECK_THAT(changed("/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", " +"}}}, {"content", ""}}),
             Catch::Contains("plain strings"));
  std::string const text = good.dump();
  for (std::size_t k = 0; k < 300; ++k) {
    std::string bytes = text;
    std::size_t const at = slim::random_bits(5, 2 * k) % bytes.size();
    bytes[at] = static_cast<char>("\"{}[],:0\xffx"[slim::random_bits(5, 2 * k + 1) % 10]);
    (void)why(bytes);
    (void)why(text.substr(0, at));
  }
}

TEST_CASE("vocab.json and merges.txt of GPT-2 and OPT make a tokenizer with their bos token") {
  slim_test::temporary_folder const folder;
  slim_test::write_file(folder / "vocab.json", R"({"<s>":0,"<pad>":1,"</s>":2,"a":3,"b":4,"ab":5})");
  slim_test::write_file(folder / "merges.txt", "#version: 0.2\r\na b\r\n");
  slim_test::write_file(folder / "tokenizer_config.json",
                        R"({"add_bos_token":true,"bos_token":{"content":"</s>"},"eos_token":"</s>"})");
  auto const words = tokenizer::from_folder(folder.path());
  REQUIRE(words.why() == "");
  CHECK(words->encode("ab<pad>a") == ids{5, 1, 3});
  CHECK(words->bos() == 2);
  CHECK(words->adds_bos());
  auto const why = [&](char const* settings, char const* config) {
    slim_test::write_file(folder / "tokenizer_config.json", settings);
    slim_test::write_file(folder / "config.json", config);
    return tokenizer::from_folder(folder.path()).why();
  };
  CHECK(why(R"({"tokenizer_class": "GPT2Tokenizer"})", R"({"model_type": "llama"})") == "");
  CHECK(tokenizer::from_folder(folder.path())->words().rule == pre_tokenizer::gpt2);
  CHECK(why(R"({"tokenizer_class": "Qwen2TokenizerFast"})", "{}") == "");
  CHECK(tokenizer::from_folder(folder.path())->words().rule == pre_tokenizer::qwen2);
  CHECK(why("{}", R"({"model_type": "qwen2"})") == "");
  CHECK(tokenizer::from_folder(folder.path())->words().rule == pre_tokenizer::qwen2);
  CHECK_THAT(why(R"({"tokenizer_class": "CodeGenTokenizer"})", R"({"model_type": "opt"})"),
             Catch::Contains("'CodeGenTokenizer'"));
  CHECK_THAT(why("{}", R"({"model_type": "bart"})"), Catch::Contains("'bart'"));
  CHECK_THAT(why(R"({"split_special_tokens": true})", "{}"), Catch::Contains("split_special_tokens"));
  CHECK_THAT(why(R"({"added_tokens_decoder": {"3": {"content": "b"}}})", "{}"), Catch::Contains("token 3 is 'a'"));
  CHECK(why(R"({"added_tokens_decoder": {"6": {"content": "new", "special": true}}})", "{}") == "");
  CHECK(tokenizer::from_folder(folder.path())->encode("anewb") == ids{3, 6, 4});
  std::filesystem::remove(folder / "merges.txt");
  CHECK_THAT(tokenizer::from_folder(folder.path()).why(), Catch::Contains("merges.txt"));
  std::filesystem::remove(folder / "vocab.json");
  CHECK_THAT(tokenizer::from_folder(folder.path()).why(), Catch::Contains("neither tokenizer.json"));
}

TEST_CASE("one endless word takes time n log n, not n^2") {
  auto const words = tokenizer::build(random_merges(3));
  auto const seconds = [&](std::size_t length) {
    std::string const word = random_word(9, length, 3);
    auto const start = std::chrono::steady_clock::now();
    CHECK_FALSE(words->encode(word).empty());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  CHECK(seconds(500000) < 30.0); // about 0.2 s; the square would take hours
}
