#!/usr/bin/env bash
# Builds the emulated CUDA driver: build-cuda-emulator.sh [TO]
#
# The folder (target/cuda-emulator) is all that it takes to use it, besides the compiler: libcuda.so.1 compiles the kernels that it is given,
# behind the words of the language, which are put beside it, compiled once already. CXX names the compiler (g++); exit code 69: there is none.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
to=${1:-$root/target/cuda-emulator}
emulator=$root/hardware-tests/cuda-emulator
compiler=${CXX:-g++}
command -v "${compiler%% *}" > /dev/null || { echo "no $compiler: install it to build the emulated CUDA driver" >&2; exit 69; }
mkdir -p "$to/words" "$to/objects"

# With what kernels are compiled; the driver is told, so that the words compiled here fit. No aliasing rules: kernels read floats as integers.
# What is wrong at an address or an index is looked at while they run (words/checks.h).
kernels=(-std=c++17 -O1 -ffp-contract=off -fsigned-char -fno-strict-aliasing -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti
    -fno-asynchronous-unwind-tables -fno-threadsafe-statics -fno-stack-protector
    -fsanitize=alignment,bounds,integer-divide-by-zero -w)
flags=(-std=c++17 -O2 -fPIC -fvisibility=hidden -Wall -Wextra "-DCOMPILER_FLAGS=\"${kernels[*]}\"")

# Whether a file is older than what it is made of; several processes may build at once, so what is made is moved to its place.
is_old() { [ ! -e "$1" ] || [ -n "$(find "${@:2}" -newer "$1" -print -quit)" ]; }

objects=() jobs=()
for file in "$emulator"/*.cpp; do
    object=$to/objects/$(basename "$file" .cpp).o
    if is_old "$object" "$file" "$emulator"/*.h "$emulator"/words/*.h "${BASH_SOURCE[0]}"; then
        { $compiler "${flags[@]}" -c "$file" -o "$object.$$" && mv "$object.$$" "$object"; } &
        jobs+=($!)
    fi
    objects+=("$object")
done
words=$to/words/language.h.gch
if is_old "$words" "$emulator"/words/*.h "${BASH_SOURCE[0]}"; then
    for header in "$emulator"/words/*.h; do
        cp "$header" "$to/words/.$$" && mv "$to/words/.$$" "$to/words/$(basename "$header")"
    done
    unchecked=$to/words/unchecked.h.gch
    $compiler "${kernels[@]}" -fno-sanitize=all -x c++-header "$to/words/unchecked.h" -o "$unchecked.$$" && mv "$unchecked.$$" "$unchecked"
    $compiler "${kernels[@]}" -x c++-header "$to/words/language.h" -o "$words.$$" && mv "$words.$$" "$words"
fi
for job in "${jobs[@]}"; do wait "$job"; done
if is_old "$to/libcuda.so.1" "${objects[@]}"; then
    $compiler -shared -Wl,-soname,libcuda.so.1 "${objects[@]}" -ldl -o "$to/libcuda.so.1.$$" && mv "$to/libcuda.so.1.$$" "$to/libcuda.so.1"
fi
# Libraries that compute over the driver, each one file: found where the driver is.
for library in cublaslt:libcublasLt.so.13 cudnn:libcudnn.so.9; do
    source=$emulator/libraries/${library%%:*}.cpp name=${library#*:}
    if is_old "$to/$name" "$emulator"/libraries "$to/libcuda.so.1"; then
        $compiler "${flags[@]}" -shared "-Wl,-soname,$name" "$source" "$to/libcuda.so.1" -o "$to/$name.$$" && mv "$to/$name.$$" "$to/$name"
    fi
done
echo "$to/libcuda.so.1"
