#include "formats/lossless_file.hpp"

#include "run/fnv_hash.hpp"
#include "run/input_error.hpp"
#include "run/memory.hpp"

#include "slim/io/gguf/reader.hpp"
#include "slim/io/gguf/record_planes.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace slim_llm {
namespace {

using bytes_view = std::span<std::byte const>;

struct file_head {
  std::array<char, 8> magic{'S', 'L', 'I', 'M', 'L', 'O', 'S', 'S'};
  std::uint32_t version = 1;
  std::uint32_t parts = 0;
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;
};
static_assert(sizeof(file_head) == 32);

struct part_size {
  std::uint64_t bytes = 0, coded = 0;
};

/// A stretch of the file, coded as records of a type.
struct part {
  std::string type;
  slim::record_planes planes;
  bytes_view bytes;
};

/// What lies before the first tensor, then each tensor with the gap behind it: the parts are the file.
std::vector<part> parts_of(slim::gguf_file const& file) {
  auto tensors = file.tensors();
  std::erase_if(tensors, [](slim::tensor_info const& tensor) { return tensor.bytes.empty(); });
  std::sort(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) { return a.bytes.data() < b.bytes.data(); });
  bytes_view const whole = file.bytes();
  auto const begin_of = [&](std::size_t k) {
    return k < tensors.size() ? static_cast<std::size_t>(tensors[k].bytes.data() - whole.data()) : whole.size();
  };
  std::vector<part> parts = {{"rest", slim::record_planes{0}, whole.first(begin_of(0))}};
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    slim::tensor_type const type = tensors[k].type;
    std::string name = type == slim::tensor_type::other ? tensors[k].stored_type : std::string(slim::name_of(type));
    parts.push_back({std::move(name), slim::planes_of(type), whole.subspan(begin_of(k), begin_of(k + 1) - begin_of(k))});
  }
  return parts;
}

template <class T>
bytes_view bytes_of(T const& value) {
  return std::as_bytes(std::span(&value, 1));
}

/// Coded, and decoded again to be sure; or as it is, if that is not more.
std::vector<std::byte> coded(part const& one, std::filesystem::path const& file) {
  auto bytes = slim::entropy_encode(one.bytes, one.planes);
  if (bytes.size() >= one.bytes.size()) return {one.bytes.begin(), one.bytes.end()};
  auto const again = slim::entropy_decode(bytes, one.bytes.size());
  if (!again || !std::equal(again->begin(), again->end(), one.bytes.begin(), one.bytes.end()))
    throw input_error(file.string() + ": bytes of type " + one.type + " did not come back as they were; nothing was written");
  return bytes;
}

} // namespace

std::vector<lossless_share> write_lossless(std::filesystem::path const& gguf, std::filesystem::path const& out) {
  auto const file = required(slim::gguf_file::open(gguf));
  auto const parts = parts_of(file);
  fnv_hash hash;
  for (part const& one : parts) hash.add(one.bytes);
  auto written = required(slim::replacing_file::create(out));
  file_head const head{.parts = static_cast<std::uint32_t>(parts.size()), .bytes = file.file_size(), .hash = hash.value()};
  written.write(bytes_of(head));
  std::vector<lossless_share> shares;
  for (part const& one : parts) {
    auto const bytes = coded(one, gguf);
    drop_pages(one.bytes);
    written.write(bytes_of(part_size{one.bytes.size(), bytes.size()}));
    written.write(bytes);
    auto share = std::find_if(shares.begin(), shares.end(), [&](auto const& s) { return s.type == one.type; });
    if (share == shares.end()) share = shares.insert(share, {one.type, 0, 0});
    share->bytes += one.bytes.size();
    share->coded += bytes.size();
  }
  if (auto const done = written.commit(); !done) throw input_error(done.why());
  return shares;
}

std::uint64_t restore_lossless(std::filesystem::path const& packed, std::filesystem::path const& out) {
  auto const file = required(slim::mapped_file::open(packed));
  auto const damaged = [&](auto const&... why) { return input_error(slim::message(packed.string(), ": ", why...)); };
  slim::detail::byte_reader reader(file.bytes());
  auto const head = reader.read<file_head>();
  if (reader.failed() || head.magic != file_head{}.magic || head.version != 1)
    throw damaged("is no file that slim-llm pack --lossless wrote");
  auto written = required(slim::replacing_file::create(out));
  fnv_hash hash;
  for (std::uint32_t k = 0; k < head.parts; ++k) {
    auto const size = reader.read<part_size>();
    auto const from = reader.take(size.coded);
    if (reader.failed()) throw damaged("is cut off inside part ", k, " of ", head.parts);
    if (size.coded == size.bytes) { // stored as it is
      hash.add(from);
      written.write(from);
      continue;
    }
    auto const bytes = slim::entropy_decode(from, std::min(size.bytes, head.bytes - std::min(head.bytes, written.size())));
    drop_pages(from);
    if (!bytes) throw damaged("part ", k, ": ", bytes.why());
    hash.add(*bytes);
    written.write(*bytes);
  }
  if (reader.left() > 0 || written.size() != head.bytes || hash.value() != head.hash)
    throw damaged("is damaged: the bytes in it are not those that were packed");
  if (auto const done = written.commit(); !done) throw input_error(done.why());
  return head.bytes;
}

} // namespace slim_llm
