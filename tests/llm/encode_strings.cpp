// encode_strings VOCABULARY [plain]: a JSON array of strings in hexadecimal (any bytes) on standard input becomes a JSON
// array of id arrays on standard output. VOCABULARY: a .gguf file, a tokenizer.json or a folder. `plain`: control tokens
// are ordinary text. For tests/golden/tokenizer_oracle.py.

#include "text/tokenizer.hpp"

#include <chrono>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace {

slim::result<slim_llm::tokenizer> open_vocabulary(std::filesystem::path const& path) {
  if (std::filesystem::is_directory(path)) return slim_llm::tokenizer::from_folder(path);
  if (path.extension() == ".json") return slim_llm::tokenizer::from_json(path);
  auto const file = slim::gguf_file::open(path);
  if (!file) return slim::failure{file.why()};
  return slim_llm::tokenizer::from_gguf(*file);
}

std::string from_hex(std::string const& hex) {
  std::string out;
  for (std::size_t k = 0; k + 1 < hex.size(); k += 2)
    out.push_back(static_cast<char>(std::stoi(hex.substr(k, 2), nullptr, 16)));
  return out;
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  auto const words = open_vocabulary(argv[1]);
  if (!words) {
    std::cerr << words.why() << "\n";
    return 1;
  }
  slim_llm::encode_options const options{.special = argc < 3};
  std::string const input((std::istreambuf_iterator<char>(std::cin)), {});
  nlohmann::json out = nlohmann::json::array();
  double seconds = 0;
  for (auto const& hex : nlohmann::json::parse(input)) {
    std::string const text = from_hex(hex.get<std::string>());
    auto const start = std::chrono::steady_clock::now();
    std::vector<slim_llm::token_id> const ids = words->encode(text, options);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    out.push_back(ids);
  }
  std::cerr << seconds << "\n";
  std::cout << out.dump() << "\n";
}
