//! Signing in through a provider that is scripted, with real keys: what a good one says, and what a
//! bad one or a thief tries. A provider that others wrote is driven in `cli`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use rapport_server::{AdminClaim, OidcConfig};
use rapport_testkit::{Script, ScriptedEngine};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Answered, Running};
use crate::people::{Browser, House};

const SECRET: &str = "s:ecret &";

fn key_pair() -> EcdsaKeyPair {
    let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()
}

/// What the provider knows and does.
struct Knowledge {
    key: EcdsaKeyPair,
    kid: String,
    /// What is signed for a code, the code being good once.
    codes: BTreeMap<String, Ticket>,
    userinfo: Value,
    /// The name that it gives itself, where it lies.
    issuer: Option<String>,
    n_asked: BTreeMap<String, usize>,
}

#[derive(Clone)]
struct Ticket {
    claims: Value,
    header: Option<Value>,
    challenge: String,
    redirect: String,
}

#[derive(Clone)]
struct Provider {
    address: SocketAddr,
    script: Arc<Mutex<Knowledge>>,
}

impl Provider {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = Knowledge {
            key: key_pair(),
            kid: "1".to_owned(),
            codes: BTreeMap::new(),
            userinfo: Value::Null,
            issuer: None,
            n_asked: BTreeMap::new(),
        };
        let provider =
            Self { address: listener.local_addr().unwrap(), script: Arc::new(Mutex::new(script)) };
        let serving = provider.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serving.answer(stream.unwrap());
            }
        });
        provider
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let Some(first) = lines.first().cloned() else { return };
        let header = |name: &str| {
            lines.iter().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let n_bytes = header("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; n_bytes];
        reader.read_exact(&mut body).unwrap();
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let form = parse_form(std::str::from_utf8(&body).unwrap());
        let told = self.told(&path, &form, header("authorization"));
        let (status, told) = told.map_or(("400 Bad Request", json!({})), |told| ("200 OK", told));
        let told = told.to_string();
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{told}",
            told.len()
        );
    }

    fn told(
        &self,
        path: &str,
        form: &BTreeMap<String, String>,
        auth: Option<String>,
    ) -> Option<Value> {
        let issuer = self.issuer();
        let mut script = self.script.lock().unwrap();
        *script.n_asked.entry(path.to_owned()).or_default() += 1;
        match path {
            "/.well-known/openid-configuration" => Some(json!({
                "issuer": script.issuer.clone().unwrap_or_else(|| issuer.clone()),
                "authorization_endpoint": format!("{issuer}/authorize?tenant=1"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/keys"),
                "userinfo_endpoint": format!("{issuer}/userinfo"),
            })),
            "/keys" => {
                let (x, y) = script.key.public_key().as_ref()[1..].split_at(32);
                let (x, y) = (BASE64URL.encode(x), BASE64URL.encode(y));
                let key = json!({
                    "kty": "EC", "crv": "P-256", "use": "sig", "kid": script.kid, "x": x, "y": y,
                });
                Some(json!({ "keys": [key] }))
            }
            "/token" => {
                // RFC 6749, 2.3.1: both are encoded as in a form before they are put together.
                let expected = format!("Basic {}", BASE64.encode("rapport:s%3Aecret%20%26"));
                let ticket = script.codes.remove(form.get("code")?)?;
                let verifier = form.get("code_verifier")?;
                let is_good = auth? == expected
                    && form.get("grant_type")? == "authorization_code"
                    && *form.get("redirect_uri")? == ticket.redirect
                    && BASE64URL.encode(Sha256::digest(verifier)) == ticket.challenge;
                let header = ticket.header.clone();
                let header = header.unwrap_or_else(|| json!({ "alg": "ES256", "kid": script.kid }));
                let message = format!(
                    "{}.{}",
                    BASE64URL.encode(header.to_string()),
                    BASE64URL.encode(ticket.claims.to_string())
                );
                let signature = script.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
                let signature = if header["alg"] == "none" {
                    String::new()
                } else {
                    BASE64URL.encode(signature.as_ref())
                };
                let token = format!("{message}.{signature}");
                is_good.then(|| json!({ "id_token": token, "access_token": "at" }))
            }
            "/userinfo" if auth? == "Bearer at" => Some(script.userinfo.clone()),
            _ => None,
        }
    }
}

