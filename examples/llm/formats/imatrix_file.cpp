#include "formats/imatrix_file.hpp"

#include "formats/export_names.hpp"
#include "formats/export_report.hpp"

#include "slim/interop/imatrix.hpp"
#include "slim/io/gguf/writer.hpp"

namespace slim_llm {
namespace {

constexpr char const *sums_suffix = ".in_sum2", *counts_suffix = ".counts";

std::vector<float> numbers_of(slim::gguf_file const& file, std::string const& name) {
  auto const tensor = required(file.require(name));
  auto const values = required(slim::read_matrix(tensor));
  return {values.data(), values.data() + values.size()};
}

} // namespace

std::map<std::string, imatrix_place> imatrix_places(checkpoint const& file, model const& m) {
  tensor_names const names = names_in_gguf(file, m);
  std::map<std::string, imatrix_place> places;
  std::map<std::string, index_t> experts;
  for (linear_info const& l : linears_of(m)) {
    std::string const& tensor = names.of(l.name);
    places[l.name] = {tensor, experts[tensor]++};
  }
  return places;
}

void write_imatrix(std::filesystem::path const& out, std::map<std::string, imatrix_place> const& places,
                   std::map<std::string, slim::calibration> const& sums, imatrix_text const& text) {
  struct stacked {
    std::map<index_t, slim::calibration const*> experts;
    index_t count = 0, channels = 0;
  };
  std::map<std::string, stacked> tensors;
  for (auto const& [name, place] : places) {
    stacked& tensor = tensors[place.tensor];
    tensor.count = std::max(tensor.count, place.expert + 1);
    if (auto const found = sums.find(name); found != sums.end()) {
      tensor.experts[place.expert] = &found->second;
      tensor.channels = found->second.channels();
    }
  }
  slim::gguf_writer writer;
  writer.set("general.type", std::string("imatrix"));
  writer.set("imatrix.datasets", std::vector<std::string>{text.name});
  writer.set("imatrix.chunk_count", static_cast<std::uint32_t>(text.windows));
  writer.set("imatrix.chunk_size", static_cast<std::uint32_t>(text.window));
  for (auto const& entry : tensors) {
    auto const& tensor = entry.second;
    if (tensor.channels == 0) continue;
    matrix<float> squares(tensor.count, tensor.channels), counts(tensor.count, 1);
    for (auto const& [expert, calib] : tensor.experts) {
      auto const mean = calib->mean_square();
      auto const tokens = static_cast<double>(calib->tokens());
      for (index_t j = 0; j < tensor.channels; ++j)
        squares(expert, j) = static_cast<float>(mean[static_cast<std::size_t>(j)] * tokens);
      counts(expert, 0) = static_cast<float>(tokens);
    }
    auto const add = [&](char const* suffix, matrix<float> values) {
      std::vector<index_t> const shape = {values.rows(), values.cols()};
      writer.add({entry.first + suffix,
                  slim::tensor_type::f32,
                  {},
                  shape,
                  std::function<matrix<float>()>([values = std::move(values)] { return values; })});
    };
    add(sums_suffix, std::move(squares));
    add(counts_suffix, std::move(counts));
  }
  require_done(writer.write(out));
}

imatrix_reader::imatrix_reader(std::filesystem::path const& path, checkpoint const& file, model const& m)
    : file_(required(slim::gguf_file::open(path))), places_(imatrix_places(file, m)) {
  if (auto const type = file_.get<std::string>("general.type"); !type || *type != "imatrix")
    throw input_error(path.string() + ": is no imatrix: its metadata key 'general.type' does not say so");
  for (auto const& [name, place] : places_)
    for (char const* suffix : {sums_suffix, counts_suffix})
      if (!file_.find(place.tensor + suffix))
        throw input_error(path.string() + ": there is no tensor '" + place.tensor + suffix +
                          "': the file was made of another model, or of only a part of it");
}

slim::calibration imatrix_reader::of(linear const& l) const {
  imatrix_place const& place = places_.at(l.name);
  auto const fail = [&](std::string const& why) {
    return input_error(file_.path().string() + ": tensor '" + place.tensor + sums_suffix + "': " + why);
  };
  try {
    auto calib = slim::from_imatrix(numbers_of(file_, place.tensor + sums_suffix),
                                    numbers_of(file_, place.tensor + counts_suffix), place.expert);
    if (calib.channels() != l.d_in())
      throw fail(slim::message("is of ", calib.channels(), " channels, '", l.name, "' has ", l.d_in()));
    return calib;
  } catch (slim::error const& error) {
    throw fail(error.what());
  }
}

} // namespace slim_llm
