#!/usr/bin/env bash
# Tests and measures triscore on this machine's GPU, out of a bundle (make gpu-bundle): nothing is installed, nothing is fetched.
#
#   ./run.sh [--quick] [STEP...]
#
# Steps, in their order; all of them without one:
#   environment devices suites libraries conformance hardware oracle memcheck racecheck tune bench peers report
# Each has a time limit of its own, and a failure stops none of the others. What they say is in results/STEP.log, figures are in
# results/*.json, results/report.md and results/bars.svg, and what became of them in results/summary.txt. LIMIT=540 bounds every step,
# for machines that end a command after ten minutes: then a few steps a command. PYTHON names the Python of the peers.
# Exit code: 0 all of these steps passed or could not be run here, 1 something failed, 69 there is no GPU.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"
python=${PYTHON:-python3}
quick=() steps=()
for argument; do
    case $argument in
        --quick) quick=(--quick) ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) steps+=("$argument") ;;
    esac
done
[ ${#steps[@]} -gt 0 ] || steps=(environment devices suites libraries conformance hardware oracle memcheck racecheck tune bench peers report)
results=$here/results failures=0
mkdir -p "$results"
export TRISCORE_ROOT=$here TRISCORE_KERNEL_CACHE=${TRISCORE_KERNEL_CACHE:-$here/kernels}
# Not what this machine's Python has: answers are compared with this very version's.
export TRISCORE_ONNXRUNTIME=$here/bin/libonnxruntime.so
[ -d "$here/cuda" ] && export TRISCORE_CUDA_LIBRARIES=${TRISCORE_CUDA_LIBRARIES:-$here/cuda}

# step SECONDS COMMAND...: under the name of the step that is at its turn.
step() {
    local limit=$1 begin=$SECONDS code verdict
    shift
    [ -n "${LIMIT:-}" ] && [ "$LIMIT" -lt "$limit" ] && limit=$LIMIT
    printf '\n=== %s (at most %d s)\n' "$name" "$limit"
    timeout --kill-after=20 "$limit" "$@" > "$results/$name.log" 2>&1
    code=$?
    tail -n "${LINES_SHOWN:-40}" "$results/$name.log"
    case $code in
        0) verdict=passed ;;
        69) verdict="not here" ;;
        124 | 137) verdict="out of time" failures=$((failures + 1)) ;;
        *) verdict="failed ($code)" failures=$((failures + 1)) ;;
    esac
    say "$verdict" "$((SECONDS - begin)) s"
}

# say VERDICT MORE: one line a step, the last that was said of it.
say() {
    touch "$results/summary.txt"
    grep -v "^$name " "$results/summary.txt" > "$results/.summary"
    printf '%-12s %-14s %s\n' "$name" "$1" "$2" | tee -a "$results/.summary"
    mv "$results/.summary" "$results/summary.txt"
}

environment() {
    date -u
    uname -srm
    grep -m1 'model name' /proc/cpuinfo
    nproc
    free -g | sed -n 2p
    cat COMMIT 2> /dev/null
    nvidia-smi || echo "no nvidia-smi"
    nvidia-smi -q -d CLOCK,POWER,PERFORMANCE 2> /dev/null | head -n 80
    bin/triscore --version
    "$python" --version
    "$python" - <<'PY'
import importlib
for name in ("torch", "triton", "onnxruntime", "numpy", "nvidia"):
    try:
        module = importlib.import_module(name)
        print(name, getattr(module, "__version__", ""), *getattr(module, "__path__", []))
    except Exception as error:
        print(name, "missing:", error)
PY
    command -v compute-sanitizer ncu nsys || true
}

devices() {
    bin/triscore devices
    bin/triscore devices --json > "$results/devices.json"
    grep -q '"backend": *"gpu"' "$results/devices.json" && [ -n "$(target)" ]
}

# What kernels are compiled for on the first GPU: sm_90a; "emulated" on an emulated one, nothing without one.
target() {
    "$python" - "$results/devices.json" <<'PY'
import json, sys
probes = json.load(open(sys.argv[1]))
for device in (d for p in probes if p["backend"] == "gpu" for d in p["devices"]):
    major, minor = device["facts"].get("compute capability", "0.0").split(".")
    print("emulated" if device["emulated"] else f"sm_{major}{minor}{'a' if int(major) >= 9 else ''}")
    break
PY
}

