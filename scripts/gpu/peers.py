#!/usr/bin/env python3
"""Measures others on the networks of benches/gpu.rs: PyTorch and ONNX Runtime, on the first NVIDIA GPU.

    peers.py [--json PATH] [--models DIR] [--networks A,B] [--batches 1,8] [--precisions bf16,f16] [--rounds N] [--quick]

The same shapes and layers with random weights, in PyTorch as it is fastest: captured graphs of eager code, and of
torch.compile(mode="max-autotune") (a minute or more a case, so in few precisions: --compile), channels last and batch
normalisation folded for ResNet, scaled_dot_product_attention for BERT. ONNX Runtime runs the very files that
`gpu --write-models DIR` wrote. Times are of one replay with inputs resident, of several inputs in rotation, each put in
place before its replay and outside of the time. The JSON has the form of the benchmark's own, and is written after each
case. What is missing is said and left out: nothing of this is needed to run triscore.
"""

import argparse
import gc
import importlib
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch_networks as networks

# Inputs in rotation: caches hold no answer, and powers are those of changing data.
INPUTS = 4
UNCOUNTED = 5
MOST_MS = 2000.0


def spread(times: list[float]) -> dict:
    """What of times is told, as the benchmark tells it."""
    ordered = sorted(times)
    at = lambda share: ordered[int(len(ordered) * share)]  # noqa: E731
    return {"median_ms": statistics.median_high(ordered), "p5_ms": at(0.05), "p95_ms": at(0.95)}


class Report:
    """What was measured, and what was not."""

    def __init__(self, path: Path | None, about: dict) -> None:
        self.path, self.about = path, about
        self.cases: list[dict] = []
        self.failed: list[dict] = []
        print(f"{'network':16} {'':>5} {'batch':>5} {'contestant':24} {'median ms':>10} {'p5':>10} {'p95':>10} {'rows/s':>12}")

    def save(self) -> None:
        """Whoever is stopped half way leaves what was measured."""
        if self.path:
            self.path.write_text(json.dumps(self.about | {"cases": self.cases, "failed": self.failed}, indent=1))

    def add(self, case: dict, times: list[float], **more: object) -> None:
        told = spread(times)
        rate = case["batch"] * 1e3 / told["median_ms"]
        self.cases.append(case | told | {"rate": rate, "times_ms": times, "rounds": len(times)} | more)
        print(
            f"{case['network']:16} {case['precision']:>5} {case['batch']:5} {case['contestant']:24} "
            f"{told['median_ms']:10.4f} {told['p5_ms']:10.4f} {told['p95_ms']:10.4f} {rate:12.1f}",
            flush=True,
        )
        self.save()

    def fail(self, case: dict, reason: object) -> None:
        text = f"{type(reason).__name__}: {reason}" if isinstance(reason, BaseException) else str(reason)
        text = text.strip().splitlines()[0][:300] if text.strip() else "no reason"
        self.failed.append({k: case[k] for k in ("contestant", "network", "precision", "batch") if k in case} | {"reason": text})
        shown = " ".join(str(case[k]) for k in ("network", "precision", "batch", "contestant") if k in case)
        print(f"{shown}: not measured: {text}", flush=True)
        self.save()


def optional(name: str):
    """A module, or why there is none."""
    try:
        return importlib.import_module(name), None
    except Exception as error:  # noqa: BLE001 (a package that is there and broken is as good as missing)
        return None, f"{name} is missing: {error}"


def rounds_for(first_ms: float, most: int) -> int:
    return max(min(10, most), min(most, int(MOST_MS / max(first_ms, 1e-3))))


def replayed(torch, run, put, most: int) -> list[float]:
    """Captures `run` as a graph and times its replays; `put(i)` places input i."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return timed(torch, graph.replay, put, most)


def timed(torch, run, put, most: int) -> list[float]:
    """Times of calls between events."""
    times: list[float] = []
    count = UNCOUNTED
    while len(times) < count:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        put(len(times) % INPUTS)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
        if len(times) == UNCOUNTED:
            count += rounds_for(statistics.median(times), most)
    return times[UNCOUNTED:]


def torch_cases(torch, arguments, report: Report) -> None:
    """Every network, precision and batch in PyTorch."""
    types = {"bf16": torch.bfloat16, "f16": torch.float16, "tf32": torch.float32, "f32": torch.float32}
    for name in arguments.networks:
        for precision in arguments.precisions:
            exact = precision == "f32"
            torch.backends.cuda.matmul.allow_tf32 = not exact
            torch.backends.cudnn.allow_tf32 = not exact
            torch.backends.cudnn.benchmark = True
            torch.manual_seed(0)
            model, unit = networks.make(torch, name, arguments.quick)
            model = networks.folded(torch, model.eval()).cuda().to(types[precision])
            if name == "resnet50":
                model = model.to(memory_format=torch.channels_last)
            for batch in arguments.batches:
                given = [networks.inputs(torch, name, batch, arguments.quick, types[precision]) for _ in range(INPUTS)]
                static = [tensor.clone() for tensor in given[0]]

                def put(place: int) -> None:
                    for to, tensor in zip(static, given[place], strict=True):
                        to.copy_(tensor)

                case = {"network": networks.shown(name, arguments.quick), "unit": unit, "precision": precision, "batch": batch}
                variants = [("torch graphs", model, {})]
                # A mask that hides nothing can be left out, and then attention has a faster kernel: what a caller knows and a file does not.
                if name != "resnet50":
                    variants.append(("torch graphs, no mask", model, {"with_mask": False}))
                if precision in arguments.compile:
                    try:
                        torch._dynamo.reset()
                        # Captured below, by the same hand as the others.
                        compiled = torch.compile(model, mode="max-autotune-no-cudagraphs", dynamic=False)
                        contestant, _, options = variants[-1]
                        variants.append((contestant.replace("graphs", "compile"), compiled, options))
                    except Exception as error:  # noqa: BLE001
                        report.fail(case | {"contestant": "torch compile"}, error)
                for contestant, runner, options in variants:
                    this = case | {"contestant": contestant}
                    try:
                        with torch.no_grad():
                            run = lambda: runner(*static, **options)  # noqa: B023, E731
                            report.add(this, replayed(torch, run, put, arguments.rounds))
                    except Exception as error:  # noqa: BLE001
                        report.fail(this, error)
                    gc.collect()
                    torch.cuda.empty_cache()


def onnxruntime_cases(ort, torch, arguments, report: Report) -> None:
    """The benchmark's own files in ONNX Runtime on CUDA: 32 bits, and 16 where its converter is there."""
    for name in arguments.networks:
        path = arguments.models / f"{networks.shown(name, arguments.quick)}.onnx"
        for precision in arguments.precisions:
            base = {"network": networks.shown(name, arguments.quick), "precision": precision, "contestant": "onnxruntime CUDA"}
            if not path.is_file():
                report.fail(base, f"there is no {path}: gpu --write-models writes it")
                continue
            try:
                model = onnx_model(path, precision)
            except Exception as error:  # noqa: BLE001
                report.fail(base, error)
                continue
            for batch in arguments.batches:
                case = base | {"batch": batch, "unit": "images" if name == "resnet50" else "sequences"}
                try:
                    report.add(case, onnxruntime_times(ort, model, precision, batch, arguments.rounds), by_events=False)
                except Exception as error:  # noqa: BLE001
                    report.fail(case, error)
                gc.collect()
                if torch is not None:
                    torch.cuda.empty_cache()


