#pragma once
/// @file
/// Everything about gradients: of linear layers and of losses, what they say of tokens and weights, and how numbers follow
/// them. Not part of slim.hpp.

#include "slim/training/centroids.hpp"
#include "slim/training/fisher.hpp"
#include "slim/training/linear_gradient.hpp"
#include "slim/training/loss.hpp"
#include "slim/training/noise.hpp"
#include "slim/training/optimizer.hpp"
#include "slim/training/scale_gradient.hpp"
#include "slim/training/schedule.hpp"
#include "slim/training/straight_through.hpp"
#include "slim/training/trainable_companding.hpp"
#include "slim/training/trainable_quantizer.hpp"
