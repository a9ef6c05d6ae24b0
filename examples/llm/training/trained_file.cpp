#include "training/trained_file.hpp"

#include "run/input_error.hpp"

#include <cstdio>

namespace slim_llm {
namespace {

void require_same_shapes(workspace const& dense, workspace const& compressed) {
  auto const fail = [&](auto const&... why) {
    throw input_error(slim::message(compressed.file.path().string(), ": is no compressed form of ", dense.file.path().string(),
                                    ": ", why...));
  };
  auto const &a = dense.weights.config, &b = compressed.weights.config;
  if (a.embedding_dim != b.embedding_dim || a.layers != b.layers || a.vocab != b.vocab)
    fail(b.layers, " blocks of ", b.embedding_dim, " and ", b.vocab, " tokens; there ", a.layers, " of ", a.embedding_dim,
         " and ", a.vocab);
  auto const mine = linears_of(dense.weights), theirs = linears_of(compressed.weights);
  for (std::size_t k = 0; k < std::max(mine.size(), theirs.size()); ++k) {
    if (k >= mine.size() || k >= theirs.size()) fail(theirs.size(), " linears; there ", mine.size());
    if (mine[k].d_out != theirs[k].d_out || mine[k].d_in != theirs[k].d_in)
      fail("'", theirs[k].name, "' is ", theirs[k].d_out, " x ", theirs[k].d_in, "; there ", mine[k].d_out, " x ",
           mine[k].d_in);
  }
}

nlohmann::json trained_recipe(nlohmann::json recipe, std::string const& how) {
  recipe["trained"].push_back(how);
  return recipe;
}

} // namespace

void require_form_of(workspace const& dense, workspace const& compressed) {
  if (auto const* const file = compressed.file.container()) {
    if (file->source().empty())
      std::fprintf(stderr, "note: %s does not say which model it was made of; it is used with %s\n", file->path().c_str(),
                   dense.file.path().c_str());
    else if (file->source() != dense.file.fingerprint())
      throw input_error(slim::message(file->path().string(), ": was made of another model than ", dense.file.path().string(),
                                      ": their tensors differ. Give the model that it was made of"));
  }
  require_same_shapes(dense, compressed);
}

trained_file::trained_file(workspace const& compressed, std::filesystem::path const& out, std::string const& how)
    : compressed_(compressed), writer_(slim_source_of(compressed.file), compressed.weights, out,
                                       trained_recipe(compressed.file.container()->recipe(), how),
                                       {.sides = {}, .entropy_coded = compressed.file.container()->entropy_coded()}) {}

void trained_file::add(index_t number, packed_weights const& layers) {
  block b = load_block(compressed_.weights, number);
  use_packed(b, layers, std::nullopt);
  writer_.add(b, layers);
}

void trained_file::finish() { (void)writer_.finish(); }

} // namespace slim_llm
