import { sveltekit } from '@sveltejs/kit/vite';
import { defineConfig } from 'vitest/config';

const server = process.env.RAPPORT_URL ?? 'http://127.0.0.1:8080';

export default defineConfig({
	plugins: [sveltekit()],
	build: { target: 'es2022' },
	server: {
		proxy: Object.fromEntries(['/api', '/auth', '/v1'].map((path) => [path, { target: server }])),
	},
	test: { include: ['src/**/*.test.ts'], environment: 'node' },
});
