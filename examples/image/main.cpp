/// slim-image: enlarges pictures with a convolutional network, compresses the network, and says what it cost.
///
/// Exit codes: 0 success; 1 a file or recipe that cannot be used; 2 a command line that makes no sense.

#include "input_error.hpp"
#include "ncnn_model.hpp"
#include "recipe.hpp"

#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdio>
#include <exception>

namespace {

using namespace slim_image;

struct options {
  std::filesystem::path model, out;
  std::vector<std::filesystem::path> pictures, originals, calib;
  std::vector<std::string> recipes;
};

using network = std::vector<compressed_convolution>;

/// The ends of the network stay as they are, as in 2DQuant, and so do transposed convolutions.
bool is_compressed(std::vector<convolution> const& layers, std::size_t k) {
  return k > 0 && k + 1 < layers.size() && !layers[k].transposed;
}

network dense(std::vector<convolution> const& layers) {
  network out;
  for (convolution const& layer : layers) out.push_back({layer, {}, 0, 0});
  return out;
}

/// The maps behind each layer; the last one is the enlarged picture, cut to its size.
std::vector<feature_map> run(network const& layers, feature_map const& picture, enlargement by, slim::context const& ctx) {
  std::vector<feature_map> maps;
  feature_map const entering = with_border(picture, by.border);
  for (compressed_convolution const& layer : layers) {
    std::function<void(slim::matrix_view<float>)> round;
    if (layer.inputs) round = [&](slim::matrix_view<float> patches) { layer.inputs->round_inplace(patches); };
    maps.push_back(forward(layer.layer, maps.empty() ? entering : maps.back(), ctx, round));
  }
  maps.back() = middle_of(maps.back(), by.scale * picture.height, by.scale * picture.width);
  return maps;
}

/// What the layers that are compressed see of the pictures; an empty calibration for the others.
std::vector<slim::calibration> observed(std::vector<convolution> const& layers,
                                        std::vector<std::filesystem::path> const& pictures, enlargement by,
                                        slim::context const& ctx) {
  std::vector<slim::calibration> calib;
  for (std::size_t k = 0; k < layers.size(); ++k)
    calib.emplace_back(is_compressed(layers, k) ? layers[k].weight.cols() : 0,
                       slim::calibration_config{.gram = true, .samples = 512});
  for (auto const& path : pictures) {
    auto const maps = run(dense(layers), read_ppm(path), by, ctx);
    for (std::size_t k = 0; k < layers.size(); ++k)
      if (is_compressed(layers, k))
        for_each_patches(layers[k], maps[k - 1], [&](index_t, slim::matrix_view<float> patches) {
          calib[k].observe(slim::matrix_view<float const>(patches), ctx);
        });
  }
  return calib;
}

/// ||A - B||_F^2 and ||A||_F^2, added.
struct energies {
  double error = 0, whole = 0;

