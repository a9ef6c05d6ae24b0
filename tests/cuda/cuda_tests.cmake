# What is tested of the GPU's side without a GPU. label cuda: ThreadSanitizer over the emulated kernels; where there is an nvcc, what
# it makes of the kernels for six architectures.
find_package(Threads REQUIRED)
slim_test_folder(cuda LIBRARIES Threads::Threads)
# Before the library's own folder, so that forward.cuh gets kernels that run in the emulator.
set_source_files_properties(cuda/cublas_test.cpp cuda/forward_test.cpp
                            PROPERTIES INCLUDE_DIRECTORIES "${CMAKE_CURRENT_SOURCE_DIR}/cuda/fake_cuda;${CMAKE_CURRENT_SOURCE_DIR}/cuda")

# The emulation under ThreadSanitizer, without OpenMP, whose barriers it does not know. Two more runs leave something out on purpose,
# and have to be found out.
if(NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize") # which excludes another one
  get_target_property(eigen_includes Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
  add_executable(cuda_races cuda/races.cpp)
  target_compile_features(cuda_races PRIVATE cxx_std_20)
  target_include_directories(cuda_races PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/cuda ${PROJECT_SOURCE_DIR}/include)
  target_include_directories(cuda_races SYSTEM PRIVATE ${eigen_includes})
  target_compile_options(cuda_races PRIVATE -O1 -g1 -fsanitize=thread)
  target_link_options(cuda_races PRIVATE -fsanitize=thread)
  target_link_libraries(cuda_races PRIVATE slim_warnings Threads::Threads)
  set(no_thread_sanitizer "unexpected memory mapping")
  add_test(NAME "cuda: no races in the emulated kernels" COMMAND cuda_races)
  add_test(NAME "cuda: a barrier that is left out is found" COMMAND cuda_races barrier)
  add_test(NAME "cuda: a relaxed counter is found, though its numbers are right" COMMAND cuda_races counter)
  set_tests_properties("cuda: a barrier that is left out is found" "cuda: a relaxed counter is found, though its numbers are right"
                       PROPERTIES PASS_REGULAR_EXPRESSION "WARNING: ThreadSanitizer: data race")
  set_tests_properties("cuda: a relaxed counter is found, though its numbers are right" PROPERTIES FAIL_REGULAR_EXPRESSION "outputs differ")
  set_tests_properties("cuda: no races in the emulated kernels" "cuda: a barrier that is left out is found"
                       "cuda: a relaxed counter is found, though its numbers are right"
                       PROPERTIES LABELS cuda TIMEOUT 300 SKIP_REGULAR_EXPRESSION ${no_thread_sanitizer}
                                  ENVIRONMENT "TSAN_OPTIONS=halt_on_error=0")
endif()

find_program(SLIM_NVCC nvcc HINTS /usr/local/cuda/bin ENV CUDA_HOME PATH_SUFFIXES bin DOC "CUDA's compiler, for the GPU kernels")
if(SLIM_NVCC AND Python3_FOUND)
  add_test(NAME "cuda: nvcc, registers, spills and instructions"
           COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/cuda/nvcc/gates.py ${SLIM_NVCC} ${PROJECT_SOURCE_DIR}/include
                   ${CMAKE_CURRENT_BINARY_DIR}/nvcc)
  set_tests_properties("cuda: nvcc, registers, spills and instructions" PROPERTIES LABELS cuda TIMEOUT 900)
else()
  message(STATUS "slim: no nvcc, the GPU's kernels are tested by emulation only")
endif()
