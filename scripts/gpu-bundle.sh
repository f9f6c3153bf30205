#!/usr/bin/env bash
# Everything that a machine with a GPU needs to test and measure triscore, and that has no Rust and no network.
#
#   scripts/gpu-bundle.sh [TO]        # a folder (target/gpu-bundle), and beside it the same as .tar.gz
#
# There: tar xzf gpu-bundle.tar.gz && gpu-bundle/run.sh. Programs are built for this machine's C library or a newer one.
# Kernels of the benchmark are compiled for ARCHITECTURES (sm_90a) where NVRTC is here, so that it runs where none is:
#   KERNELS=quick   only those of the small networks      KERNELS=none   no kernels
#   NVRTC=1         carries NVRTC along (two hundred megabytes): without one over there the tests compile nothing
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
to=${1:-$root/target/gpu-bundle}
cargo=${CARGO:-cargo}
cd "$root"

[ -f third_party/onnxruntime/libonnxruntime.so ] || { echo "gpu-bundle: no ONNX Runtime: make setup" >&2; exit 1; }
[ -d target/conformance/float ] || { echo "gpu-bundle: no cases: make conformance" >&2; exit 1; }
case $to in *gpu-bundle*) rm -rf -- "$to" ;; *) echo "gpu-bundle: the folder's name must have gpu-bundle in it" >&2; exit 2 ;; esac
mkdir -p "$to/bin" "$to/kernels" "$to/scripts" "$to/hardware-tests/conformance" "$to/target/conformance"

echo "building (release)" >&2
$cargo test --release --locked --no-run --lib --test conformance --test hardware --bench gpu --message-format=json > "$to/build.json"
python3 - "$to" <<'PY'
import json
import pathlib
import shutil
import sys

to = pathlib.Path(sys.argv[1])
names = {
    ("lib", "triscore"): "unit-tests",
    ("test", "conformance"): "conformance-tests",
    ("test", "hardware"): "hardware-tests",
    ("bench", "gpu"): "gpu-bench",
    ("bin", "triscore"): "triscore",
}
for line in (to / "build.json").read_text().splitlines():
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("executable"):
        target = message["target"]
        name = names.pop((target["kind"][0], target["name"]), None)
        if name:
            shutil.copy(message["executable"], to / "bin" / name)
if names:
    sys.exit(f"gpu-bundle: cargo built no {', '.join(name for _, name in names)}")
PY
rm "$to/build.json"
strip "$to"/bin/*
cp -L third_party/onnxruntime/libonnxruntime.so "$to/bin/"
cp -R models "$to/models"
cp -R target/conformance/float "$to/target/conformance/"
cp hardware-tests/conformance/*.txt "$to/hardware-tests/conformance/"
cp -R hardware-tests/conformance/int8 "$to/hardware-tests/conformance/"
cp -R scripts/gpu "$to/scripts/gpu"
rm -rf "$to/scripts/gpu/__pycache__"
mv "$to/scripts/gpu/run.sh" "$to/run.sh"
{ git rev-parse HEAD && git status --short --untracked-files=no; } > "$to/COMMIT" 2> /dev/null || true

nvrtc=$(find -L .venv/lib -path '*nvidia/cu13/lib/libnvrtc.so.13' -printf '%h\n' -quit 2> /dev/null || true)
if [ "${NVRTC:-0}" = 1 ] && [ -n "$nvrtc" ]; then
    mkdir -p "$to/cuda"
    find "$nvrtc" -name 'libnvrtc*.so.13*' ! -name '*alt*' -exec cp {} "$to/cuda/" \;
fi
if [ "${KERNELS:-all}" = none ]; then
    echo "no kernels are compiled: KERNELS=none" >&2
elif [ -n "$nvrtc" ]; then
    for architecture in ${ARCHITECTURES:-sm_90a}; do
        arguments=(--fill-cache "$architecture")
        [ "${KERNELS:-all}" = quick ] && arguments+=(--quick)
        TRISCORE_KERNEL_CACHE=$to/kernels TRISCORE_CUDA_LIBRARIES=$(cd "$nvrtc" && pwd) "$to/bin/gpu-bench" "${arguments[@]}" >&2 ||
            echo "some kernels were not compiled: they are over there, if NVRTC is" >&2
    done
else
    echo "no kernels are compiled: no NVRTC in .venv (scripts/setup-python.sh gpu)" >&2
fi

tar -C "$(dirname "$to")" -czf "$to.tar.gz" "$(basename "$to")"
du -sch "$to"/* && du -sh "$to.tar.gz"
