// The service worker, and the moment when the server has a newer app than this page. The new one waits until the reader
// wants it; nothing that is being written is lost by itself.

const HOUR_MS = 3_600_000;

/** Calls `ready` with what takes the new version, each time there is one. */
export async function watchUpdates(ready: (take: () => void) => void): Promise<void> {
	const { serviceWorker } = navigator;
	let taken = false;
	let controlled = serviceWorker.controller !== null;
	serviceWorker.addEventListener('controllerchange', () => {
		if (taken) location.reload();
		// Another window took it: this one has to follow, when its reader is ready.
		else if (controlled) ready(() => location.reload());
		controlled = true;
	});
	const registration = await serviceWorker.register('/service-worker.js', { updateViaCache: 'none' });
	const watch = (worker: ServiceWorker | null) => {
		if (!worker) return;
		const look = () => {
			if (worker.state !== 'installed' || !serviceWorker.controller) return;
			ready(() => {
				taken = true;
				worker.postMessage('take over');
			});
		};
		worker.addEventListener('statechange', look);
		look();
	};
	watch(registration.waiting);
	watch(registration.installing);
	registration.addEventListener('updatefound', () => watch(registration.installing));
	const ask = () => {
		if (!document.hidden) void registration.update().catch(() => {});
	};
	document.addEventListener('visibilitychange', ask);
	setInterval(ask, HOUR_MS);
}