  void add(slim::matrix<float> const& a, slim::matrix<float> const& b) {
    for (index_t k = 0; k < a.size(); ++k) {
      double const value = static_cast<double>(a.data()[k]), off = value - static_cast<double>(b.data()[k]);
      error += off * off;
      whole += value * value;
    }
  }
  [[nodiscard]] double relative() const { return whole > 0.0 ? std::sqrt(error / whole) : 0.0; }
};

/// A picture, its original in full size if there is one, and the maps of the dense network.
struct test_picture {
  std::string name;
  feature_map picture, original;
  std::vector<feature_map> dense_maps;
};

void check_original(test_picture const& test, enlargement by) {
  if (test.original.height != by.scale * test.picture.height || test.original.width != by.scale * test.picture.width)
    throw input_error(slim::message(test.name, ": is ", test.picture.width, " x ", test.picture.height, ", its original ",
                                    test.original.width, " x ", test.original.height, ", not ", by.scale, " times that"));
}

std::vector<test_picture> test_pictures(options const& chosen, network const& layers, enlargement by,
                                        slim::context const& ctx) {
  std::vector<test_picture> out;
  for (std::size_t p = 0; p < chosen.pictures.size(); ++p) {
    test_picture test{chosen.pictures[p].filename().string(), read_ppm(chosen.pictures[p]), {}, {}};
    if (!chosen.originals.empty()) {
      test.original = read_ppm(chosen.originals[p]);
      check_original(test, by);
    }
    test.dense_maps = run(layers, test.picture, by, ctx);
    out.push_back(std::move(test));
  }
  return out;
}

std::string three_decimals(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

/// Means over the pictures, and over the weights that have codes.
struct quality {
  double to_dense = 0, to_original = 0, bits = 0;
};

quality print_recipe(recipe const& by, network const& layers, std::vector<test_picture> const& tests, enlargement size,
                     std::filesystem::path const& out, slim::context const& ctx) {
  quality found;
  std::vector<energies> in_network(layers.size());
  std::printf("\n## %s\n\n| picture | PSNR to the dense network's | to the original |\n|---|---|---|\n", by.name.c_str());
  for (test_picture const& test : tests) {
    auto const maps = run(layers, test.picture, size, ctx);
    for (std::size_t k = 0; k < maps.size(); ++k) in_network[k].add(test.dense_maps[k].pixels, maps[k].pixels);
    double const to_dense = psnr(maps.back(), test.dense_maps.back());
    double const to_original = test.original.pixels.empty() ? std::nan("") : psnr(maps.back(), test.original);
    std::printf("| %s | %.3f | %.3f |\n", test.name.c_str(), to_dense, to_original);
    found.to_dense += to_dense / static_cast<double>(tests.size());
    found.to_original += to_original / static_cast<double>(tests.size());
    if (!out.empty() && &test == &tests.front()) write_picture(out, maps.back());
  }
  std::printf("\n| layer | d_out x d_in | bits per weight | output error, alone | in the network |\n|---|---|---|---|---|\n");
  double weights = 0;
  for (std::size_t k = 0; k < layers.size(); ++k) {
    compressed_convolution const& layer = layers[k];
    auto const count = static_cast<double>(layer.layer.weight.size());
    std::printf("| %s | %td x %td | %s | %.4f | %.4f |\n", layer.layer.name.c_str(), layer.layer.weight.rows(),
                layer.layer.weight.cols(),
                layer.bits_per_weight > 0.0 ? three_decimals(layer.bits_per_weight).c_str() : "float", layer.output_error,
                in_network[k].relative());
    if (layer.bits_per_weight > 0.0) {
      found.bits += count * layer.bits_per_weight;
      weights += count;
    }
  }
  if (weights > 0.0) found.bits /= weights;
  return found;
}

void run_all(options const& chosen) {
  slim::context const ctx;
  if (!chosen.originals.empty() && chosen.originals.size() != chosen.pictures.size())
    throw input_error(
        slim::message("--originals: ", chosen.originals.size(), " files for ", chosen.pictures.size(), " pictures"));
  std::vector<recipe> recipes;
  for (std::string const& name : chosen.recipes) recipes.push_back(recipe_of(name));
  std::vector<convolution> const layers = read_ncnn_model(chosen.model);
  enlargement const size = enlargement_of(layers);
  auto const tests = test_pictures(chosen, dense(layers), size, ctx);
  if (recipes.empty() && !chosen.out.empty()) write_picture(chosen.out, tests.front().dense_maps.back());
  auto const calib = observed(layers, recipes.empty() ? std::vector<std::filesystem::path>{} : chosen.calib, size, ctx);
  std::string summary;
  for (recipe const& by : recipes) {
    network small = dense(layers);
    for (std::size_t k = 0; k < layers.size(); ++k)
      if (is_compressed(layers, k)) small[k] = compressed(layers[k], calib[k], by, ctx);
    quality const found = print_recipe(by, small, tests, size, chosen.out, ctx);
    char line[160];
    std::snprintf(line, sizeof line, "| %s | %.3f | %.2f | %.2f |\n", by.name.c_str(), found.bits, found.to_dense,
                  found.to_original);
    summary += line;
  }
  double dense_to_original = 0;
  for (test_picture const& test : tests)
    dense_to_original += (test.original.pixels.empty() ? std::nan("") : psnr(test.dense_maps.back(), test.original)) /
                         static_cast<double>(tests.size());
  std::printf("\n## Mean of %zu pictures\n\n| recipe | bits per weight | PSNR to the dense network's | to the original |\n"
              "|---|---|---|---|\n| dense | 32 | | %.3f |\n%s",
              tests.size(), dense_to_original, summary.c_str());
}

} // namespace

int main(int argc, char** argv) {
  CLI::App app("slim-image: enlarges pictures with a convolutional network, compresses it, and says what that cost");
  options chosen;
  app.add_option("model", chosen.model, "MODEL.param of ncnn, with MODEL.bin beside it")->required();
  app.add_option("pictures", chosen.pictures, "pictures to enlarge and to measure on (binary PPM)")->required();
  app.add_option("--recipe", chosen.recipes,
                 "intB and @range=minmax|dobi|output|PERCENTILE, @tensor, @bias, @inputs=B; several: A,B")
      ->delimiter(',');
  app.add_option("--calib", chosen.calib, "pictures to calibrate on: others than those that are measured");
  app.add_option("--originals", chosen.originals, "the pictures in full size, to measure against");
  app.add_option("--out", chosen.out, "where to write the first picture, enlarged by the last recipe (.ppm; .pfm: as floats)");
  try {
    app.parse(argc, argv);
    if (!chosen.recipes.empty() && chosen.calib.empty())
      throw CLI::ValidationError("--recipe", "needs pictures to calibrate on (--calib)");
    run_all(chosen);
  } catch (CLI::ParseError const& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (std::exception const& error) {
    std::fprintf(stderr, "slim-image: %s\n", error.what());
    return 1;
  }
  return 0;
}
