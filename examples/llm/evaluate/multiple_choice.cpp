#include "evaluate/multiple_choice.hpp"

#include "run/input_error.hpp"
#include "run/workspace.hpp"

#include "slim/io/json.hpp"

#include <algorithm>
#include <map>

namespace slim_llm {
namespace {

constexpr index_t length_step = 32; ///< choices of nearly the same length run together, filled up behind their ends

/// Code points that begin behind the spaces in front.
double characters_of(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  return static_cast<double>(std::count_if(text.begin(), text.end(), [](char c) { return (c & '\xc0') != '\x80'; }));
}

std::vector<int> encoded(tokenizer const& words, std::string const& text) {
  auto const ids = words.encode(text, {.special = false, .add_bos = words.adds_bos()});
  return {ids.begin(), ids.end()};
}

choice_tokens tokens_of_choice(tokenizer const& words, std::string context, std::string choice) {
  std::size_t const end = context.find_last_not_of(' ') + 1; // 0 if there are only spaces
  choice_tokens made;
  made.characters = characters_of(choice);
  choice.insert(0, context, end);
  context.resize(end);
  made.tokens = encoded(words, context + choice);
  made.context_tokens = static_cast<index_t>(encoded(words, context).size());
  return made;
}

/// The question of a line, or what is wrong with it.
slim::result<choice_question> question_of(tokenizer const& words, nlohmann::json const& line, index_t max_tokens) {
  if (!line.is_object()) return slim::failure{"is not an object"};
  for (auto const& [key, value] : line.items())
    if (key != "context" && key != "choices" && key != "answer")
      return slim::failure{"holds '" + key + "'; known are context, choices and answer"};
  auto const context = line.find("context"), choices = line.find("choices"), answer = line.find("answer");
  if (context == line.end() || !context->is_string()) return slim::failure{"'context' is not a text"};
  if (choices == line.end() || !choices->is_array() || choices->size() < 2)
    return slim::failure{"'choices' is not a list of two or more"};
  if (answer == line.end() || !answer->is_number_unsigned() || answer->get<std::size_t>() >= choices->size())
    return slim::failure{slim::message("'answer' is not the number of a choice, 0 to ", choices->size() - 1)};
  choice_question question{{}, answer->get<index_t>()};
  for (auto const& choice : *choices) {
    if (!choice.is_string() || characters_of(choice.get_ref<std::string const&>()) == 0)
      return slim::failure{"a choice is not a text, or is empty"};
    auto made = tokens_of_choice(words, context->get<std::string>(), choice.get<std::string>());
    if (made.context_tokens < 1) return slim::failure{"'context' is empty: the first token of a choice follows nothing"};
    if (std::ssize(made.tokens) <= made.context_tokens) return slim::failure{"a choice adds no token to its context"};
    if (std::ssize(made.tokens) > max_tokens)
      return slim::failure{slim::message("has ", made.tokens.size(), " tokens, the model takes ", max_tokens)};
    question.choices.push_back(std::move(made));
  }
  return question;
}

/// Choices of one padded length, and where they come from.
struct equal_lengths {
  std::vector<int> tokens;
  std::vector<std::pair<std::size_t, std::size_t>> from; ///< question and choice of every window
};

std::map<index_t, equal_lengths> by_length(std::vector<choice_question> const& questions, index_t max_positions) {
  std::map<index_t, equal_lengths> lengths;
  for (std::size_t q = 0; q < questions.size(); ++q)
    for (std::size_t c = 0; c < questions[q].choices.size(); ++c) {
      auto const& tokens = questions[q].choices[c].tokens;
      index_t length = (std::ssize(tokens) + length_step - 1) / length_step * length_step;
      if (max_positions >= std::ssize(tokens)) length = std::min(length, max_positions);
      equal_lengths& group = lengths[length];
      group.tokens.insert(group.tokens.end(), tokens.begin(), tokens.end());
      group.tokens.resize(group.tokens.size() + static_cast<std::size_t>(length - std::ssize(tokens)), tokens.back());
      group.from.emplace_back(q, c);
    }
  return lengths;
}

} // namespace

std::vector<choice_question> read_questions(tokenizer const& words, std::filesystem::path const& file, index_t max_tokens) {
  std::string const content = read_text(file);
  std::vector<choice_question> questions;
  int number = 0;
  for (std::size_t at = 0; at < content.size();) {
    std::size_t const end = std::min(content.find('\n', at), content.size());
    std::string_view const text = std::string_view(content).substr(at, end - at);
    at = end + 1;
    ++number;
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string const place = slim::message(file.string(), ": line ", number);
    auto question = question_of(words, required(slim::parse_json(text, place)), max_tokens);
    if (!question) throw input_error(place + ": " + question.why());
    questions.push_back(std::move(*question));
  }
  if (questions.empty()) throw input_error(file.string() + ": holds no question");
  return questions;
}

std::vector<std::vector<double>> choice_likelihoods(model const& m, std::vector<choice_question> const& questions,
                                                    bool states_on_disk, context const& ctx, progress const& report) {
  auto const lengths = by_length(questions, m.config.max_positions);
  std::vector<block_evaluation> runs;
  runs.reserve(lengths.size());
  for (auto const& [length, group] : lengths)
    runs.emplace_back(m, group.tokens, evaluation_config{.context = length, .states_on_disk = states_on_disk}, ctx);
  for (index_t n = 0; n < m.config.layers; ++n) {
    with_block(m, n, ctx, [&](block const& b) {
      for (block_evaluation& run : runs) run.advance(b);
    });
    if (report) report(n + 1, m.config.layers);
  }
  std::vector<std::vector<double>> likelihoods;
  for (auto const& question : questions) likelihoods.emplace_back(question.choices.size(), 0.0);
  std::size_t k = 0;
  for (auto const& same_length : lengths) {
    auto const& group = same_length.second;
    block_evaluation& run = runs[k++];
    run.visit_windows([&](index_t w, matrix_view<float const> head_in, std::span<int const> targets) {
      auto const [q, c] = group.from[static_cast<std::size_t>(w)];
      choice_tokens const& choice = questions[q].choices[c];
      index_t const first = choice.context_tokens - 1, count = std::ssize(choice.tokens) - choice.context_tokens;
      auto const wanted = targets.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
      for (double const nll : run.pass().token_nll(head_in.middle_rows(first, count), wanted)) likelihoods[q][c] -= nll;
    });
  }
  return likelihoods;
}

choice_accuracy accuracy_of(std::vector<choice_question> const& questions,
                            std::vector<std::vector<double>> const& likelihoods) {
  if (questions.size() != likelihoods.size())
    throw slim::shape_error(
        slim::message("accuracy_of: ", questions.size(), " questions, ", likelihoods.size(), " likelihoods"));
  std::vector<double> right, right_by_length;
  for (std::size_t q = 0; q < questions.size(); ++q) {
    std::vector<double> scores = likelihoods[q];
    if (scores.size() != questions[q].choices.size())
      throw slim::shape_error(slim::message("accuracy_of: question ", q, " has ", questions[q].choices.size(), " choices, ",
                                            scores.size(), " likelihoods"));
    auto const best = [&] { return std::max_element(scores.begin(), scores.end()) - scores.begin(); };
    right.push_back(best() == questions[q].answer ? 1.0 : 0.0);
    for (std::size_t c = 0; c < scores.size(); ++c) scores[c] /= questions[q].choices[c].characters;
    right_by_length.push_back(best() == questions[q].answer ? 1.0 : 0.0);
  }
  return {summarise_windows(right), summarise_windows(right_by_length)};
}

} // namespace slim_llm