fn parse_form(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A server that offers the provider.
fn house(provider: &Provider, change: impl FnOnce(&mut OidcConfig)) -> House {
    let mut config = OidcConfig {
        issuer: provider.issuer(),
        client_id: "rapport".to_owned(),
        client_secret: Some(SECRET.to_owned()),
        label: "Example".to_owned(),
        domains: vec!["example.org".to_owned()],
        admins: None,
        public_url: None,
    };
    change(&mut config);
    let engine = ScriptedEngine::answering(|_| Script::answer("ok"));
    House::with(engine, |people| people.oidc = Some(config))
}

fn location(answered: &Answered) -> String {
    let (_, rest) = answered.headers.split_once("\"location\": \"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// The value of a cookie that is set, with its name.
fn cookie(answered: &Answered, name: &str) -> Option<String> {
    let (_, rest) = answered.headers.split_once(&format!("\"{name}="))?;
    Some(format!("{name}={}", rest.split(';').next().unwrap()))
}

/// A way to the provider: what it is asked, and the cookie of the browser.
struct Journey {
    query: BTreeMap<String, String>,
    cookie: String,
}

impl Journey {
    fn begin(server: &Running, who: &Browser, place: &str) -> Self {
        let started = who.send(server, "GET", &format!("/api/auth/oidc/start{place}"), None);
        assert_eq!(started.status, 303, "{}", started.text);
        Self::of(&location(&started), cookie(&started, "rapport_oidc").unwrap())
    }

    fn of(address: &str, cookie: String) -> Self {
        Self { query: parse_form(address.split_once('?').unwrap().1), cookie }
    }

    /// The provider lets somebody in: a code for these claims, over what it always says.
    fn code(&self, provider: &Provider, more: &Value) -> String {
        self.code_with(provider, more, None)
    }

    fn code_with(&self, provider: &Provider, more: &Value, header: Option<Value>) -> String {
        let now_s = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let mut claims = json!({
            "iss": provider.issuer(), "aud": "rapport", "sub": "42", "nonce": self.query["nonce"],
            "iat": now_s, "exp": now_s + 3_000, "email": "cleo@example.org", "email_verified": true,
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut script = provider.script.lock().unwrap();
        let code = format!("code-{}", script.n_asked.len() + script.codes.len());
        let ticket = Ticket {
            claims,
            header,
            challenge: self.query["code_challenge"].clone(),
            redirect: self.query["redirect_uri"].clone(),
        };
        script.codes.insert(code.clone(), ticket);
        code
    }

    /// Comes back with this in the address.
    fn back(&self, server: &Running, who: &Browser, query: &str) -> Answered {
        let cookie = format!("{}; {}", who.cookie, self.cookie);
        let who = Browser { cookie, ..who.clone() };
        who.send(server, "GET", &format!("/api/auth/oidc/callback?{query}"), None)
    }

    fn back_with(&self, server: &Running, who: &Browser, code: &str) -> Answered {
        self.back(server, who, &format!("code={code}&state={}", self.query["state"]))
    }
}

/// Goes there and back; `more` is what the provider says of whoever signs in.
fn visit(house: &House, provider: &Provider, more: &Value) -> Answered {
    let journey = Journey::begin(&house.server, &Browser::default(), "");
    let code = journey.code(provider, more);
    journey.back_with(&house.server, &Browser::default(), &code)
}

/// Who is signed in by an answer.
fn signed_in(house: &House, answered: &Answered) -> Browser {
    let cookie = cookie(answered, "rapport_session");
    let cookie = cookie.unwrap_or_else(|| panic!("not signed in: {}", answered.headers));
    let mut browser = Browser { cookie, ..Browser::default() };
    browser.look(&house.server);
    browser
}

#[track_caller]
fn refused(answered: &Answered, code: &str) {
    assert_eq!(answered.status, 303);
    assert!(location(answered).ends_with(&format!("?oidc_error={code}")), "{}", location(answered));
    assert_eq!(cookie(answered, "rapport_session"), None, "{}", answered.headers);
}

#[test]
fn somebody_signs_in_through_a_provider_and_is_the_same_the_next_time() {
    let provider = Provider::start();
    let house = house(&provider, |_| ());
    let server = &house.server;
    let session = Browser::default().get(server, "/api/session");
    assert_eq!(session["instance"]["oidc"], json!([{ "id": "oidc", "label": "Example" }]));

    let journey = Journey::begin(server, &Browser::default(), "?to=/c/conv_1");
    let query = &journey.query;
    assert_eq!((query["response_type"].as_str(), query["client_id"].as_str()), ("code", "rapport"));
    assert_eq!(query["code_challenge_method"], "S256");
    assert_eq!(query["tenant"], "1");
    assert_eq!(query["redirect_uri"], format!("http://{}/api/auth/oidc/callback", server.address));
    let code = journey.code(&provider, &json!({}));
    let back = journey.back_with(server, &Browser::default(), &code);
    assert_eq!(location(&back), "/c/conv_1");
    let set = &back.headers;
    assert!(set.contains("rapport_oidc=; Path=/api/auth/oidc; Max-Age=0"), "{set}");
    assert!(set.contains("no-referrer") && set.contains("HttpOnly; SameSite=Lax"), "{set}");
    let cleo = signed_in(&house, &back);
    let user = cleo.get(server, "/api/session")["user"].clone();
    assert_eq!((&user["name"], &user["role"]), (&json!("cleo@example.org"), &json!("user")));
    assert_eq!(user["plan"], "free");
    let account = cleo.get(server, "/api/account");
    assert_eq!(account["identities"][0]["issuer"], provider.issuer());

    // Another address, the same person.
    let moved = visit(&house, &provider, &json!({ "email": "c@example.org" }));
    let again = signed_in(&house, &moved);
    assert_eq!(again.get(server, "/api/session")["user"]["id"], user["id"]);
    // The address in the answer of `userinfo` alone.
    provider.script.lock().unwrap().userinfo =
        json!({ "sub": "43", "email": "dan@example.org", "email_verified": true });
    let dan = visit(&house, &provider, &json!({ "sub": "43", "email": null }));
    let dan = signed_in(&house, &dan);
    assert_eq!(dan.get(server, "/api/session")["user"]["name"], "dan@example.org");
    // What it says of another is not about whoever signs in.
    refused(&visit(&house, &provider, &json!({ "sub": "44", "email": null })), "provider");
    // What it tells of itself is remembered.
    let n_asked = provider.script.lock().unwrap().n_asked["/keys"];
    assert_eq!(n_asked, 1);
    // Its new key is found.
    {
        let mut script = provider.script.lock().unwrap();
        (script.key, script.kid) = (key_pair(), "2".to_owned());
    }
    house.people.clock.jump(61_000);
    signed_in(&house, &visit(&house, &provider, &json!({})));

    let body = json!({ "disabled": true });
    let path = format!("/api/admin/users/{}", user["id"].as_str().unwrap());
    assert_eq!(house.owner.ask(server, "PATCH", &path, &body).0, 200);
    refused(&visit(&house, &provider, &json!({})), "disabled");
}

#[test]
fn f40_nobody_comes_in_by_what_is_not_theirs() {
    let provider = Provider::start();
    let house = house(&provider, |_| ());
    let (server, nobody) = (&house.server, Browser::default());
    let begin = || Journey::begin(server, &nobody, "");

    // The state of another browser, none, and a cookie that was changed.
    let (mine, theirs) = (begin(), begin());
    let code = mine.code(&provider, &json!({}));
    let query = format!("code={code}&state={}", mine.query["state"]);
    refused(&theirs.back(server, &nobody, &query), "expired");
    refused(&mine.back(server, &nobody, &format!("code={code}")), "expired");
    let without = Journey { cookie: String::new(), query: mine.query.clone() };
    refused(&without.back(server, &nobody, &query), "expired");
    let (begun, rest) = mine.cookie.rsplit_once('.').unwrap();
    let changed = Journey { cookie: format!("{begun}.{rest}AA"), query: mine.query.clone() };
    refused(&changed.back(server, &nobody, &query), "expired");
    // A code is good once, with and without its cookie.
    let cleo = signed_in(&house, &mine.back(server, &nobody, &query));
    refused(&mine.back(server, &nobody, &query), "provider");
    refused(&without.back(server, &nobody, &query), "expired");
    // A code that the provider gave to another flow: its nonce and its challenge are not of this one.
    let code = theirs.code(&provider, &json!({}));
    refused(&begin().back_with(server, &nobody, &code), "provider");
    // Too late.
    let slow = begin();
    let code = slow.code(&provider, &json!({}));
    house.people.clock.jump(601_000);
    refused(&slow.back_with(server, &nobody, &code), "expired");
    // Another provider answers, the person says no, the provider has a fault.
    for (query, code) in [
        ("iss=https://evil.example&code=x", "provider"),
        ("error=access_denied", "refused"),
        ("error=server_error", "provider"),
        ("code=guessed", "provider"),
        ("", "provider"),
    ] {
        let journey = begin();
        let query = format!("{query}&state={}", journey.query["state"]);
        refused(&journey.back(server, &nobody, &query), code);
    }
    // Tokens that do not hold.
    for (more, header) in [
        (json!({}), Some(json!({ "alg": "none" }))),
        (json!({}), Some(json!({ "alg": "HS256", "kid": "1" }))),
        (json!({}), Some(json!({ "alg": "ES256", "kid": "../1" }))),
        (json!({ "nonce": "other" }), None),
        (json!({ "iss": "https://evil.example" }), None),
        (json!({ "aud": "other" }), None),
        (json!({ "exp": 1 }), None),
        (json!({ "sub": null }), None),
    ] {
        let journey = begin();
        let code = journey.code_with(&provider, &more, header.clone());
        let back = journey.back_with(server, &nobody, &code);
        refused(&back, "provider");
    }
    // A session that was planted is over after signing in, and another is begun.
    let planted = cleo.clone();
    let journey = Journey::begin(server, &planted, "");
    let code = journey.code(&provider, &json!({}));
    let back = journey.back_with(server, &planted, &code);
    let fresh = signed_in(&house, &back);
    assert_ne!(fresh.cookie, planted.cookie);
    assert_eq!(planted.get(server, "/api/session")["user"], Value::Null);
    // Nothing leads to other sites.
    for place in ["?to=//evil.example", "?to=https://evil.example", "?to=/%5Cevil.example"] {
        let journey = Journey::begin(server, &nobody, place);
        let code = journey.code(&provider, &json!({}));
        assert_eq!(location(&journey.back_with(server, &nobody, &code)), "/", "{place}");
    }
}

#[test]
fn f40_an_account_is_nobody_elses_for_an_address() {
    let provider = Provider::start();
    let mut house = house(&provider, |_| ());
    house.friend("cleo@example.org", "premium");
    let says = |more: Value| visit(&house, &provider, &more);
    // Not verified, of another domain, or of none.
    refused(&says(json!({ "email_verified": false })), "domain");
    refused(&says(json!({ "email": "eve@evil.example" })), "domain");
    refused(&says(json!({ "email": null, "email_verified": null })), "provider");
    // The name is taken by somebody with a password: an address is no proof of being the same.
    refused(&says(json!({})), "taken");

    // An account that was made for an address and that nobody has entered is its owner's.
    let body = json!({ "name": "dan@example.org", "plan": "premium" });
    let (status, invited) = house.owner.ask(&house.server, "POST", "/api/admin/users", &body);
    assert_eq!(status, 201, "{invited}");
    let dan = says(json!({ "sub": "43", "email": "Dan@example.org" }));
    let dan = signed_in(&house, &dan).get(&house.server, "/api/session")["user"].clone();
    assert_eq!((&dan["id"], &dan["plan"]), (&invited["id"], &json!("premium")));
    refused(&says(json!({ "sub": "44", "email": "dan@example.org" })), "taken");
    // The link of the invitation opens nothing any more.
    let mut late = Browser::default();
    late.look(&house.server);
    let link = invited["link"].as_str().unwrap().split_once('#').unwrap().1;
    let body = json!({ "token": link, "password": "battery staple" });
    assert_eq!(late.ask(&house.server, "POST", "/api/setup", &body).0, 422);
}

#[test]
fn a_provider_is_connected_by_who_is_signed_in_and_nobody_else() {
    let provider = Provider::start();
    let mut house = house(&provider, |_| ());
    let bea = house.friend("Bea", "free");
    let (server, nobody) = (&house.server, Browser::default());
    let forged = Browser { csrf: "x".to_owned(), ..bea.clone() };
    assert_eq!(forged.ask(server, "POST", "/api/account/identities", &json!({})).0, 403);
    let connect = |who: &Browser| {
        let answered = who.send(server, "POST", "/api/account/identities", Some(&json!({})));
        assert_eq!(answered.status, 200, "{}", answered.text);
        let address = answered.json()["url"].as_str().unwrap().to_owned();
        Journey::of(&address, cookie(&answered, "rapport_oidc").unwrap())
    };
    let journey = connect(&bea);
    let code = journey.code(&provider, &json!({}));
    // Not by somebody else, nor by nobody.
    refused(&journey.back_with(server, &nobody, &code), "expired");
    refused(&journey.back_with(server, &house.owner, &code), "expired");
    let back = journey.back_with(server, &bea, &code);
    assert_eq!((location(&back).as_str(), cookie(&back, "rapport_session")), ("/account", None));
    let signed = signed_in(&house, &visit(&house, &provider, &json!({})));
    assert_eq!(signed.get(server, "/api/session")["user"]["name"], "Bea");
    // It is one person's.
    let journey = connect(&house.owner);
    let code = journey.code(&provider, &json!({}));
    refused(&journey.back_with(server, &house.owner, &code), "taken");
}

#[test]
fn roles_come_from_the_provider_where_it_says_them() {
    let provider = Provider::start();
    let house = house(&provider, |config| {
        let values = vec!["staff".to_owned()];
        config.admins = Some(AdminClaim { claim: "groups".to_owned(), values });
    });
    let role = |groups: Value| {
        let answered = visit(&house, &provider, &json!({ "groups": groups }));
        signed_in(&house, &answered).get(&house.server, "/api/session")["user"]["role"].clone()
    };
    assert_eq!(role(json!(["other"])), "user");
    assert_eq!(role(json!(["other", "staff"])), "admin");
    assert_eq!(role(json!("staff")), "admin");
    assert_eq!(role(Value::Null), "user");
}

#[test]
fn strangers_make_no_accounts_unless_that_was_said() {
    let provider = Provider::start();
    let closed = house(&provider, |config| config.domains.clear());
    refused(&visit(&closed, &provider, &json!({})), "closed");
    let body = json!({ "sign_up": true });
    assert_eq!(closed.owner.ask(&closed.server, "PATCH", "/api/admin/settings", &body).0, 200);
    signed_in(&closed, &visit(&closed, &provider, &json!({})));
    let open = house(&provider, |config| config.domains = vec!["*".to_owned()]);
    let said = json!({ "email": "x", "email_verified": false, "preferred_username": "cleo" });
    let cleo = signed_in(&open, &visit(&open, &provider, &said));
    assert_eq!(cleo.get(&open.server, "/api/session")["user"]["name"], "cleo");
}

#[test]
fn a_provider_that_lies_or_is_down_lets_nobody_in_and_harms_nobody() {
    let provider = Provider::start();
    let house = house(&provider, |_| ());
    provider.script.lock().unwrap().issuer = Some("https://evil.example".to_owned());
    let started = Browser::default().send(&house.server, "GET", "/api/auth/oidc/start", None);
    refused(&started, "provider");
    assert_eq!(house.owner.get(&house.server, "/api/account")["usage_today"]["requests"], 0);
}
