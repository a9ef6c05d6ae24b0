#pragma once
/// @file
<<<<<<< HEAD
/// Umbrella of the host components: everything but io, interop and testing.

#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/adapters/sparse_adapter.hpp"
#include "slim/calibration/calibration.hpp"
#include "slim/calibration/output_error.hpp"
#include "slim/core/context.hpp"
#include "slim/core/matrix_traits.hpp"
#include "slim/core/random.hpp"
#include "slim/core/result.hpp"
#include "slim/core/scalar.hpp"
#include "slim/linalg/cholesky.hpp"
#include "slim/linalg/eigh.hpp"
#include "slim/linalg/gemm.hpp"
#include "slim/linalg/low_rank.hpp"
#include "slim/pipeline/any.hpp"
#include "slim/pipeline/compress.hpp"
#include "slim/pruning/external_mask.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/input_quantizer.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/saliency/channel_weights.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/wanda.hpp"
=======
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
>>>>>>> infra
