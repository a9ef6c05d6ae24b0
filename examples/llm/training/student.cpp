#include "training/student.hpp"

#include "run/input_error.hpp"

namespace slim_llm {

student::student(model const& compressed, packed_weights const& layers, trained_parts const& parts, context const& ctx)
    : model_(compressed), trained_(parts) {
  load_into_memory(model_, ctx);
  for (block& b : model_.blocks)
    for (linear& l : b.linears)
      if (auto const found = layers.find(l.name); found != layers.end()) trained_.add(l, found->second, ctx);
  if (trained_.tensors().empty()) throw slim::config_error("nothing of the packed layers trains: they have no adapters");
}

student::student(model const& compressed, slim::gguf_file const& file, context const& ctx) : model_(compressed) {
  load_into_memory(model_, ctx);
  for (block& b : model_.blocks)
    for (linear& l : b.linears) {
      slim::tensor_info const* const tensor = file.find(l.name);
      if (!tensor)
        throw input_error(slim::message(file.path().string(), ": '", l.name,
                                        "' is no tensor of its own; the scales of stacked experts do not train"));
      if (block_scales::train(tensor->type)) trained_.add(l, *tensor, ctx);
    }
  if (trained_.tensors().empty())
    throw slim::config_error(slim::message(file.path().string(), ": no linear is stored in blocks that have scales"));
}

void student::set(tensor_numbers values, context const& ctx) {
  trained_.set(std::move(values));
  for (block& b : model_.blocks)
    for (linear& l : b.linears) trained_.follow(l, ctx);
}

} // namespace slim_llm
