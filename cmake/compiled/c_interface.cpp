// slim/c.h: every function catches what the library throws, and turns it into a code and a sentence.
#include <slim/c.h>

#include <slim/slim.hpp>

#include <new>
#include <string>

struct slim_layer {
  slim::any_layer layer;
};
struct slim_packed {
  slim::packed_linear packed;
};

namespace {

thread_local std::string last_error;

int failed(slim_status status, char const* why) {
  try {
    last_error = why;
  } catch (...) { // no room for the sentence
    last_error.clear();
  }
  return status;
}

/// Runs `work` and says what it threw.
template <class Work>
int guarded(Work const& work) {
  try {
    work();
    return SLIM_OK;
  } catch (slim::shape_error const& e) {
    return failed(SLIM_SHAPE_ERROR, e.what());
  } catch (slim::config_error const& e) {
    return failed(SLIM_CONFIG_ERROR, e.what());
  } catch (slim::nonfinite_error const& e) {
    return failed(SLIM_NONFINITE_ERROR, e.what());
  } catch (std::bad_alloc const&) {
    return failed(SLIM_OUT_OF_MEMORY, "out of memory");
  } catch (std::exception const& e) {
    return failed(SLIM_OTHER_ERROR, e.what());
  } catch (...) {
    return failed(SLIM_OTHER_ERROR, "unknown failure");
  }
}

void require(void const* pointer, char const* who, char const* what) {
  if (!pointer) throw slim::config_error(slim::message(who, ": ", what, " is a null pointer"));
}

slim::any_chain chain_of(slim_recipe const& recipe) {
  slim::absmax_quantizer const codes(
      {.bits = recipe.bits, .block = slim::per_group(recipe.group), .scale_format = slim::number_format::fp16});
  auto const pruner = slim::nm_pruner<2, 4>(slim::wanda{});
  auto const adapter = slim::quantized_adapter(
      slim::slim_lora({.rank = {.ratio = recipe.rank_ratio}}),
      slim::absmax_quantizer({.block = slim::per_column_group(128), .scale_format = slim::number_format::fp16}));
  bool const repaired = !(recipe.rank_ratio == 0.0);
  if (recipe.prune_2_of_4 != 0)
    return repaired ? slim::any_chain(slim::chain(pruner, codes, adapter)) : slim::any_chain(slim::chain(pruner, codes));
  return repaired ? slim::any_chain(slim::chain(codes, adapter)) : slim::any_chain(slim::chain(codes));
}

} // namespace

int slim_version_number() { return SLIM_VERSION; }
char const* slim_version_text() { return slim::version().data(); }
char const* slim_last_error() { return last_error.c_str(); }
slim_recipe slim_default_recipe() { return {4, 128, 1, 0.1}; }

int slim_compress(float const* w, ptrdiff_t d_out, ptrdiff_t d_in, float const* x, ptrdiff_t tokens, slim_recipe const* recipe,
                  slim_layer** layer) {
  return guarded([&] {
    require(w, "slim_compress", "w");
    require(recipe, "slim_compress", "recipe");
    require(layer, "slim_compress", "layer");
    if (tokens != 0) require(x, "slim_compress", "x");
    *layer = nullptr;
    slim::matrix_view<float const> const weights(w, d_out, d_in);
    slim::calibration calib(d_in);
    if (tokens != 0) calib.observe(slim::matrix_view<float const>(x, tokens, d_in));
    *layer = new slim_layer{chain_of(*recipe).compress(weights, calib)};
  });
}

int slim_report_of(slim_layer const* layer, slim_layer_report* report) {
  return guarded([&] {
    require(layer, "slim_report_of", "layer");
    require(report, "slim_report_of", "report");
    slim::step_report const last = layer->layer.report.last();
    *report = {last.relative_error, last.output_error, last.bits_per_weight,
               layer->layer.weight.mask ? layer->layer.weight.mask->sparsity() : 0.0, last.rank};
  });
}

int slim_decompress(slim_layer const* layer, float* w) {
  return guarded([&] {
    require(layer, "slim_decompress", "layer");
    require(w, "slim_decompress", "w");
    slim::matrix<float> const dense = slim::decompress(layer->layer);
    std::copy_n(dense.data(), dense.size(), w);
  });
}

int slim_pack(slim_layer const* layer, slim_packed** packed) {
  return guarded([&] {
    require(layer, "slim_pack", "layer");
    require(packed, "slim_pack", "packed");
    *packed = nullptr;
    *packed = new slim_packed{slim::pack(layer->layer)};
  });
}

size_t slim_packed_bytes(slim_packed const* packed) { return packed ? static_cast<size_t>(packed->packed.byte_size()) : 0; }

int slim_forward(slim_packed const* packed, float const* x, ptrdiff_t tokens, float* y) {
  return guarded([&] {
    require(packed, "slim_forward", "packed");
    if (tokens != 0) {
      require(x, "slim_forward", "x");
      require(y, "slim_forward", "y");
    }
    slim::packed_linear const& weight = packed->packed;
    slim::forward_into(weight, slim::matrix_view<float const>(x, tokens, weight.cols()),
                       slim::matrix_view<float>(y, tokens, weight.rows()));
  });
}

void slim_layer_free(slim_layer* layer) { delete layer; }
void slim_packed_free(slim_packed* packed) { delete packed; }
