// A small OpenID Connect provider with a real key, for tests of signing in: it lets in whoever `person` is, or says no.
import { createHash, generateKeyPairSync, randomUUID, sign } from 'node:crypto';
import { createServer } from 'node:http';

const encoded = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');

/** `{ issuer, person, refuses, end }`; `person` is what its tokens claim of who signs in. */
export async function provide() {
	const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
	const codes = new Map();
	const provider = { person: { sub: '1' }, refuses: false };
	const server = createServer(async (request, response) => {
		const url = new URL(request.url, provider.issuer);
		const tell = (value, status = 200) => {
			response.writeHead(status, { 'content-type': 'application/json' });
			response.end(JSON.stringify(value));
		};
		if (url.pathname === '/.well-known/openid-configuration')
			return tell({ issuer: provider.issuer, authorization_endpoint: `${provider.issuer}/authorize`, token_endpoint: `${provider.issuer}/token`, jwks_uri: `${provider.issuer}/keys` });
		if (url.pathname === '/keys') return tell({ keys: [{ ...publicKey.export({ format: 'jwk' }), use: 'sig', kid: '1' }] });
		if (url.pathname === '/authorize') {
			const asked = Object.fromEntries(url.searchParams);
			const back = new URL(asked.redirect_uri);
			back.searchParams.set('state', asked.state);
			if (provider.refuses) back.searchParams.set('error', 'access_denied');
			else {
				const code = randomUUID();
				codes.set(code, { asked, person: { ...provider.person } });
				back.searchParams.set('code', code);
			}
			response.writeHead(302, { location: back.href });
			return response.end();
		}
		if (url.pathname === '/token') {
			let body = '';
			for await (const chunk of request) body += chunk;
			const form = new URLSearchParams(body);
			const known = codes.get(form.get('code'));
			codes.delete(form.get('code'));
			const isGood = known && known.asked.redirect_uri === form.get('redirect_uri') && createHash('sha256').update(form.get('code_verifier') ?? '').digest('base64url') === known.asked.code_challenge;
			if (!isGood) return tell({ error: 'invalid_grant' }, 400);
			const now = Math.floor(Date.now() / 1000);
			const claims = { iss: provider.issuer, aud: known.asked.client_id, nonce: known.asked.nonce, iat: now, exp: now + 300, ...known.person };
			const text = `${encoded({ alg: 'ES256', kid: '1' })}.${encoded(claims)}`;
			const signature = sign('sha256', Buffer.from(text), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url');
			return tell({ access_token: 'at', token_type: 'Bearer', id_token: `${text}.${signature}` });
		}
		tell({}, 404);
	});
	await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
	provider.issuer = `http://127.0.0.1:${server.address().port}`;
	provider.end = () => (server.closeAllConnections(), new Promise((resolve) => server.close(resolve)));
	return provider;
}
