/// Gradients across the border, both ways. The network, its loss and its backward pass belong to "your framework", here Eigen;
/// the library owns one layer of it.
///
///  * Brought in: dY of the layer's outputs says how much the end loss cares for each token, and compression listens to it.
///  * Handed out: dL and dR of the layer's adapter, as a custom operation would return them, and an optimizer to follow them.
///
/// The data are synthetic: 16 classes, told apart by a layer of 128 -> 96 and a head.

#include <slim/slim.hpp>
#include <slim/training.hpp>

#include <Eigen/Core>

#include <cstdio>
#include <span>

using slim::index_t;
using floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

slim::matrix_view<float const> view(floats const& m) { return {m.data(), m.rows(), m.cols()}; }
Eigen::Map<floats const> map(slim::matrix<float> const& m) { return {m.data(), m.rows(), m.cols()}; }
std::span<float> all(slim::matrix<float>& m) { return {m.data(), static_cast<std::size_t>(m.size())}; }

floats random(index_t rows, index_t cols, std::uint64_t seed, double size) {
  floats m(rows, cols);
  for (index_t k = 0; k < m.size(); ++k)
    m.data()[k] = static_cast<float>(size * slim::random_normal(seed, static_cast<std::uint64_t>(k)));
  return m;
}

/// P = softmax(relu(Y) H^T), Y the layer's outputs, H the head.
floats probabilities(floats const& y, floats const& head) {
  floats z = y.cwiseMax(0.0f) * head.transpose();
  z.colwise() -= Eigen::VectorXf(z.rowwise().maxCoeff());
  z = z.array().exp().matrix();
  z.array().colwise() /= Eigen::ArrayXf(z.rowwise().sum());
  return z;
}

/// dY, given the gradient of the loss by the logits.
floats backward(floats const& y, floats const& head, floats const& d_logits) {
  return ((d_logits * head).array() * (y.array() > 0.0f).cast<float>()).matrix();
}

/// Mean Kullback-Leibler divergence of q from p.
double divergence(floats const& p, floats const& q) {
  return static_cast<double>((p.array() * (p.array().max(1e-30f) / q.array().max(1e-30f)).log()).sum()) /
         static_cast<double>(p.rows());
}

int main() {
  index_t const tokens = 2048, d_in = 128, d_out = 96, classes = 16;
  floats const X = random(tokens, d_in, 1, 1.0), W = random(d_out, d_in, 2, 0.09), head = random(classes, d_out, 3, 0.4);
  floats const Y = X * W.transpose(), dense = probabilities(Y, head);

  // Your backward pass, with the likeliest class as the label: d logits = p - label.
  floats d_logits = dense;
  for (index_t t = 0; t < tokens; ++t) {
    Eigen::Index label = 0;
    dense.row(t).maxCoeff(&label);
    d_logits(t, label) -= 1.0f;
  }
  floats const dY = backward(Y, head, d_logits);

  auto const weights = slim::token_weights(slim::token_energy(view(dY)), d_in);
  slim::matrix_view<float const> const no_outputs(nullptr, tokens, 0, 0);
  slim::calibration alike(d_in, {.gram = true}), guided(d_in, {.gram = true});
  alike.observe(view(X));
  guided.observe(view(X), no_outputs, weights);

  auto const recipe = slim::chain(slim::gptq({.bits = 2, .block = slim::per_group(32), .symmetric = false}),
                                  slim::slim_lora({.rank = {.ratio = 0.1}}));
  auto const outputs = [&](auto const& layer) {
    slim::matrix<float> const w = layer.weight.values();
    return floats(X * map(w).transpose() + (X * map(layer.adapter.left)) * map(layer.adapter.right));
  };
  double const plain = divergence(dense, probabilities(outputs(slim::compress(W, alike, recipe)), head));
  auto layer = slim::compress(W, guided, recipe);
  double const before = divergence(dense, probabilities(outputs(layer), head));
  std::printf("divergence from the dense network: tokens alike %.4f, weighted by gradients %.4f\n", plain, before);

  // The codes stay, the adapter trains towards the dense network.
  slim::matrix<float> const w = layer.weight.values();
  slim::adamw optimizer;
  auto const left = optimizer.add(layer.adapter.left.size()), right = optimizer.add(layer.adapter.right.size());
  slim::schedule const rates({.peak = 3e-3, .last = 3e-5, .steps = 100, .shape = slim::decay_shape::cosine});
  for (index_t step = 0; step < 100; ++step) {
    floats const y = outputs(layer), p = probabilities(y, head);
    floats const dy = backward(y, head, (p - dense) / static_cast<float>(tokens));
    slim::matrix<float> d_left(d_in, layer.adapter.rank()), d_right(layer.adapter.rank(), d_out);
    slim::add_linear_gradients({w.view(), layer.adapter.left.view(), layer.adapter.right.view()}, view(X), view(dy),
                               {.x = {}, .weight = {}, .left = d_left.view(), .right = d_right.view()});
    optimizer.step(left, all(layer.adapter.left), all(d_left), rates.at(step));
    optimizer.step(right, all(layer.adapter.right), all(d_right), rates.at(step));
  }
  double const after = divergence(dense, probabilities(outputs(layer), head));
  std::printf("... and after 100 steps of the adapter's training %.4f\n", after);
  return after < 0.8 * before ? 0 : 1;
}
