#!/usr/bin/env bash
# Builds the emulated CUDA driver with the kernels of a folder in it: build-cuda-emulator.sh [KERNELS [TO]]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kernels=$(cd "${1:-$root/kernels/cuda}" && pwd)
to=${2:-$root/target/cuda-emulator}
emulator=$root/hardware-tests/cuda-emulator
command -v g++ > /dev/null || { echo "no g++: install it to build the emulated CUDA driver" >&2; exit 69; }
mkdir -p "$to"
flags=(-std=c++17 -O1 -ffp-contract=off -fPIC -fvisibility=hidden -Wall -Wno-unused)

# The emulator itself, once.
objects=()
mkdir -p "$root/target/cuda-emulator/objects"
for file in "$emulator"/*.cpp; do
    object=$root/target/cuda-emulator/objects/$(basename "$file" .cpp).o
    newest=$(ls -t "$file" "$emulator"/*.h | head -n 1)
    [ "$object" -nt "$newest" ] || { g++ "${flags[@]}" -O2 -c "$file" -o "$object.$$" && mv "$object.$$" "$object"; }
    objects+=("$object")
done

# Every family is compiled by itself, behind what all of them share; each of its kernels is entered into the books.
for file in "$kernels"/*.cu; do
    family=$(basename "$file" .cu)
    [ "$family" = common ] && continue
    unit=$to/$family.cpp
    {
        printf '#include "%s/kernels.h"\n#include "%s/language.h"\n' "$emulator" "$emulator"
        printf '#include "%s/common.cu"\n#include "%s"\n' "$kernels" "$file"
        grep -oE '^extern "C" __global__ void (__launch_bounds__\([0-9]+\) )?[a-z0-9_]+' "$file" | awk '{print "EMULATED_KERNEL(" $NF ")"}'
    } > "$unit"
    g++ "${flags[@]}" -c "$unit" -o "$to/$family.o"
    objects+=("$to/$family.o")
done
g++ -shared -Wl,-soname,libcuda.so.1 "${objects[@]}" -o "$to/libcuda.so.1.new"
mv "$to/libcuda.so.1.new" "$to/libcuda.so.1"
echo "$to/libcuda.so.1"
