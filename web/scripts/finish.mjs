// After the build: moves SvelteKit's inline start script into a file, so that the page runs under
// `script-src 'self'` with no hash and no inline script at all.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const build = new URL('../build/', import.meta.url).pathname;
const path = join(build, 'index.html');
let html = readFileSync(path, 'utf8');
const scripts = [...html.matchAll(/<script>([\s\S]*?)<\/script>/g)];
if (scripts.length !== 1) throw new Error(`index.html has ${scripts.length} inline scripts; one was expected`);
const [whole, code] = scripts[0];
const name = `_app/immutable/start.${createHash('sha256').update(code).digest('hex').slice(0, 12)}.js`;
writeFileSync(join(build, name), code);
html = html.replace(whole, () => `<script src="/${name}"></script>`);
if (/<script(?![^>]*\bsrc=)|\son\w+=|javascript:/i.test(html)) throw new Error('index.html still has inline script');
writeFileSync(path, html);
