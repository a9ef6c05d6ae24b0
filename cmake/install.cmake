# `cmake --install BUILD --component slim` puts the headers and the CMake package in place:
#     find_package(slim REQUIRED)
#     target_link_libraries(mine PRIVATE slim::slim)
# Other build systems: `pkg-config --cflags slim`.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(slim_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/slim)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/slim-config.cmake.in ${PROJECT_BINARY_DIR}/slim-config.cmake
                              INSTALL_DESTINATION ${slim_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/slim-config-version.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)

install(TARGETS slim EXPORT slim-targets COMPONENT slim)
if(SLIM_BUILD_COMPILED)
  install(TARGETS slim_compiled slim_c EXPORT slim-targets COMPONENT slim)
endif()
install(EXPORT slim-targets NAMESPACE slim:: DESTINATION ${slim_package_dir} COMPONENT slim)
install(FILES ${PROJECT_BINARY_DIR}/slim-config.cmake ${PROJECT_BINARY_DIR}/slim-config-version.cmake
        DESTINATION ${slim_package_dir} COMPONENT slim)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/slim DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT slim
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.h" PATTERN "*.inc" PATTERN "*.cuh")

set(slim_openmp_flags)
if(slim_with_openmp)
  set(slim_openmp_flags ${OpenMP_CXX_FLAGS})
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/slim.pc.in ${PROJECT_BINARY_DIR}/slim.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/slim.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig COMPONENT slim)
