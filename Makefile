# `make run` brings the default model, builds, and opens the assistant at a local address. `make test` passes every test.

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

serve: model
	./target/release/rapport serve

test: model
	cd web && npm test
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace --locked; \
	else \
		$(CARGO) test --workspace --locked; \
	fi
	cd web && npm run e2e

bench: model
	./target/release/rapport bench decode
	./target/release/rapport bench prefill

check:
	$(CARGO) run --locked -p xtask -- check
