#!/usr/bin/env bash
# Compiles the tests of the kernels for 64-bit ARM and runs them in an emulator, with and without the dot product instructions:
# arm_kernels.sh COMPILER EMULATOR INCLUDE EIGEN CATCH2 FOLDER
set -eu
compiler=$1 emulator=$2 include=$3 eigen=$4 catch2=$5 folder=$6
tests=$(dirname "${BASH_SOURCE[0]}")/..

# Headers of other libraries, without the host's own beside them.
mkdir -p "$folder/include"
ln -sfn "$eigen/Eigen" "$folder/include/Eigen"
ln -sfn "$catch2/catch2" "$folder/include/catch2"
"$compiler" -std=c++20 -O2 -Wall -Wextra -Wpedantic -Wno-psabi -static -I"$include" -isystem "$folder/include" -I"$tests" \
  "$tests/support/main.cpp" "$tests/kernels/linear_test.cpp" -o "$folder/test_kernels"
for cpu in max cortex-a53; do
  echo "on $cpu"
  "$emulator" -cpu $cpu "$folder/test_kernels"
done