sanitizer() {
    command -v compute-sanitizer > /dev/null || { echo "no compute-sanitizer here"; return 69; }
    local test failed=0
    for test in gpu::suite::products gpu::suite::operators_over_rows gpu::suite::windows gpu::suite::floats gpu::suite::attention; do
        TRISCORE_SUITE_ONLY=${TRISCORE_SUITE_ONLY:-f32[2,} \
            compute-sanitizer --tool "$1" --error-exitcode 9 bin/unit-tests "$test" --nocapture --test-threads=1 || failed=1
    done
    return $failed
}

# cuBLASLt and cuDNN in place of the kernels, wherever they take something, as tests of the suite that otherwise start themselves on an emulated driver.
libraries() {
    local code failed=69 variable suite
    for variable in TRISCORE_GPU_PRODUCTS=cublaslt TRISCORE_GPU_CONVOLUTIONS=cudnn; do
        suite=$([ "${variable#*=}" = cudnn ] && echo convolutions || echo library)
        env "$variable" TRISCORE_TEST_EMULATED=1 bin/unit-tests "gpu::suite::$suite::it_is_the_library" "gpu::suite::$suite::products_of_the_library" \
            "gpu::suite::$suite::convolutions_of" --nocapture --test-threads=1 > "$results/.libraries" 2>&1
        code=$?
        cat "$results/.libraries"
        if [ "$code" = 0 ]; then
            [ "$failed" = 69 ] && failed=0
        elif grep -q 'kind: Unavailable' "$results/.libraries"; then
            echo "$variable: not here"
        else
            failed=1
        fi
    done
    return $failed
}

# The GPU backend beside ONNX Runtime's CUDA provider, where this machine's Python has it.
oracle() {
    local found
    found=$("$python" - <<'PY'
import glob, importlib.util, onnxruntime, os, sys
if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    sys.exit("onnxruntime is built without CUDA (onnxruntime-gpu has it)")
nvidia = importlib.util.find_spec("nvidia")
print(max(glob.glob(os.path.join(onnxruntime.__path__[0], "capi", "libonnxruntime.so*"))))
print(":".join(sorted({os.path.dirname(f) for p in (nvidia.submodule_search_locations if nvidia else []) for f in glob.glob(p + "/**/lib*.so*", recursive=True)})))
PY
    ) || { echo "no CUDA provider in $python"; return 69; }
    TRISCORE_CUDA_PROVIDER=required TRISCORE_ONNXRUNTIME=${found%%$'\n'*} LD_LIBRARY_PATH=${found#*$'\n'}:${LD_LIBRARY_PATH:-} \
        bin/hardware-tests cuda_provider --nocapture
}

tune() {
    # All kernels are compiled before something is timed. Who computes a product is measured, and kept, when a network is loaded.
    case $architecture in
        emulated) echo "an emulated driver compiles kernels itself"; return 69 ;;
        *) bin/gpu-bench "${quick[@]}" --fill-cache "$architecture" ;;
    esac
}

peers() {
    bin/gpu-bench "${quick[@]}" --write-models "$results/models" &&
        "$python" scripts/gpu/peers.py "${quick[@]}" --models "$results/models" --json "$results/peers.json"
}

report() {
    "$python" scripts/gpu/report.py "$results/bench.json" "$results/peers.json" --markdown "$results/report.md" --svg "$results/bars.svg"
}

export -f environment devices target libraries sanitizer oracle tune peers report
export results python
# Functions run in a shell of their own, so that `timeout` can end them; an array does not go along.
inner() { printf 'quick=(%s); %s' "${quick[*]}" "$1"; }

[ -f "$results/devices.json" ] || bin/triscore devices --json > "$results/devices.json" 2> /dev/null
architecture=$(target)
export architecture
# Tests start themselves again on an emulated driver where they find one, and are told when they are on one already.
[ "$architecture" = emulated ] && export TRISCORE_TEST_EMULATED=1
if [ ${#quick[@]} -gt 0 ]; then
    suite=gpu::suite::operators_over_rows
    export TRISCORE_CASES_FILTER=${TRISCORE_CASES_FILTER:-softmax_axis}
else
    suite=gpu::suite
fi
if [ -z "$architecture" ]; then
    bin/triscore devices
    echo "no GPU: nothing is tested or measured" | tee "$results/summary.txt"
    exit 69
fi

for name in "${steps[@]}"; do
    case $name in
        environment) step 120 bash -c "$(inner environment)" ;;
        devices) step 120 bash -c "$(inner devices)" ;;
        # What is left out is about the emulated driver, and starts itself on it.
        suites) step 1200 bin/unit-tests "$suite" --skip mistakes --skip suite::library --skip suite::convolutions --nocapture --test-threads=1 ;;
        libraries) step 1200 bash -c "$(inner libraries)" ;;
        conformance) step 1200 bin/conformance-tests float:: int8::the_gpu --nocapture --test-threads=1 ;;
        hardware)
            if [ ${#quick[@]} -gt 0 ]; then say "not run" "--quick"; else
                TRISCORE_DEVICES=gpu TRISCORE_ONLY=gpu step 1800 bin/hardware-tests --nocapture --test-threads=1
            fi ;;
        oracle) step 600 bash -c "$(inner oracle)" ;;
        memcheck | racecheck) step 900 bash -c "$(inner "sanitizer $name")" ;;
        tune) step 1200 bash -c "$(inner tune)" ;;
        bench) step 1800 bin/gpu-bench "${quick[@]}" --json "$results/bench.json" ;;
        peers) step 3600 bash -c "$(inner peers)" ;;
        report) step 60 bash -c "$(inner report)" ;;
        *) echo "unknown step $name"; exit 2 ;;
    esac
done

printf '\n=== summary (%s)\n' "$results/summary.txt"
[ "$architecture" = emulated ] && echo "emulated: nothing of this tells anything of a GPU"
cat "$results/summary.txt"
[ "$failures" = 0 ]
