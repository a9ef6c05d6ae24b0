#include "slim/slim.hpp"
