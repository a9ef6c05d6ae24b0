#include "run/frontier_plot.hpp"

#include "run/table.hpp"

#include "slim/core/error.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

constexpr double width = 900, height = 600, left = 70, right = 30, top = 50, bottom = 60;

/// Maps data to pixels.
struct axes {
  double bits_from = 0, bits_to = 0, log_from = 0, log_to = 0;

  [[nodiscard]] double x(double bits) const {
    return left + (bits - bits_from) / (bits_to - bits_from) * (width - left - right);
  }
  [[nodiscard]] double y(double excess) const {
    return height - bottom - (std::log10(excess) - log_from) / (log_to - log_from) * (height - top - bottom);
  }
};

axes around(std::vector<frontier_point> const& points) {
  axes a{1e9, -1e9, 1e9, -1e9};
  for (auto const& p : points) {
    a.bits_from = std::min(a.bits_from, p.bits);
    a.bits_to = std::max(a.bits_to, p.bits);
    a.log_from = std::min(a.log_from, std::log10(p.excess));
    a.log_to = std::max(a.log_to, std::log10(p.excess));
  }
  a.bits_from = std::floor(a.bits_from * 2) / 2;
  a.bits_to = std::ceil(a.bits_to * 2 + 0.2) / 2;
  a.log_from -= 0.1;
  a.log_to += 0.1;
  return a;
}

std::string escaped(std::string const& text) {
  std::string out;
  for (char const c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  }
  return out;
}

std::string line(double x1, double y1, double x2, double y2, char const* style) {
  return "<line x1=\"" + fixed(x1, 1) + "\" y1=\"" + fixed(y1, 1) + "\" x2=\"" + fixed(x2, 1) + "\" y2=\"" + fixed(y2, 1) +
         "\" " + style + "/>\n";
}

std::string text(double x, double y, std::string const& words, char const* style) {
  return "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" " + style + ">" + escaped(words) + "</text>\n";
}

std::string grid(axes const& a) {
  std::string out;
  for (double bits = a.bits_from; bits <= a.bits_to + 1e-9; bits += 0.5) {
    out += line(a.x(bits), top, a.x(bits), height - bottom, "stroke=\"#ddd\"");
    out += text(a.x(bits), height - bottom + 18, fixed(bits, 1), "text-anchor=\"middle\"");
  }
  for (int decade = -4; decade <= 2; ++decade)
    for (int const mark : {1, 2, 5}) {
      double const excess = mark * std::pow(10.0, decade);
      if (std::log10(excess) < a.log_from || std::log10(excess) > a.log_to) continue;
      out += line(left, a.y(excess), width - right, a.y(excess), "stroke=\"#ddd\"");
      out += text(left - 8, a.y(excess) + 4, fixed(excess, decade < 0 ? -decade : 0), "text-anchor=\"end\"");
    }
  out += text((left + width - right) / 2, height - 15, "bits per weight of the linear layers, everything counted",
              "text-anchor=\"middle\"");
  out += "<text transform=\"translate(18 " + fixed(height / 2, 0) +
         ") rotate(-90)\" text-anchor=\"middle\">excess NLL, nats per token</text>\n";
  return out;
}

/// Our points by bits, each better than all with fewer bits.
std::vector<frontier_point> frontier(std::vector<frontier_point> points) {
  std::erase_if(points, [](frontier_point const& p) { return !p.ours; });
  std::stable_sort(points.begin(), points.end(),
                   [](auto const& a, auto const& b) { return a.bits < b.bits || (a.bits == b.bits && a.excess < b.excess); });
  std::vector<frontier_point> best;
  for (auto const& p : points)
    if (best.empty() || p.excess < best.back().excess) best.push_back(p);
  return best;
}

std::string staircase(axes const& a, std::vector<frontier_point> const& best) {
  if (best.size() < 2) return {};
  std::string path = slim::message("M", fixed(a.x(best[0].bits), 1), " ", fixed(a.y(best[0].excess), 1));
  for (std::size_t k = 1; k < best.size(); ++k)
    path += slim::message(" H", fixed(a.x(best[k].bits), 1), " V", fixed(a.y(best[k].excess), 1));
  return "<path d=\"" + path + "\" fill=\"none\" stroke=\"#36c\" stroke-width=\"1.5\"/>\n";
}

std::string mark(axes const& a, frontier_point const& p) {
  double const x = a.x(p.bits), y = a.y(p.excess);
  std::string out;
  if (p.low > 0 && p.high > p.low) out += line(x, a.y(p.low), x, a.y(p.high), "stroke=\"#36c\"");
  out += "<circle cx=\"" + fixed(x, 1) + "\" cy=\"" + fixed(y, 1) + "\" r=\"4\" " +
         (p.ours ? "fill=\"#36c\"" : "fill=\"white\" stroke=\"#c33\" stroke-width=\"1.5\"") + "/>\n";
  return out + text(x + 7, y - 5, p.label, p.ours ? "fill=\"#124\"" : "fill=\"#c33\"");
}

} // namespace

std::string frontier_svg(std::vector<frontier_point> const& all, std::string const& title) {
  std::vector<frontier_point> points = all;
  std::erase_if(points, [](frontier_point const& p) { return !(p.excess > 0) || !std::isfinite(p.excess); });
  std::string out =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 600\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"900\" height=\"600\" fill=\"white\"/>\n" +
      text(left, 28, title, "font-size=\"15\"");
  if (!points.empty()) {
    axes const a = around(points);
    out += grid(a) + staircase(a, frontier(points));
    for (auto const& p : points) out += mark(a, p);
  }
  return out + "</svg>\n";
}

} // namespace slim_llm
