#include "commands.hpp"
#include "formats/lossless_file.hpp"
#include "run/help_text.hpp"
#include "run/json_output.hpp"
#include "run/output_files.hpp"
#include "run/table.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace slim_llm {

void pack_command::run() const {
  file_plan files;
  files.reads_file("the model", model);
  files.writes_file("the packed file", out);
  files.writes_text("--json", json);
  files.check();
  auto const shares = write_lossless(model, out);
  lossless_share all{"all"};
  table rows({"type", "bytes", "packed", "share"});
  auto const add = [&](lossless_share const& one) {
    rows.add({one.type, readable_bytes(static_cast<double>(one.bytes)), readable_bytes(static_cast<double>(one.coded)),
              fixed(static_cast<double>(one.coded) / static_cast<double>(one.bytes), 4)});
  };
  nlohmann::json list = nlohmann::json::array();
  for (auto const& one : shares) {
    all.bytes += one.bytes;
    all.coded += one.coded;
    add(one);
    list.push_back({{"type", one.type}, {"bytes", one.bytes}, {"packed", one.coded}});
  }
  add(all);
  std::printf("%s%s gives every byte back: slim-llm unpack %s FILE.gguf\n", rows.text().c_str(), out.c_str(),
              shell_quoted(out.string()).c_str());
  if (!json.empty())
    write_json(json, {{"model", model.string()}, {"types", list}, {"bytes", all.bytes}, {"packed", all.coded}});
}

void unpack_command::run() const {
  file_plan files;
  files.reads_file("the packed file", model);
  files.writes_file("the model", out);
  files.check();
  std::printf("%s: %s, every byte as it was packed\n", out.c_str(),
              readable_bytes(static_cast<double>(restore_lossless(model, out))).c_str());
}

} // namespace slim_llm
