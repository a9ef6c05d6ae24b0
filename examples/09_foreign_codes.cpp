/// Codes that other software made (GPTQ, AWQ, NF4) and sums that it kept (an imatrix, a Gram matrix) in the library's own
/// types: from there they are packed, saved, multiplied, or given an adapter, as codes of our own are. Reading the files is
/// yours: slim/io/safetensors and slim/io/gguf give the arrays.

#include <slim/interop/awq.hpp>
#include <slim/interop/bitsandbytes.hpp>
#include <slim/interop/gptq.hpp>
#include <slim/interop/imatrix.hpp>
#include <slim/slim.hpp>

#include <cstdio>

int main() {
  slim::index_t const d_out = 64, d_in = 128, groups = 2;
  bool right = true;

  // GPTQ: codes of an output lie along d_in, eight of them in a word. Here every code is 5, every zero point 8.
  std::vector<std::int32_t> const qweight(static_cast<std::size_t>(d_in / 8 * d_out), 0x55555555);
  std::vector<std::int32_t> const qzeros(static_cast<std::size_t>(groups * d_out / 8), 0x77777777); // one less: format "gptq"
  std::vector<slim::fp16> const scales(static_cast<std::size_t>(groups * d_out), slim::fp16(0.25f));
  std::vector<std::int32_t> g_idx; // act-order: even channels are in group 0
  for (int j = 0; j < d_in; ++j) g_idx.push_back(j % 2);
  slim::gptq_codes const gptq = slim::from_gptq(
      {.d_out = d_out, .d_in = d_in, .bits = 4, .qweight = qweight, .qzeros = qzeros, .scales = scales, .g_idx = g_idx});
  slim::packed_linear const packed = slim::pack_linear(gptq.codes, nullptr, nullptr);
  slim::matrix<float> x(1, d_in), y(1, d_out);
  for (slim::index_t k = 0; k < d_in; ++k) // column k of the codes is channel order[k]
    x(0, k) = static_cast<float>(gptq.order[static_cast<std::size_t>(k)] % 3 == 0);
  slim::forward_into(packed, x, y, {.inputs = slim::input_precision::exact});
  std::printf("GPTQ: output %g\n", static_cast<double>(y(0, 0)));
  right = right && y(0, 0) == 43 * 0.25f * (5 - 8);

  // AWQ: eight outputs in a word, zero points as they are.
  std::vector<std::int32_t> const awq_weight(static_cast<std::size_t>(d_in * d_out / 8), 0x11111111);
  std::vector<std::int32_t> const awq_zeros(static_cast<std::size_t>(groups * d_out / 8), 0x33333333);
  slim::integer_codes const awq =
      slim::from_awq({.d_out = d_out, .d_in = d_in, .qweight = awq_weight, .qzeros = awq_zeros, .scales = scales});
  right = right && awq.value(3, 7) == 0.25f * (1 - 3);

  // NF4 of bitsandbytes: positions in a table of 16 levels. Kernels multiply levels of 8 bits: rounded_levels.
  std::vector<std::uint8_t> const nf4(static_cast<std::size_t>(d_out * d_in / 2), 0xf0); // the highest level and the lowest
  std::vector<float> const absmax(static_cast<std::size_t>(d_out * d_in / 64), 2.0f);
  slim::codebook_codes const table =
      slim::from_bitsandbytes(d_out, d_in, nf4, absmax, 64, slim::rounded_levels(slim::nf4_levels()));
  right = right && table.value(0, 0) == 2.0f && table.value(0, 1) == -2.0f;
  (void)slim::pack_linear(table, nullptr, nullptr);

  // Sums that somebody else made: llama.cpp's imatrix, or a Gram matrix X^T X over 10 tokens.
  std::vector<float> const in_sum2(static_cast<std::size_t>(d_in), 40.0f), counts{10.0f};
  slim::calibration const by_squares = slim::from_imatrix(in_sum2, counts);
  slim::matrix<double> gram(d_in, d_in);
  for (slim::index_t j = 0; j < d_in; ++j) gram(j, j) = 40.0;
  slim::calibration const by_gram = slim::calibration::from_gram(gram.view(), 10);
  right = right && by_squares.mean_square() == by_gram.mean_square();

  // An adapter for what GPTQ's codes lost of W, weighed by the Gram matrix (in the channels' own order: no act-order here).
  slim::matrix<float> w(d_out, d_in), lost(d_out, d_in);
  for (slim::index_t k = 0; k < w.size(); ++k) w.data()[k] = 0.01f * static_cast<float>(k % 17 - 8);
  awq.dequantize_into(lost.view());
  slim::subtract_into(w.view(), lost.view(), lost.view());
  slim::adapter const repair = slim::exact_lora({.rank = {.ratio = 0.1}}).solve(slim::matrix_view<float const>(lost), by_gram);
  slim::packed_linear const repaired = slim::pack_linear(awq, nullptr, &repair);
  std::printf("AWQ codes with an adapter of rank %td: %td bytes\n", repaired.rank(), repaired.byte_size());
  return right ? 0 : 1;
}
