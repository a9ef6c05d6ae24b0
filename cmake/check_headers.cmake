# Every header under include/slim compiles alone, without a warning, with our compiler: a generated unit per header, checked
# again only when something it includes has changed. A second compiler, clang++ if there is one, reads all headers in one unit:
# a header that needs another one is found by the first, and its own warnings are found either way. ctest entries
# "headers: each compiles alone (g++)", "headers: all compile together (clang++)".
find_package(nlohmann_json QUIET)
get_target_property(slim_eigen_includes Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
set(SLIM_CHECK_FLAGS -std=c++20 -O0 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror
                     -I${PROJECT_SOURCE_DIR}/include -isystem ${slim_eigen_includes})

# The compilers that checks run with, as "name|path": ours, and clang++ beside it.
set(SLIM_CHECK_COMPILERS "${CMAKE_CXX_COMPILER}")
if(SLIM_CLANGXX AND NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  list(APPEND SLIM_CHECK_COMPILERS "${SLIM_CLANGXX}")
endif()

# With OpenMP where every one of them has it (clang++ needs libomp-dev).
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/openmp.cpp "#include <omp.h>\n")
set(with_openmp ${slim_with_openmp})
foreach(compiler IN LISTS SLIM_CHECK_COMPILERS)
  execute_process(COMMAND ${compiler} -fopenmp -fsyntax-only ${CMAKE_CURRENT_BINARY_DIR}/openmp.cpp
                  RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
  if(NOT status EQUAL 0)
    set(with_openmp OFF)
  endif()
endforeach()
if(with_openmp)
  list(APPEND SLIM_CHECK_FLAGS -fopenmp)
endif()

file(GLOB_RECURSE headers RELATIVE ${PROJECT_SOURCE_DIR}/include CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/slim/*.hpp)
if(NOT nlohmann_json_FOUND)
  list(FILTER headers EXCLUDE REGEX "^slim/io/(json|safetensors/)")
endif()
find_path(SLIM_CBLAS_INCLUDE cblas.h)
if(NOT SLIM_CBLAS_INCLUDE)
  list(FILTER headers EXCLUDE REGEX "^slim/interop/cblas.hpp$")
endif()

find_path(SLIM_CUBLAS_INCLUDE cublas_v2.h HINTS /usr/local/cuda/include ENV CUDA_HOME PATH_SUFFIXES include)
if(SLIM_CUBLAS_INCLUDE)
  list(APPEND SLIM_CHECK_FLAGS -isystem ${SLIM_CUBLAS_INCLUDE})
else()
  list(FILTER headers EXCLUDE REGEX "^slim/interop/cublas.*[.]hpp$")
endif()

# slim_check_unit(COMPILER LABEL NAME CONTENT LIST): a unit that must compile; its stamp is appended to LIST.
function(slim_check_unit compiler label name content list_name)
  set(base ${CMAKE_CURRENT_BINARY_DIR}/headers/${name})
  file(CONFIGURE OUTPUT ${base}.cpp CONTENT "${content}")
  add_custom_command(OUTPUT ${base}.${label}.ok
    COMMAND ${compiler} ${SLIM_CHECK_FLAGS} -fsyntax-only -MD -MF ${base}.${label}.d -MT ${base}.${label}.ok ${base}.cpp
    COMMAND ${CMAKE_COMMAND} -E touch ${base}.${label}.ok
    DEPENDS ${base}.cpp DEPFILE ${base}.${label}.d COMMENT "${label} ${name}" VERBATIM)
  set(${list_name} ${${list_name}} ${base}.${label}.ok PARENT_SCOPE)
endfunction()

# slim_check_test(LABEL WHAT STAMPS...): the target slim_headers_LABEL and its ctest entry.
function(slim_check_test label what)
  add_custom_target(slim_headers_${label} DEPENDS ${ARGN})
  add_test(NAME "headers: ${what} (${label})" COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target slim_headers_${label})
  set_tests_properties("headers: ${what} (${label})" PROPERTIES LABELS headers RESOURCE_LOCK build_tree TIMEOUT 1500)
endfunction()

cmake_path(GET CMAKE_CXX_COMPILER FILENAME label)
set(stamps)
foreach(header IN LISTS headers)
  string(REPLACE "/" "." name ${header})
  slim_check_unit(${CMAKE_CXX_COMPILER} ${label} ${name} "#include \"${header}\"\n#include \"${header}\"\n" stamps)
endforeach()
slim_check_test(${label} "each compiles alone" ${stamps})

list(LENGTH SLIM_CHECK_COMPILERS compilers)
if(compilers GREATER 1)
  list(TRANSFORM headers REPLACE "(.+)" "#include \"\\1\"\n" OUTPUT_VARIABLE lines)
  list(JOIN lines "" lines)
  cmake_path(GET SLIM_CLANGXX FILENAME label)
  set(stamps)
  slim_check_unit(${SLIM_CLANGXX} ${label} all "${lines}" stamps)
  slim_check_test(${label} "all compile together" ${stamps})
endif()
