#pragma once
/// @file
/// A page of HTML that opens without network and needs no scripts: style and pictures are inside it, light or dark as the
/// reader has it.

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace slim_llm {

/// Text as HTML shows it.
[[nodiscard]] std::string html_text(std::string const& text);

/// A table; cells are text. All columns but the first are numbers, to the right.
[[nodiscard]] std::string html_table(std::vector<std::string> const& header, std::vector<std::vector<std::string>> const& rows);

/// Values of one kind at 0, 1, 2, ...; NaN: none there.
struct line_series {
  std::string name;
  std::vector<double> values;
};

/// A line per series over the number of the point, which `label` writes out, values from 0 on; a legend. At most eight series
/// get a colour of their own.
[[nodiscard]] std::string line_chart(std::string const& title, std::string const& x_label,
                                     std::vector<line_series> const& series,
                                     std::function<std::string(std::size_t)> const& label = {});

/// Bars from 0 on, with their values written out.
[[nodiscard]] std::string bar_chart(std::string const& title, std::vector<std::pair<std::string, double>> const& bars,
                                    std::vector<std::string> const& values);

/// The whole page around its body.
[[nodiscard]] std::string html_page(std::string const& title, std::string const& body);

} // namespace slim_llm
