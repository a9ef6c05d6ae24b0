#pragma once
/// @file
/// Everything an embedder needs, in one include: the host components. Readers and writers (`slim/io/`), conversions to
/// other libraries' types (`slim/interop/`) and the law suites (`slim/testing/`) are included by name.

#include "slim/config.hpp"

#include "slim/core/context.hpp"
#include "slim/core/error.hpp"
#include "slim/core/executor.hpp"
#include "slim/core/matrix.hpp"
#include "slim/core/matrix_traits.hpp"
#include "slim/core/matrix_view.hpp"
#include "slim/core/random.hpp"
#include "slim/core/result.hpp"
#include "slim/core/scalar.hpp"

#include "slim/linalg/gemm.hpp"
