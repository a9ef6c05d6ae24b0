#include "run/html_page.hpp"

#include "run/table.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace slim_llm {
namespace {

constexpr double width = 900, height = 320, left = 60, right = 20, top = 20, bottom = 40;

constexpr char const* style = R"(
:root { color-scheme: light dark; --back: #ffffff; --ink: #1c1e21; --dim: #5d6571; --line: #d6dae0;
  --c0: #2563c9; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; --c4: #a16207; --c5: #0e7490; --c6: #be185d; --c7: #57534e; }
@media (prefers-color-scheme: dark) { :root { --back: #15171b; --ink: #e6e8eb; --dim: #a2abb8; --line: #363c46;
  --c0: #7fb0ff; --c1: #ff9a62; --c2: #6fd38c; --c3: #cf9bff; --c4: #e6c25a; --c5: #62cfe6; --c6: #ff8fc0; --c7: #bdb6ad; } }
body { background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; min-width: 340px; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; font-size: 0.9rem; }
.dim { color: var(--dim); } pre { overflow-x: auto; font-size: 0.85rem; } code { overflow-wrap: anywhere; }
)";

std::string colour(std::size_t k) { return "var(--c" + std::to_string(k % 8) + ")"; }

/// A round number at or above `value`.
double round_above(double value) {
  if (!(value > 0)) return 1;
  double const power = std::pow(10.0, std::floor(std::log10(value)));
  for (double const step : {1.0, 2.0, 2.5, 5.0, 10.0})
    if (step * power >= value) return step * power;
  return 10 * power;
}

std::string svg_line(double x1, double y1, double x2, double y2) {
  return "<line x1=\"" + fixed(x1, 1) + "\" y1=\"" + fixed(y1, 1) + "\" x2=\"" + fixed(x2, 1) + "\" y2=\"" + fixed(y2, 1) +
         "\" stroke=\"var(--line)\"/>\n";
}

std::string svg_text(double x, double y, char const* anchor, std::string const& text) {
  return "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" text-anchor=\"" + anchor + "\">" + html_text(text) +
         "</text>\n";
}

std::string svg_begin(std::string const& title, double tall) {
  return "<div class=\"wide\"><svg viewBox=\"0 0 " + fixed(width, 0) + " " + fixed(tall, 0) + "\" role=\"img\" aria-label=\"" +
         html_text(title) + "\">\n";
}

} // namespace

std::string html_text(std::string const& text) {
  std::string out;
  for (char const c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

std::string html_table(std::vector<std::string> const& header, std::vector<std::vector<std::string>> const& rows) {
  std::string out = "<div class=\"wide\"><table><thead><tr>";
  for (auto const& cell : header) out += "<th>" + html_text(cell) + "</th>";
  out += "</tr></thead><tbody>\n";
  for (auto const& row : rows) {
    out += "<tr>";
    for (auto const& cell : row) out += "<td>" + html_text(cell) + "</td>";
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string line_chart(std::string const& title, std::string const& x_label, std::vector<line_series> const& series,
                       std::function<std::string(std::size_t)> const& label) {
  double largest = 0;
  std::size_t count = 1;
  for (auto const& s : series) {
    count = std::max(count, s.values.size());
    for (double const v : s.values)
      if (std::isfinite(v)) largest = std::max(largest, v);
  }
  double const highest = round_above(largest);
  auto const x = [&](std::size_t k) {
    return left + (count > 1 ? static_cast<double>(k) / static_cast<double>(count - 1) : 0.5) * (width - left - right);
  };
  auto const y = [&](double v) { return height - bottom - v / highest * (height - top - bottom); };
  std::string out = svg_begin(title, height), legend = "<div class=\"legend\">";
  for (int k = 0; k <= 4; ++k) {
    double const value = highest * k / 4;
    out += svg_line(left, y(value), width - right, y(value)) + svg_text(left - 8, y(value) + 4, "end", fixed(value, 3));
  }
  std::size_t const step = std::max<std::size_t>(1, count / 10);
  for (std::size_t k = 0; k < count; k += step)
    out += svg_text(x(k), height - bottom + 18, "middle", label ? label(k) : std::to_string(k));
  out += svg_text((left + width) / 2, height - 4, "middle", x_label);
  for (std::size_t k = 0; k < series.size(); ++k) {
    std::string points;
    for (std::size_t j = 0; j < series[k].values.size(); ++j)
      if (double const v = series[k].values[j]; std::isfinite(v)) points += fixed(x(j), 1) + "," + fixed(y(v), 1) + " ";
    out += "<polyline fill=\"none\" stroke=\"" + colour(k) + "\" stroke-width=\"2\" points=\"" + points + "\"/>\n";
    legend += "<span><span style=\"color:" + colour(k) + "\">&#9632;</span> " + html_text(series[k].name) + "</span>";
  }
  return out + "</svg></div>\n" + legend + "</div>\n";
}

std::string bar_chart(std::string const& title, std::vector<std::pair<std::string, double>> const& bars,
                      std::vector<std::string> const& values) {
  constexpr double row = 34, name_width = 230, value_width = 110;
  double largest = 0;
  for (auto const& bar : bars) largest = std::max(largest, bar.second);
  double const unit = largest > 0 ? (width - name_width - value_width) / largest : 0;
  std::string out = svg_begin(title, row * static_cast<double>(bars.size()) + 6);
  for (std::size_t k = 0; k < bars.size(); ++k) {
    double const at = row * static_cast<double>(k) + 6, size = bars[k].second * unit;
    out += svg_text(name_width - 10, at + 18, "end", bars[k].first);
    out += "<rect x=\"" + fixed(name_width, 1) + "\" y=\"" + fixed(at, 1) + "\" width=\"" + fixed(size, 1) +
           "\" height=\"26\" rx=\"3\" fill=\"" + colour(k) + "\"/>\n";
    out += svg_text(name_width + size + 8, at + 18, "start", values[k]);
  }
  return out + "</svg></div>\n";
}

std::string html_page(std::string const& title, std::string const& body) {
  return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
         "content=\"width=device-width, initial-scale=1\"><title>" +
         html_text(title) + "</title><style>" + style + "</style></head><body>\n<h1>" + html_text(title) + "</h1>\n" + body +
         "</body></html>\n";
}

} // namespace slim_llm
