# `make run` builds and opens the assistant at a local address; the default model is brought meanwhile. `make test` passes every test.

CARGO ?= cargo

.PHONY: run chat serve web test bench check model build

build: web
	$(CARGO) build --release --locked -p rapport-cli

model: build
	./target/release/rapport pull

# The web app, built where the server finds it. Its packages are brought only when their lock changed.
web: web/node_modules/.package-lock.json
	cd web && npm run build

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci

run: serve

chat: model
	./target/release/rapport chat

serve: build
	./target/release/rapport serve

# One build serves every test: the program that the tests of the workspace start also brings the model and is what the
# browser talks to.
TESTS = $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

test: web
	$(CARGO) $(TESTS) --workspace --locked --no-run
	./target/debug/rapport pull
	cd web && npm test
	$(CARGO) $(TESTS) --workspace --locked
	cd web && npm run e2e
	cd web && RAPPORT_BIN=../target/debug/rapport npm run e2e:real

bench: model
	./target/release/rapport bench decode
	./target/release/rapport bench prefill

check:
	$(CARGO) run --locked -p xtask -- check
