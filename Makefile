# A thin face over Meson and Ninja. setup.sh installs what is missing.
BUILD ?= build
PREFIX ?= /usr/local
FASHION = /usr/share/datasets/fashion-mnist
MESON = meson setup -Dmpicc="$$(cat .deps/mpicc)"

.PHONY: build demo test bench chaos install format lint clean fuzz

build: $(BUILD)/build.ninja
ifdef MPICC
	@[ "$$(cat .deps/mpicc)" = "$$(command -v $(MPICC))" ] || { ./setup.sh && \
	    meson configure $(BUILD) -Dmpicc="$$(cat .deps/mpicc)"; }
endif
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja:
	@./setup.sh
	@$(MESON) $(BUILD) >.deps/meson.log 2>&1 || { cat .deps/meson.log >&2; exit 1; }

demo:
	@./setup.sh demo
	@$(MAKE) --no-print-directory build
	$(BUILD)/tandem train --data $(FASHION) --model lenet --workers 4 --threads 1 --epochs 2 \
	    --batch 128 --optimizer sgd --lr 0.05 --momentum 0.9 --seed 1 --run runs/demo --overwrite
	$(BUILD)/tandem eval --run runs/demo --data $(FASHION)
	$(BUILD)/tandem inspect runs/demo

test:
	@./setup.sh demo
	@./setup.sh fuzz
	@./setup.sh hosts
	@python3 tests/run.py

bench:
	@./setup.sh demo
	@./setup.sh bench
	@$(MAKE) --no-print-directory build
	@bench/run.sh $(BUILD)

install: build
	@meson configure $(BUILD) -Dprefix="$(abspath $(PREFIX))"
	@meson install -C $(BUILD) --quiet
	@if [ -z "$$DESTDIR" ] && [ "$$(id -u)" = 0 ] && command -v ldconfig >/dev/null; then ldconfig; fi

fuzz:
	@./setup.sh fuzz
	@python3 tests/run.py fuzz

chaos:
	@./setup.sh demo
	@./setup.sh hosts
	@$(MAKE) --no-print-directory build
	@python3 tests/chaos/chaos.py $(BUILD) --kill 200 --shard 50 --lose 20 --stop 30 --cut 20 --fill 20 --rows 60 \
	    --fed 60 --tables 100

format:
	@./setup.sh lint
	@git ls-files '*.c' '*.h' | xargs clang-format -i

lint:
	@./setup.sh lint
	@python3 tests/layers_test.py
	@git ls-files '*.c' '*.h' | xargs clang-format --dry-run --Werror
	@for cc in gcc clang; do { [ -e build-lint-$$cc/build.ninja ] || \
	    CC=$$cc $(MESON) -Dwerror=true build-lint-$$cc >.deps/meson.log 2>&1 || { cat .deps/meson.log >&2; exit 1; }; }; \
	    ninja -C build-lint-$$cc --quiet || exit 1; done

clean:
	rm -rf build build-*
