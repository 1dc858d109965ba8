#!/usr/bin/env bash
# Asks a real server with the default model what its description allows, and much that it does not:
# no answer may be a fault of the server's, or other than described.
#
#   scripts/schemathesis.sh [PROGRAM] [CASES]
#
# PROGRAM is the built rapport (target/release/rapport), CASES how many requests at least (2000).
# Needs Python with venv; brings Schemathesis into target/schemathesis.
set -euo pipefail
cd "$(dirname "$0")/.."
program=${1:-target/release/rapport}
cases=${2:-2000}
tools=target/schemathesis
[ -x "$tools/bin/schemathesis" ] || { python3 -m venv "$tools" && "$tools/bin/pip" install -q 'schemathesis==4.32.5'; }

home=$(mktemp -d)
key="key-for-schemathesis-$$-$RANDOM$RANDOM"
RAPPORT_ADMIN_KEY=$key "$program" serve --port 0 --data "$home" --require-key 2> "$home/log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -rf "$home"' EXIT
url=
for _ in $(seq 600); do
  url=$(sed -n 's/.* at \(http:[^ ]*\)$/\1/p' "$home/log" | head -1)
  [ -n "$url" ] && curl -sf "$url/readyz" > /dev/null && break
  kill -0 $server || { cat "$home/log"; exit 1; }
  sleep 0.2
done

operations=$(curl -sf "$url/openapi.json" | python3 -c 'import json, sys; print(sum(len(p) for p in json.load(sys.stdin)["paths"].values()))')
each=$(( (cases + operations - 1) / operations ))
echo "$operations operations, $each cases each and those of the coverage phase"
SCHEMATHESIS_HOOKS=scripts/schemathesis/hooks.py PYTHONPATH=. "$tools/bin/schemathesis" run "$url/openapi.json" \
  --header "Authorization: Bearer $key" --phases coverage,fuzzing --max-examples "$each" \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --continue-on-failure --request-timeout 60 --seed 1 --suppress-health-check all
kill -0 $server && echo "the server lives"
