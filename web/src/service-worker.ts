/// <reference types="@sveltejs/kit" />
/// <reference lib="webworker" />
// Keeps the app's own files, so that it opens without a network. Never keeps an answer of the API: what is read
// offline lies in the browser's database, under the app's care (see `services/offline.ts`).

import { build, files, version } from '$service-worker';

const worker = globalThis as unknown as ServiceWorkerGlobalScope;
const CACHE = `rapport-${version}`;
const SHELL = '/';
const kept = new Set([...build, ...files]);

worker.addEventListener('install', (event) => {
	event.waitUntil(
		caches
			.open(CACHE)
			.then(async (cache) => {
				await cache.addAll([SHELL, ...kept]);
				// The page's start script is named only in the page itself.
				const page = await (await cache.match(SHELL))?.text();
				const start = page?.match(/src="(\/_app\/[^"]+)"/)?.[1];
				if (start) await cache.add(start);
			}),
	);
});

// A new version waits until a person takes it: pages of the old one would miss files that the new one no longer has.
worker.addEventListener('message', (event) => {
	if (event.data === 'take over') void worker.skipWaiting();
});

worker.addEventListener('activate', (event) => {
	event.waitUntil(
		caches
			.keys()
			.then((names) => Promise.all(names.filter((name) => name.startsWith('rapport-') && name !== CACHE).map((name) => caches.delete(name))))
			.then(() => worker.clients.claim()),
	);
});

worker.addEventListener('fetch', (event) => {
	const { request } = event;
	const url = new URL(request.url);
	if (request.method !== 'GET' || url.origin !== worker.location.origin) return;
	if (/^\/(api|auth|v1)\//.test(url.pathname)) return;
	if (kept.has(url.pathname) || url.pathname.startsWith('/_app/immutable/')) {
		event.respondWith(caches.match(request, { cacheName: CACHE }).then((hit) => hit ?? fetch(request)));
	} else if (request.mode === 'navigate') {
		event.respondWith(fetch(request).catch(async () => (await caches.match(SHELL, { cacheName: CACHE })) ?? Response.error()));
	}
});
