# `tidy`: clang-tidy on every header, with the checks of .clang-tidy, as one translation unit (half a minute; nothing if no header
# has changed). ctest entry "tidy: the headers". Uses the list of headers and flags of check_headers.cmake.
find_program(SLIM_CLANG_TIDY clang-tidy DOC "Looks for mistakes that compilers pass over")
if(SLIM_CLANG_TIDY)
  set(unit ${CMAKE_CURRENT_BINARY_DIR}/tidy/headers.cpp)
  list(TRANSFORM headers REPLACE "(.+)" "#include \"\\1\"\n" OUTPUT_VARIABLE lines)
  list(JOIN lines "" lines)
  if(SLIM_CUBLAS_INCLUDE)
    set(tidy_cublas -isystem ${SLIM_CUBLAS_INCLUDE})
  endif()
  file(CONFIGURE OUTPUT ${unit} CONTENT "${lines}" @ONLY)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/slim/*.hpp ${PROJECT_SOURCE_DIR}/include/slim/*.inc)
  add_custom_command(OUTPUT ${unit}.ok
    COMMAND ${SLIM_CLANG_TIDY} --quiet --config-file=${PROJECT_SOURCE_DIR}/.clang-tidy ${unit}
            -- -std=c++20 -I${PROJECT_SOURCE_DIR}/include -isystem ${slim_eigen_includes} ${tidy_cublas}
    COMMAND ${CMAKE_COMMAND} -E touch ${unit}.ok
    DEPENDS ${unit} ${sources} ${PROJECT_SOURCE_DIR}/.clang-tidy COMMENT "clang-tidy on the headers" VERBATIM)
  add_custom_target(tidy DEPENDS ${unit}.ok)
  add_test(NAME "tidy: the headers" COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target tidy)
  set_tests_properties("tidy: the headers" PROPERTIES LABELS tidy RESOURCE_LOCK build_tree TIMEOUT 600)
else()
  message(STATUS "slim: the headers are not linted, there is no clang-tidy")
endif()
