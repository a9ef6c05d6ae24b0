# Misuse must fail to compile, and say why in English. slim_compile_fail(FILE) reads its cases from the file:
#
#     #if CASE == 0
#     ... right use: must compile, so that the others fail for the right reason
#     #elif CASE == 1 // error: a temporary matrix would be gone
#     ... misuse: must not compile, and the compiler's output must hold this text, word for word
#     #endif
#
# Each case is a ctest entry per compiler of SLIM_CHECK_COMPILERS.
function(slim_compile_fail source)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  cmake_path(GET source STEM stem)
  file(STRINGS ${source} cases REGEX "^#(if|elif) CASE == [0-9]+")
  foreach(compiler IN LISTS SLIM_CHECK_COMPILERS)
    cmake_path(GET compiler FILENAME label)
    foreach(case IN LISTS cases)
      string(REGEX MATCH "CASE == ([0-9]+)" _ ${case})
      set(number ${CMAKE_MATCH_1})
      set(expected "")
      if(case MATCHES "// error: (.*)$")
        set(expected "${CMAKE_MATCH_1}")
      elseif(NOT number EQUAL 0)
        message(FATAL_ERROR "${source}: case ${number} needs '// error: TEXT'")
      endif()
      set(name "compile_fail: ${stem} ${number} (${label})")
      add_test(NAME ${name}
               COMMAND ${CMAKE_COMMAND} "-DEXPECTED=${expected}" -P ${PROJECT_SOURCE_DIR}/cmake/expect_error.cmake
                       -- ${compiler} ${SLIM_CHECK_FLAGS} -fsyntax-only -DCASE=${number} ${source})
      set_tests_properties(${name} PROPERTIES LABELS compile_fail)
    endforeach()
  endforeach()
endfunction()
