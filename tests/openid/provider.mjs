// The certified OpenID provider `oidc-provider`, for tests: node provider.mjs '{"port": 0, "redirect_uris": [...], ...}'.
// The person who signs in names an e-mail address and any password; what is said of them follows from it.
import { createHash, generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const given = JSON.parse(process.argv[2]);
const { default: Provider } = await import(pathToFileURL(createRequire(`${given.modules}/`).resolve("oidc-provider")));
const issuer = `http://127.0.0.1:${given.port}`;
const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "tocsin",
      client_secret: given.client_secret,
      token_endpoint_auth_method: given.auth_method,
      redirect_uris: given.redirect_uris,
      post_logout_redirect_uris: given.post_logout_redirect_uris,
      id_token_signed_response_alg: "RS256",
    },
  ],
  jwks: { keys: [{ ...key, kid: createHash("sha256").update(key.n).digest("hex").slice(0, 16), use: "sig", alg: "RS256" }] },
  cookies: { keys: ["for-tests-only"] },
  pkce: { required: () => true },
  conformIdTokenClaims: given.conform, // true: the address is told at the user information endpoint only
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "groups"] },
  async findAccount(_, id) {
    return {
      accountId: id,
      claims: () => ({
        sub: createHash("sha256").update(id).digest("hex").slice(0, 24),
        email: id.replace("again+", ""), // a second account with the same address
        email_verified: !id.startsWith("unverified"),
        name: id.split("@")[0],
        groups: id.startsWith("boss") ? ["staff", "tocsin-admins"] : ["staff"],
      }),
    };
  },
});

const server = createServer(provider.callback());
server.listen(given.port, "127.0.0.1", () => console.log("listening"));
