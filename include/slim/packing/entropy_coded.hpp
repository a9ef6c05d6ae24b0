#pragma once
/// @file
/// Bytes without slack: what a packed matrix, or a block type of ggml, stores in whole bits takes as many as it says. Lossless.
/// Bytes come in records of equal size (a block of a type, a number); those that mean the same kind of thing (the codes, the
/// upper half of a scale) make a plane, and each plane has frequencies of its own. docs/formats/entropy_coded.md.

#include "slim/core/executor.hpp"
#include "slim/core/result.hpp"
#include "slim/packing/rans.hpp"

#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// The plane of each byte of a record, numbered from 0 without gaps. At most 65536 bytes and 256 planes.
using record_planes = std::vector<std::uint8_t>;

namespace detail {

/// The first bytes.
struct entropy_header {
  std::array<char, 4> magic{'S', 'L', 'R', 'A'};
  std::uint16_t version = 1;
  std::uint16_t planes = 0;
  std::uint64_t bytes = 0;  ///< decoded
  std::uint32_t record = 0; ///< bytes of a record
  std::uint32_t chunk = 0;  ///< records that are coded together
};
static_assert(sizeof(entropy_header) == 24 && std::has_unique_object_representations_v<entropy_header>);

/// Where the planes of a record lie: runs of bytes of one plane.
class plane_runs {
public:
  explicit plane_runs(std::span<std::uint8_t const> plane_of) {
    for (std::size_t j = 0; j < plane_of.size(); ++j) {
      if (runs_.empty() || runs_.back().plane != plane_of[j]) runs_.push_back({j, 0, plane_of[j]});
      ++runs_.back().length;
      if (plane_of[j] >= width_.size()) width_.resize(std::size_t{plane_of[j]} + 1);
      ++width_[plane_of[j]];
    }
    record_ = plane_of.size();
  }

  [[nodiscard]] std::size_t planes() const noexcept { return width_.size(); }
  /// Bytes of a record in a plane; 0 if its number is left out.
  [[nodiscard]] std::size_t width(std::size_t plane) const noexcept { return width_[plane]; }

  /// One plane of some records.
  void gather(std::span<std::byte const> records, std::size_t plane, std::vector<std::uint8_t>& out) const {
    std::size_t const count = records.size() / record_;
    out.resize(count * width_[plane]);
    each_run(plane, [&](std::size_t first, std::size_t at, auto length) {
      for (std::size_t r = 0; r < count; ++r)
        std::memcpy(out.data() + r * width_[plane] + at, records.data() + r * record_ + first, length);
    });
  }
  void scatter(std::span<std::uint8_t const> from, std::size_t plane, std::span<std::byte> records) const {
    std::size_t const count = records.size() / record_;
    each_run(plane, [&](std::size_t first, std::size_t at, auto length) {
      for (std::size_t r = 0; r < count; ++r)
        std::memcpy(records.data() + r * record_ + first, from.data() + r * width_[plane] + at, length);
    });
  }

private:
  struct run {
    std::size_t first, length;
    std::uint8_t plane;
  };

  /// Calls `f(first byte in the record, first byte in the plane, length)` for the runs of a plane. Lengths that block types
  /// have are constants, so that copying them takes an instruction or two.
  template <class F>
  void each_run(std::size_t plane, F const& f) const {
    std::size_t at = 0;
    for (run const& one : runs_) {
      if (one.plane != plane) continue;
      auto const constant = [&]<std::size_t Length>() { f(one.first, at, std::integral_constant<std::size_t, Length>{}); };
      switch (one.length) {
      case 1: constant.template operator()<1>(); break;
      case 4: constant.template operator()<4>(); break;
      case 16: constant.template operator()<16>(); break;
      case 32: constant.template operator()<32>(); break;
      case 64: constant.template operator()<64>(); break;
      case 128: constant.template operator()<128>(); break;
      default: f(one.first, at, one.length);
      }
      at += one.length;
    }
  }

