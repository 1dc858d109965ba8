import adapter from '@sveltejs/adapter-static';

/** @type {import('@sveltejs/kit').Config} */
export default {
	compilerOptions: { runes: true },
	kit: {
		adapter: adapter({ fallback: 'index.html', pages: 'build', assets: 'build' }),
		// Registered by the app itself, after the first screen stands.
		serviceWorker: { register: false },
		version: { pollInterval: 0 },
	},
};
