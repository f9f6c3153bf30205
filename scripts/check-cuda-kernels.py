#!/usr/bin/env python3
"""Compiles the kernels of kernels/cuda for real GPUs, with NVIDIA's run-time compiler, on a machine without one.

What is checked: each compiles for each architecture, and none keeps registers in memory (a spill, which costs more than it shows in any test).
Before each family stands what all of them share. A kernel of this script's own uses every function of
tensor_core.cu.

    scripts/check-cuda-kernels.py [--kernels FOLDER] [--architectures sm_80,sm_90a,sm_120]
"""

import argparse
import ctypes
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# In the order in which they stand before a family.
SHARED = ("common.cu", "tensor_core.cu")

# Every function of tensor_core.cu, once.
EVERY_TENSOR_CORE_FUNCTION = """
extern "C" __global__ void __launch_bounds__(32) every_tensor_core_function(float *y, const uint4 *x, int count)
{
    DYNAMIC_SHARED(memory);
    bool is_there = (int)threadIdx.x < count;
    copy_async_16(memory + threadIdx.x * 16, x + threadIdx.x, is_there);
    copy_async_commit();
    copy_async_4(memory + 512 + threadIdx.x * 4, x + threadIdx.x, is_there);
    copy_async_commit();
    copy_async_wait<1>();
    copy_async_wait<0>();
    __syncthreads();
    unsigned a[4], more_a[4], b[2], more_b[2];
    load_matrix_x4(a, memory + threadIdx.x * 16);
    load_matrix_x4_transposed(more_a, memory + threadIdx.x * 16);
    load_matrix_x2(b, memory + threadIdx.x % 16 * 16);
    load_matrix_x2_transposed(more_b, memory + threadIdx.x % 16 * 16);
    float d[4] = {};
    int whole[4] = {};
    mma_f16(d, a, b);
    mma_bf16(d, more_a, more_b);
    mma_tf32(d, a, more_b);
    mma_s8(whole, a, b);
    mma_u8s8(whole, more_a, b);
    for (int i = 0; i < 4; i++)
        y[threadIdx.x * 4 + i] = d[i] + (float)whole[i];
}
"""


def nvrtc() -> ctypes.CDLL:
    """The compiler of the wheel, its part of built-in functions first: it has no path to that by itself."""
    try:
        import nvidia
    except ImportError:
        sys.exit("no NVRTC: scripts/setup-python.sh gpu installs it, and .venv/bin/python has it")
    folders = [Path(path) / "cu13/lib" for path in nvidia.__path__]
    folder = next((f for f in folders if (f / "libnvrtc.so.13").exists()), None)
    if folder is None:
        sys.exit(f"no libnvrtc.so.13 in {', '.join(map(str, folders))}")
    for builtins in folder.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(folder / "libnvrtc.so.13"), ctypes.RTLD_GLOBAL)


def compiled(library: ctypes.CDLL, name: str, source: str, architecture: str) -> tuple[bool, str]:
    """Whether it compiles, and what the compiler says."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
    options = [f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    status = library.nvrtcCompileProgram(program, len(options), given)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0, log.value.decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=Path, default=ROOT / "kernels/cuda")
    parser.add_argument("--architectures", default="sm_80,sm_90a,sm_120")
    arguments = parser.parse_args()
    library = nvrtc()
    common = "\n".join((arguments.kernels / name).read_text() for name in SHARED)
    families = [(f.stem, f.read_text()) for f in sorted(arguments.kernels.glob("*.cu")) if f.name not in SHARED]
    failures = 0 if families else 1
    families.append(("tensor_core", EVERY_TENSOR_CORE_FUNCTION))
    print(f"{'FAMILY':16} {'FOR':8} {'REGISTERS':>9} {'SHARED':>8} {'SPILLED':>8}")
    for family, text in families:
        for architecture in arguments.architectures.split(","):
            good, log = compiled(library, f"{family}.cu", f"{common}\n{text}", architecture)
            if not good:
                failures += 1
                print(f"{family}: does not compile for {architecture}:\n{log}", file=sys.stderr)
                continue
            most = lambda pattern: max(map(int, re.findall(pattern, log)), default=0)  # noqa: E731
            spilled = most(r"(\d+) bytes spill stores") + most(r"(\d+) bytes spill loads")
            failures += spilled > 0
            registers, shared = most(r"Used (\d+) registers"), most(r"(\d+) bytes smem")
            print(f"{family:16} {architecture:8} {registers:9} {shared:8} {spilled:8}")
    print(f"{len(families)} families, {failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
