#pragma once
/// @file
/// Pictures and feature maps, and the files that hold pictures.

#include "slim/core/matrix.hpp"

#include <filesystem>

namespace slim_image {

using slim::index_t;

/// height x width pixels of some channels, pixel after pixel as the rows of a matrix: what a convolution sees as tokens.
struct feature_map {
  index_t height = 0;
  index_t width = 0;
  slim::matrix<float> pixels; ///< (height * width) x channels
};

/// Reads a binary PPM (P6, 8 or 16 bits a number) as red, green and blue from 0 to 1. @throws input_error
[[nodiscard]] feature_map read_ppm(std::filesystem::path const& path);

/// Writes a picture of three channels: 8-bit PPM, clamped to 0 .. 1, or if the name ends in .pfm the floats as they are.
/// @throws input_error
void write_picture(std::filesystem::path const& path, feature_map const& picture);

/// The picture with its outermost pixels repeated `border` times on every side.
[[nodiscard]] feature_map with_border(feature_map const& picture, index_t border);

/// The middle of a map. It has at least so many rows and columns.
[[nodiscard]] feature_map middle_of(feature_map const& map, index_t height, index_t width);

/// Peak signal-to-noise ratio of two pictures of one size in dB: -10 log10 of the mean squared difference of all numbers, each
/// clamped to 0 .. 1. Equal pictures: infinity.
[[nodiscard]] double psnr(feature_map const& a, feature_map const& b);

} // namespace slim_image
