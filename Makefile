# triscore: the two commands that a newcomer needs are `make demo` and `make test`.
# Both set up everything they need below this folder; nothing is installed into the system.

CARGO ?= cargo
ORT := third_party/onnxruntime/libonnxruntime.so

.PHONY: help setup build demo test lint docs bench bench-server bench-scripts fuzz clean

help: ## what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## fetch ONNX Runtime's library, pinned by checksum
	@scripts/install-onnxruntime.sh

build: setup ## the program, optimised
	$(CARGO) build --release --locked --bin triscore

demo: build ## register a model, deploy it, score a real digit, clean up
	@scripts/demo.sh

test: setup ## all tests
	$(CARGO) test --locked

lint: ## formatting, clippy, every feature on its own
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@scripts/check-features.sh

docs: ## the documentation, without a warning
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

bench: setup ## ratios against bare ONNX Runtime, side by side in one run
	$(CARGO) bench --locked --bench ratios

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
