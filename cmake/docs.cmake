# `docs`: pages from docstrings and docs/, in BUILD/docs/html. The target fails on a dead reference or link and on a public name
# without a docstring. ctest entry "docs: reference pages".
find_program(SLIM_DOXYGEN doxygen DOC "Makes reference pages from docstrings")
if(SLIM_DOXYGEN AND Python3_FOUND)
  set(SLIM_DOCS_FOLDER ${CMAKE_BINARY_DIR}/docs)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/Doxyfile.in ${CMAKE_CURRENT_BINARY_DIR}/Doxyfile @ONLY)
  set(slim_docs_command Python3::Interpreter ${PROJECT_SOURCE_DIR}/tests/docs/check_reference.py
                        ${SLIM_DOXYGEN} ${CMAKE_CURRENT_BINARY_DIR}/Doxyfile ${SLIM_DOCS_FOLDER})
  add_custom_target(docs COMMAND ${slim_docs_command} USES_TERMINAL VERBATIM)
  add_test(NAME "docs: reference pages" COMMAND ${slim_docs_command})
  set_tests_properties("docs: reference pages" PROPERTIES LABELS docs TIMEOUT 300)
else()
  message(STATUS "slim: no reference pages, there is no doxygen or no python3")
endif()
