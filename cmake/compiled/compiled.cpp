// The one unit of slim::compiled: what its users see declared is defined here.
#include <slim/slim.hpp>

#include <slim/compiled.hpp>
