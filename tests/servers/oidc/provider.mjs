// An OpenID provider for the tests: oidc-provider with its own login and consent pages, in memory.
//
// argv: the folder node_modules. First line of standard input: {"port", "clients", "life"}; then one command per
// line, each answered by one line: {"life": SECONDS}, {"revoke": true}, {"expire": true}. It ends with its input.

import { createInterface } from 'node:readline';
import { X509Certificate } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const { default: Provider, errors } = await import(pathToFileURL(`${process.argv[2]}/oidc-provider/lib/index.js`));

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { port, clients, life } = JSON.parse((await lines.next()).value);
let lifetime = life;

const stored = new Map(); // "KIND:ID" -> payload; tokens, codes, sessions and grants alike

class Memory {
  constructor(kind) {
    this.kind = kind;
  }

  async upsert(id, payload, expiresIn) {
    stored.set(`${this.kind}:${id}`, { ...payload, until: expiresIn && Date.now() + expiresIn * 1000 });
  }

  async find(id) {
    const found = stored.get(`${this.kind}:${id}`);
    return found && !(found.until && Date.now() >= found.until) ? found : undefined;
  }

  async by(property, value) {
    return [...stored].find(([key, one]) => key.startsWith(`${this.kind}:`) && one[property] === value)?.[1];
  }

  async findByUid(uid) {
    return this.by('uid', uid);
  }

  async findByUserCode(userCode) {
    return this.by('userCode', userCode);
  }

  async consume(id) {
    const found = stored.get(`${this.kind}:${id}`);
    if (found) found.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    stored.delete(`${this.kind}:${id}`);
  }

  async revokeByGrantId(grantId) {
    forget((_, one) => one.grantId === grantId);
  }
}

function forget(which) {
  for (const [key, one] of stored) if (which(key.split(':')[0], one)) stored.delete(key);
}

// Of a client the tests say: client_id, client_secret (and its method) or certificate (PEM), mailbox; or protocol for
// a mail server, or is_public.
const described = new Map(clients.map((one) => [one.client_id, one]));
const grants = ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'];

function metadata({ client_id, client_secret, method, certificate, redirect_uris = [], protocol, is_public }) {
  const known = { client_id, application_type: 'native', redirect_uris, response_types: redirect_uris.length ? ['code'] : [] };
  if (protocol) return { ...known, client_secret, grant_types: [], token_endpoint_auth_method: 'client_secret_basic' };
  if (is_public) return { ...known, grant_types: grants, token_endpoint_auth_method: 'none' };
  const all = { ...known, grant_types: [...grants, 'client_credentials'] };
  if (!redirect_uris.length) all.grant_types = all.grant_types.filter((one) => one !== 'authorization_code');
  if (!certificate) return { ...all, client_secret, token_endpoint_auth_method: method ?? 'client_secret_basic' };
  const key = new X509Certificate(certificate).publicKey.export({ format: 'jwk' });
  return { ...all, jwks: { keys: [key] }, token_endpoint_auth_method: 'private_key_jwt' };
}

const warn = console.warn;
console.info = () => {};
console.warn = (text, ...more) => (/quick start|oidc-provider WARNING/.test(text) ? undefined : warn(text, ...more));

const provider = new Provider(`http://127.0.0.1:${port}`, {
  adapter: Memory,
  clients: clients.map(metadata),
  cookies: { keys: ['only for tests'] },
  scopes: ['openid', 'offline_access', 'smtp', 'imap'],
  pkce: { methods: ['S256'], required: () => true },
  rotateRefreshToken: true, // each is good for one use; a second use revokes the grant
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
    introspection: {
      enabled: true,
      // A mail server learns of tokens for itself only, nobody else of any.
      allowedPolicy: (ctx, client, token) => token.scopes.has(described.get(client.clientId).protocol),
    },
  },
  // Whose mailbox it is: the user who signed in, or the one an application may use.
  extraTokenClaims: (ctx, token) => ({ username: token.accountId ?? described.get(token.clientId).mailbox }),
  findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  ttl: {
    AccessToken: () => lifetime,
    ClientCredentials: () => lifetime,
    AuthorizationCode: 60,
    DeviceCode: 600,
    Grant: 86400,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 600,
  },
});
provider.on('server_error', (ctx, error) => warn(error));

const server = provider.listen(port, '127.0.0.1', () => console.log('listening'));

for await (const line of lines) {
  const command = JSON.parse(line);
  if (command.life) lifetime = command.life;
  if (command.expire) forget((kind) => ['AccessToken', 'ClientCredentials'].includes(kind));
  if (command.revoke) forget((kind) => ['AccessToken', 'ClientCredentials', 'RefreshToken', 'Grant'].includes(kind));
  console.log('done');
}
server.close();
server.closeAllConnections();
