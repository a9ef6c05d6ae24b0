// The one unit of slim::compiled: what its users see declared is defined here, the rooms that slim.hpp leaves out included.
#include <slim/slim.hpp>

#include <slim/packing/rans_kernels.hpp>

#include <slim/compiled.hpp>