def onnx_model(path: Path, precision: str):
    """The file, or its form in 16 bits with inputs and outputs as they are."""
    if precision in ("f32", "tf32"):
        return str(path)
    if precision == "bf16":
        raise RuntimeError("onnxruntime has no converter to bf16")
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load(path), keep_io_types=True).SerializeToString()


def onnxruntime_times(ort, model, precision: str, batch: int, most: int) -> list[float]:
    """Replays of ONNX Runtime's own captured graph, inputs and outputs bound on the device; the host's times, it waits at the end of each."""
    import numpy

    options = {"enable_cuda_graph": "1", "prefer_nhwc": "1", "use_tf32": "0" if precision == "f32" else "1"}
    session = ort.InferenceSession(model, providers=[("CUDAExecutionProvider", options)])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("it took the CPU instead of CUDA")
    binding = session.io_binding()
    generator = numpy.random.default_rng(0)
    rotation, bound = [], []
    for port in session.get_inputs():
        shape = [d if isinstance(d, int) else batch for d in port.shape]
        floats = port.type == "tensor(float)"
        make = lambda: generator.standard_normal(shape, numpy.float32) if floats else numpy.ones(shape, numpy.int64)  # noqa: B023, E731
        rotation.append([make() for _ in range(INPUTS)])
        bound.append(ort.OrtValue.ortvalue_from_numpy(rotation[-1][0], "cuda", 0))
        binding.bind_ortvalue_input(port.name, bound[-1])
    for port in session.get_outputs():
        shape = [d if isinstance(d, int) else batch for d in port.shape]
        binding.bind_ortvalue_output(port.name, ort.OrtValue.ortvalue_from_shape_and_type(shape, numpy.float32, "cuda", 0))
    times: list[float] = []
    count = UNCOUNTED
    while len(times) < count:
        for to, arrays in zip(bound, rotation, strict=True):
            to.update_inplace(arrays[len(times) % INPUTS])
        begin = time.perf_counter()
        session.run_with_iobinding(binding)
        times.append((time.perf_counter() - begin) * 1e3)
        if len(times) == UNCOUNTED:
            count += rounds_for(statistics.median(times), most)
    return times[UNCOUNTED:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--networks", type=listed, default=["resnet50", "bert-base"])
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--precisions", type=listed, default=["bf16", "f16", "tf32", "f32"])
    parser.add_argument("--compile", type=listed, default=["bf16"], metavar="PRECISIONS")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.batches is None:
        arguments.batches = [1, 2] if arguments.quick else [1, 8, 32, 128]
    if arguments.quick:
        arguments.rounds = min(arguments.rounds, 10)
    versions, device = {"python": platform.python_version()}, {"name": "none", "shown": "none", "emulated": False}
    torch, missing = optional("torch")
    if torch is not None:
        versions |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        if torch.cuda.is_available():
            name = torch.cuda.get_device_name(0)
            device = {"name": name, "shown": f"gpu:0 {name}", "emulated": False}
        else:
            missing = "torch sees no GPU"
    about = {"program": "peers.py", "unix_time": int(time.time()), "quick": arguments.quick, "device": device, "versions": versions}
    report = Report(arguments.json, about)
    if missing is None:
        torch_cases(torch, arguments, report)
    else:
        report.fail({"contestant": "torch"}, missing)
    ort, missing = optional("onnxruntime")
    if ort is not None:
        versions["onnxruntime"] = ort.__version__
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            missing = "onnxruntime is built without CUDA (onnxruntime-gpu has it)"
        elif hasattr(ort, "preload_dlls"):
            # NVIDIA's libraries lie in Python's packages, where no loader looks.
            ort.preload_dlls()
    if missing is None:
        onnxruntime_cases(ort, torch, arguments, report)
    else:
        report.fail({"contestant": "onnxruntime CUDA"}, missing)
    print(f"{len(report.cases)} measured, {len(report.failed)} not")
    sys.exit(0 if report.cases else 69)


if __name__ == "__main__":
    main()
