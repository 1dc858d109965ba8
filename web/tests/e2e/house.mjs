// The real server with the real model, for tests of whole flows: started on a free port with a folder of its own, and
// ended with it. Needs the program with the model pulled, as `make test` leaves them (RAPPORT_BIN names another).
// With RAPPORT_PAGES=build the pages come from `build/` instead of the program, to try a change without building it anew.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer, request as ask } from 'node:http';
import { connect, createServer as createRelay } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { createInterface } from 'node:readline';
import ts from 'typescript';
import { CSP, TYPES } from '../fake-server.mjs';

const binary = process.env.RAPPORT_BIN ?? ['release', 'debug'].map((kind) => new URL(`../../../target/${kind}/rapport`, import.meta.url).pathname).find(existsSync);
const BUILD = new URL('../../build/', import.meta.url).pathname;

const WINDOW_MS = 100;
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** `{ url, link, slowly, end }`: where it listens, the owner's one-time link, what makes it slow, and what stops it. */
export async function open(...options) {
	if (!binary) throw new Error('no rapport program found: build it with `make build`, or name one in RAPPORT_BIN');
	const data = mkdtempSync(join(tmpdir(), 'rapport-web-'));
	const server = spawn(binary, ['serve', '--port', '0', '--data', data, ...options], { stdio: ['ignore', 'ignore', 'pipe'] });
	const lines = [];
	const link = await new Promise((resolve, reject) => {
		createInterface({ input: server.stderr }).on('line', (line) => {
			lines.push(line);
			const link = line.match(/http:\/\/\S+\/setup#\S+/)?.[0];
			if (link) resolve(link);
		});
		server.on('error', reject);
		server.on('exit', () => reject(new Error(`the server ended: ${lines.join('\n')}`)));
	});
	const own = new URL(link).origin;
	const pages = process.env.RAPPORT_PAGES === 'build' ? await inFront(own) : null;
	const url = pages?.url ?? own;
	return {
		url,
		link: link.replace(own, url),
		/** Lets the server run for a share of the time only while something is done, however fast the machine is. */
		async slowly(share, run) {
			let isSlow = true;
			const throttled = (async () => {
				while (isSlow) {
					server.kill('SIGSTOP');
					await wait(WINDOW_MS * (1 - share));
					server.kill('SIGCONT');
					if (isSlow) await wait(WINDOW_MS * share);
				}
			})();
			try {
				return await run();
			} finally {
				isSlow = false;
				await throttled;
			}
		},
		async end() {
			pages?.server.closeAllConnections();
			pages?.server.close();
			server.removeAllListeners('exit');
			const gone = new Promise((resolve) => server.once('exit', resolve));
			if (server.exitCode === null && server.kill('SIGKILL')) await gone;
			rmSync(data, { recursive: true, force: true });
		},
	};
}

/** Another way to a server, which can be cut as a network is: `{ url, cut, end }`. */
export async function wire(to) {
	const { hostname, port } = new URL(to);
	const open = new Set();
	const relay = createRelay((near) => {
		const far = connect(Number(port), hostname);
		for (const [one, other] of [[near, far], [far, near]]) {
			open.add(one);
			one.pipe(other);
			one.on('error', () => other.destroy());
			one.on('close', () => (open.delete(one), other.destroy()));
		}
	});
	const cut = () => open.forEach((socket) => socket.destroy());
	await new Promise((resolve) => relay.listen(0, '127.0.0.1', resolve));
	return { url: `http://127.0.0.1:${relay.address().port}`, cut, end: () => (cut(), new Promise((resolve) => relay.close(resolve))) };
}

/** A server that hands out the built pages, and asks the real one for everything else. */
async function inFront(own) {
	const { host, hostname, port } = new URL(own);
	const server = createServer((request, response) => {
		const path = new URL(request.url, own).pathname;
		if (/^\/(api|v1)\//.test(path)) {
			const headers = { ...request.headers, host, ...(request.headers.origin ? { origin: own } : {}) };
			// Each on a connection of its own: one that is kept may just be closing.
			const forward = ask({ hostname, port, path: request.url, method: request.method, headers, agent: false }, (answer) => {
				response.writeHead(answer.statusCode, answer.headers);
				answer.pipe(response);
			});
			forward.on('error', () => response.destroy());
			response.on('close', () => forward.destroy());
			request.pipe(forward);
			return;
		}
		const file = [join(BUILD, path), join(BUILD, 'index.html')].find((name) => existsSync(name) && statSync(name).isFile());
		response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream', 'content-security-policy': CSP, 'cache-control': 'no-cache' });
		response.end(readFileSync(file));
	});
	await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
	return { server, url: `http://127.0.0.1:${server.address().port}` };
}

/** The words of the interface, as the app has them. */
export async function words(locale) {
	const source = readFileSync(new URL(`../../src/lib/messages/${locale}.ts`, import.meta.url), 'utf8');
	const { outputText } = ts.transpileModule(source, { compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 } });
	return (await import(`data:text/javascript;base64,${Buffer.from(outputText).toString('base64')}`))[locale];
}
