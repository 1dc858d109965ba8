// One door to the server: JSON, the CSRF header, errors that can be told apart. Knows nothing of screens.

export class ApiError extends Error {
	constructor(
		/** HTTP status; 0 when the server could not be reached. */
		readonly status: number,
		readonly code: string,
		message: string,
		readonly field: string | null = null,
		readonly retryAfterSeconds: number | null = null,
	) {
		super(message);
		this.name = 'ApiError';
	}

	/** The server cannot be reached: no network, or it is not running. */
	get offline(): boolean {
		return this.status === 0;
	}

	/** The server does not offer this at all, so its entry is hidden. */
	get absent(): boolean {
		return this.status === 404 || this.status === 405 || this.status === 501;
	}
}

type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

interface Hooks {
	csrf: () => string;
	/** Called once when a call finds the session's token stale; the call is then made again. */
	renew: () => Promise<void>;
	signedOut: () => void;
}

let hooks: Hooks = { csrf: () => '', renew: async () => {}, signedOut: () => {} };

export function connect(to: Hooks): void {
	hooks = to;
}

export function headers(method: Method, extra: Record<string, string> = {}): Record<string, string> {
	return method === 'GET' ? extra : { 'x-rapport-csrf': hooks.csrf(), ...extra };
}

/** Reads the server's error body; a body that is not ours becomes an error with the status alone. */
export async function errorOf(response: Response): Promise<ApiError> {
	const retry = Number(response.headers.get('retry-after'));
	const retryAfter = Number.isFinite(retry) && retry > 0 ? retry : null;
	try {
		const { error } = (await response.json()) as { error?: { code?: unknown; message?: unknown; field?: unknown } };
		return new ApiError(
			response.status,
			typeof error?.code === 'string' ? error.code : 'unknown',
			typeof error?.message === 'string' ? error.message : `HTTP ${response.status}`,
			typeof error?.field === 'string' ? error.field : null,
			retryAfter,
		);
	} catch {
		return new ApiError(response.status, 'unknown', `HTTP ${response.status}`, null, retryAfter);
	}
}

async function once(method: Method, path: string, body: BodyInit | undefined, type: string | null, signal?: AbortSignal) {
	try {
		return await fetch(path, {
			method,
			headers: headers(method, type === null ? {} : { 'content-type': type }),
			body: body ?? null,
			credentials: 'same-origin',
			redirect: 'error',
			signal: signal ?? null,
		});
	} catch (error) {
		if (error instanceof DOMException && error.name === 'AbortError') throw error;
		throw new ApiError(0, 'offline', 'The server cannot be reached.');
	}
}

async function call<T>(method: Method, path: string, body?: BodyInit, type: string | null = null, signal?: AbortSignal): Promise<T> {
	let response = await once(method, path, body, type, signal);
	if (response.status === 403 && method !== 'GET') {
		await hooks.renew();
		response = await once(method, path, body, type, signal);
	}
	if (!response.ok) {
		const error = await errorOf(response);
		if (error.status === 401 && error.code === 'signed_out') hooks.signedOut();
		throw error;
	}
	if (response.status === 204) return undefined as T;
	const text = await response.text();
	if (text === '') return undefined as T;
	try {
		return JSON.parse(text) as T;
	} catch {
		throw new ApiError(501, 'not_offered', 'The server answered with something other than JSON.');
	}
}

const json = (value: unknown): [string, string] => [JSON.stringify(value ?? {}), 'application/json'];

export const api = {
	get: <T>(path: string, signal?: AbortSignal) => call<T>('GET', path, undefined, null, signal),
	post: <T>(path: string, value?: unknown) => call<T>('POST', path, ...json(value)),
	put: <T>(path: string, value: unknown) => call<T>('PUT', path, ...json(value)),
	patch: <T>(path: string, value: unknown) => call<T>('PATCH', path, ...json(value)),
	remove: <T = void>(path: string, value?: unknown) =>
		value === undefined ? call<T>('DELETE', path) : call<T>('DELETE', path, ...json(value)),
	/** Sends a file as it is; the server recognises the format. */
	upload: <T>(path: string, file: Blob) => call<T>('POST', path, file, 'application/json'),
};

/** `null` where the server does not offer the route. */
export async function offered<T>(request: Promise<T>): Promise<T | null> {
	try {
		return await request;
	} catch (error) {
		if (error instanceof ApiError && error.absent) return null;
		throw error;
	}
}
