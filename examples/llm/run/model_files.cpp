#include "run/model_files.hpp"

#include "run/output_files.hpp"

namespace slim_llm {

bool model_files::has(std::string const& name) const {
  std::error_code ignored;
  return keeps_ ? inside_.contains(name) : std::filesystem::exists(place_ / name, ignored);
}

std::vector<std::string> model_files::names() const {
  if (!keeps_) return small_files(place_);
  std::vector<std::string> names;
  for (auto const& entry : inside_) names.push_back(entry.first);
  return names;
}

slim::result<std::string> model_files::text(std::string const& name) const {
  if (keeps_) {
    auto const found = inside_.find(name);
    if (found == inside_.end()) return slim::failure{path_of(name).string() + ": is not there"};
    return std::string(reinterpret_cast<char const*>(found->second.data()), found->second.size());
  }
  auto const file = slim::mapped_file::open(place_ / name);
  if (!file) return slim::failure{file.why()};
  return std::string(file->text());
}

slim::result<nlohmann::json> model_files::json(std::string const& name) const {
  auto const content = text(name);
  if (!content) return slim::failure{content.why()};
  return slim::parse_json(*content, path_of(name).string());
}

} // namespace slim_llm
