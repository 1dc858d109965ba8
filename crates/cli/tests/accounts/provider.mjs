// An OpenID Connect provider for a test: whoever writes a name is that person.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const server = createServer();
server.listen(0, '127.0.0.1', () => {
	const issuer = `http://127.0.0.1:${server.address().port}`;
	const provider = new Provider(issuer, {
		clients: [
			{
				client_id: 'rapport',
				client_secret: 'a secret of the test',
				// Its port is not known yet: a program on this machine may have any.
				application_type: 'native',
				redirect_uris: ['http://127.0.0.1/api/auth/oidc/callback'],
				grant_types: ['authorization_code'],
				response_types: ['code'],
			},
		],
		cookies: { keys: ['of the test'] },
		pkce: { required: () => true },
		scopes: ['openid', 'profile', 'email', 'groups'],
		claims: {
			openid: ['sub'],
			email: ['email', 'email_verified'],
			profile: ['name'],
			groups: ['groups'],
		},
		features: { devInteractions: { enabled: true } },
		findAccount: (_context, id) => ({
			accountId: id,
			claims: async () => ({
				sub: id,
				name: id,
				email: `${id}@example.org`,
				email_verified: id !== 'unverified',
				groups: id === 'staff' ? ['staff'] : [],
			}),
		}),
	});
	server.on('request', provider.callback());
	console.log(issuer);
});
