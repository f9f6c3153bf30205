# triscore: the two commands that a newcomer needs are `make demo` and `make test`.
# Both set up everything they need below this folder; nothing is installed into the system.

CARGO ?= cargo
ORT := third_party/onnxruntime/libonnxruntime.so
CASES := target/conformance/float

# Kernels that PoCL has built are kept here, and its threads on cores of their own: without that the system may run both on one.
export POCL_CACHE_DIR ?= $(CURDIR)/target/pocl-cache
export POCL_AFFINITY ?= 1

.PHONY: help setup build demo test conformance test-fpga test-gpu test-cudnn cuda-emulator lint docs bench bench-engine bench-gpu gpu-bundle bench-server bench-scripts fuzz clean

help: ## what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## fetch ONNX Runtime's library, pinned by checksum
	@scripts/install-onnxruntime.sh

build: setup ## the program, optimised
	$(CARGO) build --release --locked --bin triscore

demo: build ## register a model, deploy it, score a real digit, clean up
	@scripts/demo.sh

test: setup conformance ## all tests
	@scripts/install-opencl.sh
	@scripts/setup-python.sh contract
	$(CARGO) test --locked
	.venv/bin/python -m unittest discover -s tests/contract
	.venv/bin/python tests/contract/differential.py --triscore 'target/debug/triscore serve --ic {ic} --dc {dc} --port {port}'
	python3 tests/tutorial.py --triscore target/debug/triscore

conformance: $(CASES)/.made ## ONNX's own tests of float operators, as files for `make test` (installs onnx into .venv)

$(CASES)/.made: hardware-tests/conformance/float.txt scripts/conformance.py scripts/requirements-conformance.txt
	@scripts/setup-python.sh conformance
	.venv/bin/python scripts/conformance.py $< $(@D)
	@touch $@

test-fpga: setup ## the FPGA engine on Intel's emulator, and under Oclgrind (installs both)
	@scripts/install-opencl.sh --emulator
	OCL_ICD_VENDORS=$(CURDIR)/third_party/fpga-emulator/lib/libintelocl_emu.so TRISCORE_CASES=16 $(CARGO) test --locked --test fpga -- every_operator quantised_digits faults host batches dynamic --nocapture
	OCL_ICD_VENDORS=$(CURDIR)/third_party/fpga-emulator/lib/libintelocl_emu.so $(CARGO) test --locked --test program fpga::
	@scripts/install-opencl.sh --oclgrind
	@rm -f target/oclgrind.log
	OCL_ICD_VENDORS=/usr/lib/oclgrind/liboclgrind-rt-icd.so OCLGRIND_DATA_RACES=1 OCLGRIND_LOCAL_MEM_SIZE=262144 OCLGRIND_LOG=target/oclgrind.log TRISCORE_CASES=12 $(CARGO) test --locked --test fpga -- every_operator --nocapture --test-threads=1
	@if [ -s target/oclgrind.log ]; then head -n 40 target/oclgrind.log; exit 1; fi

test-gpu: setup ## the GPU's kernels, compiled for real ones without one (installs NVRTC into .venv), and the device suites on the emulated one
	@scripts/setup-python.sh gpu
	TRISCORE_NVRTC=required $(CARGO) test --locked --lib gpu::plan::tests::compiled -- --nocapture
	@scripts/build-cuda-emulator.sh
	LD_LIBRARY_PATH=$(CURDIR)/target/cuda-emulator TRISCORE_DEVICES=gpu TRISCORE_ONLY=gpu $(CARGO) test --locked --test hardware -- --nocapture

test-cudnn: ## NVIDIA's cuDNN, asked without a GPU what it takes of our convolutions (installs half a gigabyte into .venv)
	@scripts/setup-python.sh cudnn
	TRISCORE_CUDNN=required $(CARGO) test --locked --lib gpu::cudnn -- --nocapture

cuda-emulator: ## the emulated CUDA driver (wants g++)
	@scripts/build-cuda-emulator.sh

lint: ## formatting, clippy, every feature on its own
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@scripts/check-features.sh

docs: ## the documentation, without a warning
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

bench: setup ## ratios against bare ONNX Runtime, side by side in one run
	$(CARGO) bench --locked --bench ratios

bench-engine: setup ## the FPGA engine beside ONNX Runtime, on the first OpenCL device
	@scripts/install-opencl.sh
	$(CARGO) bench --locked --bench engine

bench-gpu: ## the GPU backend on ResNet-50 and BERT, on the first GPU (emulated ones get small networks)
	$(CARGO) bench --locked --bench gpu

gpu-bundle: setup conformance ## what a machine with a GPU needs to test and measure, and no Rust: target/gpu-bundle.tar.gz
	@scripts/gpu-bundle.sh

bench-server: build ## the server against the Azure ML inference server (installs it into .venv; wants wrk)
	$(CARGO) build --release --locked --example bare_axum
	@scripts/setup-python.sh bench
	@.venv/bin/python scripts/bench-server.py --model models/digits_mlp/model.onnx --server 'triscore=target/release/triscore serve {model} --port {port}' --server 'bare=target/release/examples/bare_axum {model} {port}'

bench-scripts: build ## entry scripts in workers against the Azure ML inference server, same script (as bench-server)
	@scripts/setup-python.sh bench
	@.venv/bin/python scripts/bench-server.py --model models/digits_mlp/model.onnx --server 'triscore=target/release/triscore serve --ic scripts/bench/inferenceconfig.json --port {port}' --env 'triscore=BENCH_MODEL=$(CURDIR)/models/digits_mlp/model.onnx'

fuzz: ## a short run of every fuzz target
	@scripts/fuzz-smoke.sh 20

clean: ## what was built and fetched
	rm -rf target third_party .venv
