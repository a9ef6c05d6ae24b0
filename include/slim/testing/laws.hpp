#pragma once
/// @file
/// All law suites: run them on your own components.

#include "slim/testing/allocator_laws.hpp"
#include "slim/testing/executor_laws.hpp"
#include "slim/testing/grid_laws.hpp"
#include "slim/testing/input_quantizer_laws.hpp"
#include "slim/testing/joint_laws.hpp"
#include "slim/testing/low_rank_solver_laws.hpp"
#include "slim/testing/packed_format_laws.hpp"
#include "slim/testing/pruner_laws.hpp"
#include "slim/testing/quantizer_laws.hpp"
#include "slim/testing/saliency_laws.hpp"
#include "slim/testing/transform_laws.hpp"
