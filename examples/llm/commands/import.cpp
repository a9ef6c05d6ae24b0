#include "commands.hpp"
#include "formats/import_folder.hpp"
#include "run/json_output.hpp"
#include "run/output_files.hpp"
#include "run/table.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace slim_llm {

void import_command::run() const {
  if (!is_slim_path(out)) throw input_error("--out " + out.string() + ": give a name that ends with .slim");
  file_plan files;
  files.reads_model(folder);
  if (!adapter.empty()) files.reads_model(adapter);
  files.writes_file("--out", out);
  files.writes_text("--json", json);
  files.check();
  quantized_folder const source(folder);
  std::printf("%s: %s\n", folder.c_str(), source.describe().c_str());
  imported_model const made = source.write_slim(out, adapter);
  for (std::string const& note : made.notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  std::printf("%s holds the whole model, %s; its linears have %s bits per weight.\n", out.c_str(),
              readable_bytes(made.bytes).c_str(),
              fixed(8 * made.linears.in_file / static_cast<double>(made.weights), 3).c_str());
  if (!json.empty())
    write_json(json, {{"source", source.describe()},
                      {"out", out.string()},
                      {"written_bytes", made.bytes},
                      {"linear_bytes_in_file", made.linears.in_file},
                      {"adapters", made.adapters}});
}

} // namespace slim_llm
