# make demo: set-up and the main job on embedded data.  make test: set-up and all tests.  lint, docs, bench, dist: see below.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PY := $(VENV)/bin/python
RELEASES := 6.0.7 6.1.9 6.2.3

demo: $(VENV)/.demo
	$(PY) -m yolov5_prune_plugin demo

test: $(VENV)/.test
	$(PY) -m pytest -n $(JOBS)

lint: $(VENV)/.lint
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

docs: $(VENV)/.docs
	$(PY) docs/make_flags.py
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

bench: $(VENV)/.test
	$(PY) -m benchmarks.speed
	$(PY) -m benchmarks.startup
	$(PY) -m benchmarks.accuracy --set shapes
	$(PY) -m benchmarks.accuracy
	$(PY) -m benchmarks.oneshot
	$(PY) -m benchmarks.oneshot --set bccd
	$(PY) -m benchmarks.oneshot --set x
	$(PY) -m benchmarks.blocks --set bccd --png docs/blocks-bccd.png
	$(PY) -m benchmarks.blocks --set coco --png docs/blocks-coco.png
	$(PY) -m benchmarks.int8 --png docs/int8-speed.png
	$(PY) -m benchmarks.int8 --set coco
	$(PY) -m benchmarks.curve
	$(PY) -m benchmarks.dns_cost
	$(PY) -m benchmarks.dns_mnist --all --final
	$(PY) -m benchmarks.dns_detect --all
	for seed in 0 1 2; do $(PY) -m benchmarks.dns_detect --way dense --epochs 120 --seed $$seed || exit 1; done
	$(PY) -m benchmarks.slim_detect --all --epochs 120
	$(PY) -m benchmarks.share_detect --all
	$(PY) -m benchmarks.compress_coco
	$(PY) -m benchmarks.dns_mnist --net lenet300 --way gmp --rate 36 --final
	$(PY) -m benchmarks.compress_mnist --bits 4 --bias-bits 4 --network runs/dns_mnist/lenet300-gmp-global-36-*-test.safetensors
	$(PY) -m benchmarks.compress_mnist --bits 3 --network runs/dns_mnist/lenet300-dns-global-56-*-test.safetensors
	$(PY) -m benchmarks.compress_mnist --bits 3 3,2.weight=4 --bias-bits 4 --network runs/dns_mnist/lenet5-dns-paper-108-*-test.safetensors
	$(PY) -m benchmarks.compress_mnist --table
	$(PY) -m benchmarks.compress_speed
	$(PY) -m benchmarks.fuzz_y5z
	$(PY) -m benchmarks.kill_writes

dist: $(VENV)/.test
	$(PY) -m build

clean:
	rm -rf build dist site *.egg-info runs $(VENV)

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(PY) setup.py
	$(PY) -m pip install --quiet -e '.[demo]'
	touch $@

# Old releases lie beside the environment: they can't all be installed at once, and their own pins no longer resolve.
$(VENV)/.test: $(VENV)/.demo
	$(PY) -m pip install --quiet -e '.[demo,test]'
	for release in $(RELEASES); do \
	  $(PY) -m pip install --quiet --no-deps --upgrade --target $(VENV)/releases/$$release yolov5==$$release || exit 1; \
	done
	touch $@

$(VENV)/.lint: $(PY) setup.py
	$(PY) -m pip install --quiet -e '.[lint]'
	touch $@

$(VENV)/.docs: $(PY) setup.py
	$(PY) -m pip install --quiet -e '.[docs]'
	touch $@

.PHONY: demo test lint docs bench dist clean
