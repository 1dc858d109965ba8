// What a first visit loads, gzipped: the page, and every script, style and font that the start and the chat screen
// import statically. Fails the build above the budget. What is loaded on demand is listed beside it.
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { gzipSync } from 'node:zlib';

const BUDGET_BYTES = 250_000;
const build = new URL('../build/', import.meta.url).pathname;
const files = (dir) => readdirSync(dir).flatMap((f) => (statSync(join(dir, f)).isDirectory() ? files(join(dir, f)) : [join(dir, f)]));
const size = (path) => (path.endsWith('.woff2') ? statSync(path).size : gzipSync(readFileSync(path), { level: 9 }).length);

const first = new Set([join(build, 'index.html'), join(build, 'theme.js')]);
const visit = (path) => {
	if (first.has(path)) return;
	first.add(path);
	const text = readFileSync(path, 'utf8');
	if (path.endsWith('.js')) for (const m of text.matchAll(/(?:from|import)\s*["'](\.[^"']+\.js)["']/g)) visit(normalize(join(dirname(path), m[1])));
	if (path.endsWith('.css')) for (const m of text.matchAll(/url\(["']?(?:\.\/)?([^)"']+\.woff2)/g)) first.add(normalize(join(dirname(path), m[1])));
};
const html = readFileSync(join(build, 'index.html'), 'utf8');
for (const m of html.matchAll(/(?:src|href)="\/(_app\/[^"]+)"/g)) visit(join(build, m[1]));
const start = html.match(/src="\/(_app\/immutable\/start[^"]+)"/)[1];
for (const m of readFileSync(join(build, start), 'utf8').matchAll(/import\("\/(_app\/[^"]+)"\)/g)) visit(join(build, m[1]));

// The screens that stand in front of a person first: the nodes of the root, the shell, the new chat and a chat.
const manifest = JSON.parse(readFileSync(new URL('../.svelte-kit/output/client/.vite/manifest.json', import.meta.url), 'utf8'));
const want = (key) => {
	const entry = manifest[key];
	visit(join(build, entry.file));
	for (const css of entry.css ?? []) visit(join(build, css));
	for (const other of entry.imports ?? []) want(other);
};
const routes = readFileSync(new URL('../.svelte-kit/generated/client-optimized/app.js', import.meta.url), 'utf8');
if (!routes.includes('/(app)/c/[id]')) throw new Error('the chat route is not in the app');
for (const key of Object.keys(manifest).filter((key) => /client-optimized\/nodes\/\d+\.js$/.test(key))) {
	const source = readFileSync(new URL(`../${key}`, import.meta.url), 'utf8');
	if (/routes\/(\+layout|\(app\)\/\+layout|\(app\)\/\+page|\(app\)\/c\/\[id\]\/\+page)\.(svelte|ts|js)"/.test(source)) want(key);
}

const all = files(join(build, '_app')).filter((path) => /\.(js|css|woff2)$/.test(path));
let total = 0;
for (const path of first) total += size(path);
const later = all.filter((path) => !first.has(path)).map((path) => [path.slice(build.length), size(path)]).sort((a, b) => b[1] - a[1]);
console.log(`first load  ${first.size} files  ${(total / 1000).toFixed(1)} kB gzipped (budget ${BUDGET_BYTES / 1000})`);
for (const [name, bytes] of later.slice(0, 6)) console.log(`on demand   ${(bytes / 1000).toFixed(1).padStart(6)} kB  ${name}`);
console.log(JSON.stringify({ first_load_gzip_bytes: total, budget_bytes: BUDGET_BYTES, on_demand_gzip_bytes: later.reduce((sum, [, bytes]) => sum + bytes, 0) }));
if (total > BUDGET_BYTES) {
	console.error('the first load is over its budget');
	process.exit(1);
}
