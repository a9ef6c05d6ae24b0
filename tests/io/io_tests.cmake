# Tests of the file formats; without nlohmann-json they are left out.
slim_test_folder(io LIBRARIES nlohmann_json::nlohmann_json)
add_executable(tensor_dump io/tensor_dump.cpp)
target_link_libraries(tensor_dump PRIVATE slim::slim slim_warnings nlohmann_json::nlohmann_json)
add_executable(blocks_dump io/blocks_dump.cpp)
target_link_libraries(blocks_dump PRIVATE slim::slim slim_warnings)

# Against the Python packages gguf and safetensors; status 77: a package is missing.
add_test(NAME "interop: file formats" COMMAND sh -c "exec \"\${SLIM_PYTHON:-python3}\" \"$0\" \"$1\" \"$2\""
         ${CMAKE_CURRENT_SOURCE_DIR}/golden/io_oracle.py $<TARGET_FILE:tensor_dump> $<TARGET_FILE:blocks_dump>)
set_tests_properties("interop: file formats" PROPERTIES LABELS interop SKIP_RETURN_CODE 77)
