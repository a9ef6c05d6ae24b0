#include "training/student.hpp"

#include "run/input_error.hpp"

namespace slim_llm {

student::student(model const& dense, packed_weights const& layers, trained_parts const& parts, context const& ctx)
    : model_(dense), trained_(parts) {
  load_into_memory(model_, ctx);
  for (block& b : model_.blocks)
    for (linear& l : b.linears) {
      auto const found = layers.find(l.name);
      if (found == layers.end()) throw input_error(l.name + ": is not among the packed weights");
      trained_.add(l, found->second, ctx);
    }
  if (trained_.tensors().empty()) throw slim::config_error("nothing of the packed layers trains: they have no adapters");
}

void student::set(tensor_numbers values, context const& ctx) {
  trained_.set(std::move(values));
  for (block& b : model_.blocks)
    for (linear& l : b.linears) trained_.follow(l, ctx);
}

} // namespace slim_llm
