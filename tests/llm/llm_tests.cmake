# Tests of slim-llm: what examples/llm is made of, against independent implementations in Python where there are any.
slim_test_folder(llm LIBRARIES slim_llm_lib)
# Only where they are used: paths inside the compiler's command line would keep ccache from serving another checkout.
set_property(SOURCE llm/golden_test.cpp llm/tokenizer_test.cpp llm/record_test.cpp APPEND PROPERTY COMPILE_DEFINITIONS
             SLIM_GOLDEN_DIR="${CMAKE_CURRENT_SOURCE_DIR}/golden")
set_property(SOURCE llm/program_test.cpp llm/files_test.cpp llm/record_test.cpp llm/slim_container_test.cpp llm/interchange_test.cpp
             llm/run_folder_test.cpp APPEND PROPERTY COMPILE_DEFINITIONS
             SLIM_LLM_PROGRAM="$<TARGET_FILE:slim-llm>")
if(SLIM_LLM_MPI)
  set_property(SOURCE llm/run_folder_test.cpp APPEND PROPERTY COMPILE_DEFINITIONS SLIM_MPIRUN="${MPIEXEC_EXECUTABLE}")
endif()
add_dependencies(test_llm slim-llm)
add_executable(model_dump llm/model_dump.cpp)
target_link_libraries(model_dump PRIVATE slim_llm_lib slim_warnings)

# Against the NumPy model; exit status 77: NumPy, gguf or safetensors is missing. SLIM_PYTHON chooses the interpreter.
foreach(part families refusals gguf_refusals)
  add_test(NAME "interop: model ${part}" COMMAND sh -c "exec \"\${SLIM_PYTHON:-python3}\" \"$0\" ${part} \"$1\""
           ${CMAKE_CURRENT_SOURCE_DIR}/golden/model_oracle.py $<TARGET_FILE:model_dump>)
  set_tests_properties("interop: model ${part}" PROPERTIES LABELS interop SKIP_RETURN_CODE 77)
endforeach()

foreach(part families twice)
  add_test(NAME "interop: family ${part}" COMMAND sh -c "exec \"\${SLIM_PYTHON:-python3}\" \"$0\" ${part} \"$1\""
           ${CMAKE_CURRENT_SOURCE_DIR}/golden/family_oracle.py $<TARGET_FILE:model_dump>)
  set_tests_properties("interop: family ${part}" PROPERTIES LABELS interop SKIP_RETURN_CODE 77)
endforeach()

# Against autograd; status 77: it is missing.
add_test(NAME "interop: gradients" COMMAND sh -c "exec \"\${SLIM_PYTHON:-python3}\" \"$0\" \"$1\""
         ${CMAKE_CURRENT_SOURCE_DIR}/golden/gradient_oracle.py $<TARGET_FILE:model_dump>)
set_tests_properties("interop: gradients" PROPERTIES LABELS interop SKIP_RETURN_CODE 77 TIMEOUT 300)

# Against the tokenizers package; status 77: a package or the model (SLIM_MODEL) is missing.
add_executable(encode_strings llm/encode_strings.cpp)
target_link_libraries(encode_strings PRIVATE slim_llm_lib slim_warnings)
add_test(NAME "interop: tokenizer" COMMAND sh -c "exec \"\${SLIM_PYTHON:-python3}\" \"$0\" \"$1\""
         ${CMAKE_CURRENT_SOURCE_DIR}/golden/tokenizer_oracle.py $<TARGET_FILE:encode_strings>)
set_tests_properties("interop: tokenizer" PROPERTIES LABELS interop SKIP_RETURN_CODE 77)
add_test(NAME "interop: tokenizer folders" COMMAND sh -c "exec \"\${SLIM_PYTHON:-python3}\" \"$0\" --folders \"$1\""
         ${CMAKE_CURRENT_SOURCE_DIR}/golden/tokenizer_oracle.py $<TARGET_FILE:encode_strings>)
set_tests_properties("interop: tokenizer folders" PROPERTIES LABELS interop SKIP_RETURN_CODE 77)

# What export writes, in software that nobody here wrote; status 77: its packages cannot be had or do not load.
add_test(NAME "interop: stock readers of exported files"
         COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/interop/run.sh light $<TARGET_FILE:slim-llm>)
set_tests_properties("interop: stock readers of exported files" PROPERTIES LABELS interop SKIP_RETURN_CODE 77 TIMEOUT 600)
# .slim files, read by a second reader; status 77: NumPy, gguf or safetensors is missing.
add_test(NAME "interop: slim container" COMMAND sh -c "exec \"\${SLIM_PYTHON:-python3}\" \"$0\" \"$1\""
         ${CMAKE_CURRENT_SOURCE_DIR}/golden/slim_oracle.py $<TARGET_FILE:slim-llm>)
set_tests_properties("interop: slim container" PROPERTIES LABELS interop SKIP_RETURN_CODE 77)