  std::vector<run> runs_;
  std::vector<std::size_t> width_;
  std::size_t record_ = 0;
};

/// Bytes of a chunk: enough that 32 states cost nothing, few enough for many threads.
inline constexpr std::size_t entropy_chunk = std::size_t{1} << 19;

inline void append_model(std::vector<std::byte>& out, rans_model const& model) {
  for (std::size_t byte = 0; byte < 32; ++byte) {
    unsigned present = 0;
    for (std::size_t bit = 0; bit < 8; ++bit) present |= (model.shares()[8 * byte + bit] > 0 ? 1u : 0u) << bit;
    out.push_back(static_cast<std::byte>(present));
  }
  for (std::uint32_t const share : model.shares())
    if (share > 0) append_bytes(out, static_cast<std::uint16_t>(share));
}

/// The table of a model, or an empty one where no byte occurs: nothing of such a plane is coded.
[[nodiscard]] inline std::optional<std::vector<std::uint32_t>> read_table(byte_reader& reader) {
  auto const present = reader.take(32);
  if (reader.failed()) return std::nullopt;
  std::array<std::uint32_t, 256> shares{};
  bool any = false;
  for (std::size_t s = 0; s < 256; ++s)
    if ((static_cast<unsigned>(present[s / 8]) >> s % 8 & 1u) != 0) {
      any = true;
      shares[s] = reader.read<std::uint16_t>();
      if (shares[s] == 0) return std::nullopt;
    }
  if (reader.failed()) return std::nullopt;
  if (!any) return std::vector<std::uint32_t>();
  auto const model = rans_model::from_shares(shares);
  if (!model) return std::nullopt;
  return model->table();
}

} // namespace detail

/// `bytes` in records whose bytes lie in planes; what is left behind the last whole record is stored as it is, and so is a
/// plane that would not get smaller, its frequencies counted. The same bytes for any executor. O(bytes). @throws config_error
/// on planes that cannot be
[[nodiscard]] inline std::vector<std::byte> entropy_encode(std::span<std::byte const> bytes, record_planes const& plane_of,
                                                           context const& ctx = {}) {
  detail::plane_runs const runs(plane_of);
  if (plane_of.empty() || plane_of.size() > 65536)
    throw config_error(message("entropy_encode: records of ", plane_of.size(), " bytes, possible are 1 to 65536"));
  for (std::size_t p = 0; p < runs.planes(); ++p)
    if (runs.width(p) == 0) throw config_error(message("entropy_encode: plane ", p, " of ", runs.planes(), " has no byte"));
  std::size_t const record = plane_of.size(), planes = runs.planes(), records = bytes.size() / record;
  std::size_t const chunk = std::max<std::size_t>(1, detail::entropy_chunk / record), chunks = (records + chunk - 1) / chunk;
  auto const part = [&](std::size_t c) {
    return bytes.subspan(c * chunk * record, std::min(chunk, records - c * chunk) * record);
  };
  std::vector<std::array<std::uint64_t, 256>> counts(planes);
  std::vector<std::uint8_t> symbols;
  for (std::size_t c = 0; c < chunks; ++c)
    for (std::size_t p = 0; p < planes; ++p) {
      runs.gather(part(c), p, symbols);
      for (std::uint8_t const s : symbols) ++counts[p][s];
    }
  detail::entropy_header const head{.planes = static_cast<std::uint16_t>(planes),
                                    .bytes = bytes.size(),
                                    .record = static_cast<std::uint32_t>(record),
                                    .chunk = static_cast<std::uint32_t>(chunk)};
  std::vector<std::byte> out(sizeof head);
  std::memcpy(out.data(), &head, sizeof head);
  for (std::uint8_t const plane : plane_of) out.push_back(std::byte{plane});
  std::vector<detail::rans_model> models;
  for (auto const& count : counts) models.push_back(detail::rans_model::of(count));
  std::vector<std::vector<std::byte>> coded(chunks * planes);
  std::vector<std::size_t> plain(chunks * planes);
  ctx.parallel_for(static_cast<index_t>(chunks), 1, [&](index_t begin, index_t end) {
    std::vector<std::uint8_t> plane;
    for (auto c = static_cast<std::size_t>(begin); c < static_cast<std::size_t>(end); ++c)
      for (std::size_t p = 0; p < planes; ++p) {
        runs.gather(part(c), p, plane);
        plain[c * planes + p] = plane.size();
        coded[c * planes + p] = detail::rans_encode(plane, models[p]);
      }
  });
  for (std::size_t p = 0; p < planes; ++p) {
    std::vector<std::byte> model;
    detail::append_model(model, models[p]);
    std::size_t saved = 0;
    for (std::size_t k = p; k < coded.size(); k += planes) saved += plain[k] - std::min(plain[k], coded[k].size());
    bool const worth_it = saved > model.size();
    if (!worth_it) model.assign(32, std::byte{}); // no byte occurs: there are no frequencies
    out.insert(out.end(), model.begin(), model.end());
    for (std::size_t c = 0; c < chunks; ++c)
      if (auto const k = c * planes + p; !worth_it || coded[k].size() >= plain[k]) {
        runs.gather(part(c), p, symbols);
        auto const as_it_is = std::as_bytes(std::span(symbols));
        coded[k].assign(as_it_is.begin(), as_it_is.end());
      }
  }
  for (auto const& one : coded) detail::append_bytes(out, static_cast<std::uint32_t>(one.size()));
  auto const append = [&](std::span<std::byte const> more) {
    auto* const to = detail::append_room(out, std::ssize(more));
    if (!more.empty()) std::memcpy(to, more.data(), more.size());
  };
  for (auto const& one : coded) append(one);
  append(bytes.subspan(records * record));
  return out;
}

