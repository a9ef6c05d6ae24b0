#include "formats/export_adapter.hpp"

#include "formats/export_names.hpp"
#include "models/family.hpp"
#include "run/file_output.hpp"
#include "run/output_files.hpp"

#include "slim/io/gguf/encode_blocks.hpp"
#include "slim/io/safetensors/writer.hpp"

#include <nlohmann/json.hpp>

#include <set>

namespace slim_llm {
namespace {

/// A linear with an adapter, and what it is called where it is written.
struct adapted_linear {
  linear_info info;
  std::vector<index_t> order; ///< of the outputs in the source
  std::string name;           ///< of the weight there
  index_t rank = 0;

  [[nodiscard]] std::string module() const { return name.substr(0, name.size() - std::string_view(".weight").size()); }
  /// "self_attn.q_proj" behind the block's number; the module if it has no number.
  [[nodiscard]] std::string in_block() const {
    std::string const path = module();
    std::size_t const digit = path.find_first_of("0123456789"), dot = path.find('.', digit);
    return digit == std::string::npos || dot == std::string::npos ? path : path.substr(dot + 1);
  }
};

slim::adapter read_adapter(export_source const& source, adapted_linear const& l) {
  return with_outputs(source.read_adapter(l.info), l.order, l.info.name);
}

std::vector<adapted_linear> adapted_linears(export_source const& source, tensor_names const& names, index_t max_rank) {
  std::vector<adapted_linear> out;
  for (linear_info const& l : source.linears) {
    index_t const rank = source.read_adapter(l).rank();
    if (max_rank > 0 && rank > max_rank)
      throw input_error(slim::message(l.name, ": its adapter has rank ", rank, ", --max-rank is ", max_rank,
                                      "; compress with --rank ", max_rank, " or less"));
    if (rank == 0) continue;
    if (tensor_of(l.name) != l.name)
      throw input_error(l.name + ": is one of several matrices of a tensor (experts), for which there are no adapter files");
    out.push_back({l, names.row_order(l, source.dense->config), names.of(l.name), rank});
  }
  return out;
}

/// A type for all factors, and whether it rounds some of them.
struct factor_type {
  slim::tensor_type type = slim::tensor_type::f32;
  bool lossy = false;
};

/// The narrowest type that holds all factors: the one they were stored in, else F16, BF16 or F32.
class factor_type_finder {
public:
  void add(slim::adapter const& a) {
    auto const both = [&](slim::number_format format) { return holds(format, a.left) && holds(format, a.right); };
    in_half_ = in_half_ && both(slim::number_format::fp16);
    in_bf16_ = in_bf16_ && both(slim::number_format::bf16);
    stored_in_bf16_ = stored_in_bf16_ && !a.left_codes && a.format == slim::number_format::bf16;
  }
  [[nodiscard]] factor_type found(bool allow_lossy) const {
    if (in_bf16_ && (stored_in_bf16_ || !in_half_)) return {slim::tensor_type::bf16, false};
    if (in_half_ || allow_lossy) return {slim::tensor_type::f16, !in_half_};
    return {slim::tensor_type::f32, false};
  }

private:
  bool in_half_ = true, in_bf16_ = true, stored_in_bf16_ = true;
};

factor_type type_of_factors(export_source const& source, std::vector<adapted_linear> const& linears, bool allow_lossy) {
  factor_type_finder finder;
  for (adapted_linear const& l : linears) finder.add(source.read_adapter(l.info));
  return finder.found(allow_lossy);
}

slim::number_format format_of(slim::tensor_type type) {
  if (type == slim::tensor_type::f16) return slim::number_format::fp16;
  return type == slim::tensor_type::bf16 ? slim::number_format::bf16 : slim::number_format::fp32;
}

matrix<float> rounded(matrix<float> values, slim::tensor_type type) {
  for (index_t k = 0; k < values.size(); ++k) values.data()[k] = slim::rounded_to(format_of(type), values.data()[k]);
  return values;
}

/// The numbers, and zeros behind them up to rows x cols.
matrix<float> filled_up(matrix<float> const& values, index_t rows, index_t cols) {
  matrix<float> out(rows, cols);
  for (index_t i = 0; i < values.rows(); ++i) std::copy_n(values.row(i), values.cols(), out.row(i));
  return out;
}

void note_type(export_report& report, slim::tensor_type type, bool lossy) {
  if (type == slim::tensor_type::f32)
    report.notes.push_back("factors of adapters are written as F32: F16 does not hold them; --allow-lossy rounds them to it");
  else if (lossy)
    report.notes.push_back(slim::message("factors of adapters are rounded to ", slim::name_of(type)));
}

/// What the folders of PEFT and mlx-lm call things.
struct factor_folder {
  std::string file, left_name, right_name, framework;
  bool transposed = false; ///< factors are, as PEFT has them
};

void write_factors(export_source const& source, std::vector<adapted_linear> const& linears, factor_folder const& kind,
                   std::function<std::string(adapted_linear const&)> const& prefix, nlohmann::ordered_json const& config,
                   std::filesystem::path const& out, export_options const& options, export_report& report) {
  auto const [type, lossy] = type_of_factors(source, linears, options.allow_lossy);
  auto const factor = [&, type = type](adapted_linear const& l, bool left) {
    slim::adapter const a = read_adapter(source, l);
    matrix<float> values = left ? filled_up(a.left, l.info.d_in, l.rank) : filled_up(a.right, l.rank, l.info.d_out);
    if (kind.transposed) values = matrix<float>(slim::transposed(values.view()));
    return rounded(std::move(values), type);
  };
  std::vector<slim::outgoing_tensor> tensors;
  for (adapted_linear const& l : linears)
    for (bool const left : {true, false}) {
      index_t const outer = left ? l.info.d_in : l.info.d_out;
      bool const rank_first = left == kind.transposed;
      tensors.push_back({prefix(l) + (left ? kind.left_name : kind.right_name),
                         type,
                         {},
                         {rank_first ? l.rank : outer, rank_first ? outer : l.rank},
                         std::function<matrix<float>()>([&factor, &l, left] { return factor(l, left); })});
      report.adapter_bytes += static_cast<double>(slim::detail::outgoing_bytes(tensors.back()));
    }
  note_type(report, type, lossy);
  replacing_folder folder(out);
  write_file(folder.temporary() / "adapter_config.json", config.dump(2) + "\n");
  auto const path = folder.temporary() / kind.file;
  require_done(slim::save_safetensors(path, std::move(tensors), {{"format", kind.framework}}));
  auto const written = required(slim::safetensors_file::open(path));
  for (adapted_linear const& l : linears)
    for (bool const left : {true, false}) {
      std::string const name = prefix(l) + (left ? kind.left_name : kind.right_name);
      require_same(path, name, required(slim::read_matrix(required(written.require(name)))), factor(l, left));
    }
  folder.commit();
}

/// Names of modules within a block, if every block has an adapter at each of them; else full names.
nlohmann::ordered_json target_modules(export_source const& source, tensor_names const& names,
                                      std::vector<adapted_linear> const& linears) {
  std::map<std::string, index_t> with, all;
  for (adapted_linear const& l : linears) ++with[l.module().substr(l.module().rfind('.') + 1)];
  for (linear_info const& l : source.linears) {
    std::string const module = adapted_linear{l, {}, names.of(l.name), 0}.module();
    ++all[module.substr(module.rfind('.') + 1)];
  }
  nlohmann::ordered_json targets = nlohmann::ordered_json::array();
  bool const everywhere =
      std::all_of(with.begin(), with.end(), [&](auto const& entry) { return all[entry.first] == entry.second; });
  if (everywhere)
    for (auto const& entry : with) targets.push_back(entry.first);
  else
    for (adapted_linear const& l : linears) targets.push_back(l.module());
  return targets;
}

index_t largest_rank(std::vector<adapted_linear> const& linears) {
  index_t rank = 0;
  for (adapted_linear const& l : linears) rank = std::max(rank, l.rank);
  return rank;
}

/// Codes of rows x cols, larger than they are: what is added stands for 0.
slim::integer_codes padded(slim::integer_codes const& codes, index_t rows, index_t cols) {
  bool const whole = codes.block.cols_of(codes.cols()) == codes.cols(); // the added columns share its scale
  slim::integer_codes out(rows, cols, codes.bits, whole ? slim::per_channel : codes.block, codes.scales.format());
  auto const copy = [](auto const& from, auto& to) {
    for (index_t i = 0; i < from.rows(); ++i) std::copy_n(from.row(i), from.cols(), to.row(i));
  };
  copy(codes.codes, out.codes);
  copy(codes.scales, out.scales);
  if (!codes.zeros.empty()) out.zeros = matrix<std::int8_t>(out.scales.rows(), out.scales.cols());
  copy(codes.zeros, out.zeros);
  for (index_t i = 0; i < codes.rows() && !codes.zeros.empty(); ++i)
    for (index_t j = codes.cols(); j < cols; ++j) out.codes(i, j) = static_cast<std::int8_t>(out.zero_at(i, j));
  return out;
}

/// A factor of a LoRA GGUF.
struct gguf_factor {
  slim::tensor_type type = slim::tensor_type::f32;
  std::vector<index_t> shape;
  std::vector<std::byte> blocks; ///< of a type with blocks
  matrix<float> values;          ///< of a type without; and what is read back
};

/// A and B in blocks, if both have codes that fit one of the types; else nothing.
std::optional<std::array<gguf_factor, 2>> in_blocks(slim::adapter const& a) {
  if (!a.left_codes || !a.right_codes || a.left_codes->block.cols_of(a.rank()) != 1 ||
      a.right_codes->block.cols_of(a.right.cols()) != 1)
    return std::nullopt;
  constexpr index_t block = 32;
  index_t const rank = (a.rank() + block - 1) / block * block;
  auto const encode = [](slim::integer_codes const& codes) -> std::optional<gguf_factor> {
    for (auto const type : {slim::tensor_type::q4_0, slim::tensor_type::q8_0})
      if (auto blocks = slim::encode_blocks(type, codes))
        return gguf_factor{type, {codes.rows(), codes.cols()}, std::move(*blocks), values_of(codes)};
    return std::nullopt;
  };
  auto left = encode(padded(slim::transposed(*a.left_codes), rank, a.left.rows()));
  auto right = encode(padded(slim::transposed(*a.right_codes), a.right.cols(), rank));
  if (!left || !right) return std::nullopt;
  return std::array{std::move(*left), std::move(*right)};
}

/// A = left^T and B = right^T as a LoRA GGUF holds them.
std::array<gguf_factor, 2> factors_of(slim::adapter const& a, bool allow_lossy) {
  if (auto blocks = in_blocks(a)) return std::move(*blocks);
  auto const plain = [&](matrix<float> const& values) {
    auto type = slim::tensor_type::f32;
    if (holds(slim::number_format::bf16, values)) type = slim::tensor_type::bf16;
    if (holds(slim::number_format::fp16, values) || (allow_lossy && type == slim::tensor_type::f32))
      type = slim::tensor_type::f16;
    return gguf_factor{type, {values.rows(), values.cols()}, {}, rounded(values, type)};
  };
  return {plain(matrix<float>(slim::transposed(a.left.view()))), plain(matrix<float>(slim::transposed(a.right.view())))};
}

} // namespace

void export_peft(export_source const& source, std::filesystem::path const& base, std::filesystem::path const& out,
                 export_options const& options, export_report& report) {
  tensor_names const names = names_in_folder(*source.file, *source.dense);
  auto const linears = adapted_linears(source, names, options.max_rank);
  index_t const rank = largest_rank(linears);
  nlohmann::ordered_json ranks = nlohmann::ordered_json::object();
  for (adapted_linear const& l : linears)
    if (l.rank != rank) ranks[l.module()] = l.rank;
  nlohmann::ordered_json const config = {{"peft_type", "LORA"},
                                         {"task_type", "CAUSAL_LM"},
                                         {"base_model_name_or_path", base.string()},
                                         {"r", rank},
                                         {"lora_alpha", rank},
                                         {"lora_dropout", 0.0},
                                         {"bias", "none"},
                                         {"target_modules", target_modules(source, names, linears)},
                                         {"fan_in_fan_out", false},
                                         {"inference_mode", true},
                                         {"init_lora_weights", true},
                                         {"rank_pattern", ranks},
                                         {"alpha_pattern", ranks},
                                         {"use_rslora", false},
                                         {"use_dora", false}};
  write_factors(
      source, linears, {"adapter_model.safetensors", ".lora_A.weight", ".lora_B.weight", "pt", true},
      [](adapted_linear const& l) { return "base_model.model." + l.module(); }, config, out, options, report);
}

void export_mlx_adapter(export_source const& source, std::filesystem::path const& out, export_options const& options,
                        export_report& report) {
  tensor_names const names = names_in_folder(*source.file, *source.dense);
  auto const adapted = adapted_linears(source, names, options.max_rank);
  index_t const rank = largest_rank(adapted);
  std::set<std::string> keys;
  for (adapted_linear const& l : adapted) keys.insert(l.in_block());
  std::vector<adapted_linear> linears; // mlx-lm wants them at every block, and of one rank
  for (linear_info const& l : source.linears)
    if (adapted_linear one{l, names.row_order(l, source.dense->config), names.of(l.name), rank}; keys.contains(one.in_block()))
      linears.push_back(std::move(one));
  nlohmann::ordered_json const config = {
      {"fine_tune_type", "lora"},
      {"num_layers", source.dense->config.layers},
      {"lora_parameters", {{"rank", rank}, {"scale", 1.0}, {"dropout", 0.0}, {"keys", keys}}}};
  write_factors(
      source, linears, {"adapters.safetensors", ".lora_a", ".lora_b", "mlx", false},
      [](adapted_linear const& l) { return l.module(); }, config, out, options, report);
}

void export_lora_gguf(export_source const& source, std::filesystem::path const& out, export_options const& options,
                      export_report& report) {
  tensor_names const names = names_in_gguf(*source.file, *source.dense);
  auto const linears = adapted_linears(source, names, options.max_rank);
  slim::gguf_writer writer;
  writer.set("general.type", std::string("adapter"));
  writer.set("general.architecture", gguf_architecture(source.dense->config));
  writer.set("adapter.type", std::string("lora"));
  writer.set("adapter.lora.alpha", 0.0f); // 0: factors are taken as they are
  constexpr char const* endings[] = {".lora_a", ".lora_b"};
  bool lossy = false, wide = false;
  for (adapted_linear const& l : linears) {
    slim::adapter const a = read_adapter(source, l);
    auto const factors = factors_of(a, options.allow_lossy);
    for (std::size_t k = 0; k < 2; ++k) {
      gguf_factor const& f = factors[k];
      wide = wide || f.type == slim::tensor_type::f32;
      lossy = lossy || (f.blocks.empty() && !holds(format_of(f.type), k == 0 ? a.left : a.right));
      slim::outgoing_tensor tensor{l.name + endings[k], f.type, {}, f.shape, {}};
      auto const again = [&source, &l, k, lossy_too = options.allow_lossy] {
        return std::move(factors_of(read_adapter(source, l), lossy_too)[k]);
      };
      if (f.blocks.empty())
        tensor.source = std::function<matrix<float>()>([again] { return again().values; });
      else
        tensor.source = slim::computed_bytes{f.blocks.size(), [again] { return again().blocks; }};
      report.adapter_bytes += static_cast<double>(slim::detail::outgoing_bytes(tensor));
      writer.add(std::move(tensor));
    }
  }
  if (wide || lossy) note_type(report, wide ? slim::tensor_type::f32 : slim::tensor_type::f16, lossy);
  write_verified(writer, out, [&](slim::gguf_file const& file) {
    for (adapted_linear const& l : linears) {
      auto const factors = factors_of(read_adapter(source, l), options.allow_lossy);
      for (std::size_t k = 0; k < 2; ++k)
        require_same(file.path(), l.name + endings[k], required(slim::read_matrix(required(file.require(l.name + endings[k])))),
                     factors[k].values);
    }
  });
}

std::vector<double> factor_bytes_of(std::vector<slim::adapter> const& adapters, bool one_rank) {
  factor_type_finder finder;
  index_t largest = 0;
  for (slim::adapter const& a : adapters)
    if (a.rank() > 0) {
      finder.add(a);
      largest = std::max(largest, a.rank());
    }
  index_t const width = finder.found(false).type == slim::tensor_type::f32 ? 4 : 2;
  std::vector<double> bytes;
  for (slim::adapter const& a : adapters)
    bytes.push_back(static_cast<double>(width * (one_rank ? largest : a.rank()) * (a.left.rows() + a.right.cols())));
  return bytes;
}

std::vector<double> lora_gguf_bytes_of(std::vector<slim::adapter> const& adapters) {
  std::vector<double> bytes;
  for (slim::adapter const& a : adapters) {
    double& sum = bytes.emplace_back(0.0);
    if (a.rank() == 0) continue;
    for (gguf_factor const& f : factors_of(a, false))
      sum += f.blocks.empty() ? static_cast<double>(slim::block_of(f.type).bytes * f.values.size())
                              : static_cast<double>(f.blocks.size());
  }
  return bytes;
}

} // namespace slim_llm
