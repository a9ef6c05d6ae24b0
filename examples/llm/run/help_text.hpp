#pragma once
/// @file
/// Text for terminals: help that fits, commands that can be copied.

#include <cstddef>
#include <string>

namespace slim_llm {

/// Columns of the terminal that standard output goes to, at most 100; 100 if it is none.
[[nodiscard]] std::size_t help_width();

/// Breaks lines that are longer than `width`, at spaces, or else behind commas. Lines that begin with a space go on at column
/// `indent`, others at the first.
[[nodiscard]] std::string wrapped(std::string const& text, std::size_t width, std::size_t indent);

/// A word as a shell takes it: in single quotes if it needs them.
[[nodiscard]] std::string shell_quoted(std::string const& text);

} // namespace slim_llm