/// What entropy_encode got. Never more than `most_bytes`, whatever the bytes ask for. The failure says what is damaged.
[[nodiscard]] inline result<std::vector<std::byte>> entropy_decode(std::span<std::byte const> coded, std::uint64_t most_bytes,
                                                                   context const& ctx = {}) {
  detail::byte_reader reader(coded);
  auto const head = reader.read<detail::entropy_header>();
  if (reader.failed() || head.magic != detail::entropy_header{}.magic || head.version != 1)
    return failure{message("entropy-coded bytes: ", coded.size(), " bytes do not begin as version 1 does")};
  if (head.bytes > most_bytes)
    return failure{message("entropy-coded bytes: ", head.bytes, " bytes are promised, ", most_bytes, " are allowed")};
  if (head.record < 1 || head.record > 65536 || head.chunk < 1 ||
      head.chunk > std::max<std::size_t>(1, detail::entropy_chunk / head.record))
    return failure{message("entropy-coded bytes: records of ", head.record, " bytes, ", head.chunk, " to a chunk")};
  auto const plane_bytes = reader.take(head.record);
  if (reader.failed()) return failure{"entropy-coded bytes: end inside the planes of a record"};
  auto const* const first = reinterpret_cast<std::uint8_t const*>(plane_bytes.data());
  detail::plane_runs const runs(std::span(first, plane_bytes.size()));
  std::size_t const record = head.record, planes = runs.planes(), chunk = head.chunk;
  for (std::size_t p = 0; p < planes; ++p)
    if (runs.width(p) == 0 || planes != head.planes)
      return failure{message("entropy-coded bytes: ", head.planes, " planes; those of a record are others")};
  std::vector<std::vector<std::uint32_t>> tables;
  for (std::size_t p = 0; p < planes; ++p) {
    auto table = detail::read_table(reader);
    if (!table) return failure{message("entropy-coded bytes: the frequencies of plane ", p, " are damaged")};
    tables.push_back(std::move(*table));
  }
  auto const records = static_cast<std::size_t>(head.bytes / record), chunks = (records + chunk - 1) / chunk;
  if (reader.left() / sizeof(std::uint32_t) / planes < chunks) return failure{"entropy-coded bytes: end inside the sizes"};
  std::vector<std::span<std::byte const>> parts(chunks * planes);
  std::vector<std::uint32_t> sizes(parts.size());
  for (std::uint32_t& size : sizes) size = reader.read<std::uint32_t>();
  for (std::size_t k = 0; k < parts.size(); ++k) parts[k] = reader.take(sizes[k]);
  auto const rest = reader.take(head.bytes % record);
  if (reader.failed() || reader.left() > 0)
    return failure{message("entropy-coded bytes: ", coded.size(), " bytes, the sizes say otherwise")};
  std::vector<std::byte> out(static_cast<std::size_t>(head.bytes));
  std::vector<std::uint8_t> damaged(chunks);
  ctx.parallel_for(static_cast<index_t>(chunks), 1, [&](index_t begin, index_t end) {
    std::vector<std::uint8_t> plane;
    for (auto c = static_cast<std::size_t>(begin); c < static_cast<std::size_t>(end); ++c) {
      std::size_t const count = std::min(chunk, records - c * chunk);
      auto const to = std::span(out).subspan(c * chunk * record, count * record);
      for (std::size_t p = 0; p < planes && damaged[c] == 0; ++p) {
        plane.resize(count * runs.width(p));
        auto const from = parts[c * planes + p];
        if (from.size() == plane.size())
          std::memcpy(plane.data(), from.data(), from.size());
        else if (from.size() > plane.size() || tables[p].empty() ||
                 !detail::rans_decode(from, tables[p].data(), plane, ctx.simd))
          damaged[c] = 1;
        runs.scatter(plane, p, to);
      }
    }
  });
  if (auto const bad = std::find(damaged.begin(), damaged.end(), 1); bad != damaged.end())
    return failure{message("entropy-coded bytes: chunk ", bad - damaged.begin(), " of ", chunks, " is damaged")};
  std::copy(rest.begin(), rest.end(), out.end() - static_cast<std::ptrdiff_t>(rest.size()));
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
