# slim::compiled: the same headers, with kernels and decompositions compiled once, in cmake/compiled/compiled.cpp, instead of in every unit.
# slim::c: a shared library with the interface of slim/c.h.
set(not_in_all EXCLUDE_FROM_ALL)
if(SLIM_BUILD_COMPILED)
  set(not_in_all)
endif()

add_library(slim_compiled STATIC ${not_in_all} ${PROJECT_SOURCE_DIR}/cmake/compiled/compiled.cpp)
add_library(slim::compiled ALIAS slim_compiled)
set_target_properties(slim_compiled PROPERTIES EXPORT_NAME compiled POSITION_INDEPENDENT_CODE ON)
target_link_libraries(slim_compiled PUBLIC slim)
target_compile_definitions(slim_compiled INTERFACE SLIM_COMPILED PRIVATE SLIM_COMPILING)

add_library(slim_c SHARED ${not_in_all} ${PROJECT_SOURCE_DIR}/cmake/compiled/c_interface.cpp)
add_library(slim::c ALIAS slim_c)
set_target_properties(slim_c PROPERTIES EXPORT_NAME c CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
target_include_directories(slim_c INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
target_link_libraries(slim_c PRIVATE $<BUILD_INTERFACE:slim_compiled>)
target_compile_definitions(slim_c PRIVATE SLIM_C_BUILDING)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES) # nobody wants these without optimisation
  target_compile_options(slim_compiled PRIVATE -O2)
  target_compile_options(slim_c PRIVATE -O2)
endif()
