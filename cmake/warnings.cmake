# slim_warnings: what our own programs are compiled with. Never part of the library's interface.
add_library(slim_warnings INTERFACE)
target_compile_options(slim_warnings INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
