//! Accounts from the command line, servers that share a database, and a provider that others wrote.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail their test")]

mod node_package;
#[path = "serving/mod.rs"]
mod serving;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use node_package::node_package;
use rapport_testkit::Cluster;
use serde_json::{Value, json};
use serving::{Answered, Person, Server, errors, rapport, run};

const ADMIN_KEY: &str = "chosen-for-an-unattended-start";
// The provider's version that the test was written with.
const OIDC_PROVIDER: &str = "oidc-provider@9.13.3";

fn chat(max_tokens: u32) -> Value {
    let messages = json!([{ "role": "user", "content": "Hi!" }]);
    json!({ "model": "rapport-fast", "messages": messages, "max_tokens": max_tokens })
}

/// What is done on SQLite and on PostgreSQL alike.
fn accounts_and_backups(place: &[&str], other: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let at = |place: &[&str], arguments: &[&str]| {
        let all: Vec<&str> = arguments.iter().chain(place).copied().collect();
        run(home, &all)
    };
    let fails = |arguments: &[&str]| {
        let output = rapport(home, arguments).args(place).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        errors(&output)
    };
    let id = at(place, &["users", "add", "Ada", "--role", "admin", "--plan", "unlimited"]);
    assert!(id.starts_with("user_"), "{id}");
    let mut adding = rapport(home, &["users", "add", "Bea", "--password-stdin"])
        .args(place)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    adding.stdin.take().unwrap().write_all(b"battery staple\n").unwrap();
    assert!(adding.wait().unwrap().success());
    assert!(fails(&["users", "add", "ada"]).contains("taken"));
    let unknown = fails(&["users", "set-plan", "Bea", "golden"]);
    assert!(unknown.contains("use one of free, per-token, premium, unlimited"), "{unknown}");
    at(place, &["users", "set-plan", "bea", "premium"]);
    at(place, &["users", "set-role", "Bea", "admin"]);
    at(place, &["users", "set-role", "Bea", "user"]);
    assert!(fails(&["users", "disable", "Ada"]).contains("nobody would be left in charge"));
    assert!(fails(&["users", "enable", "Cem"]).contains("users list"));
    let listed = at(place, &["users", "list"]);
    assert_eq!(listed.lines().count(), 2);
    assert!(listed.lines().nth(1).unwrap().contains("premium"), "{listed}");
    let key = at(place, &["users", "key", "create", "Bea", "--name", "laptop"]);
    assert!(key.starts_with("rk-"), "{key}");
    let revoked =
        at(place, &["users", "key", "create", "Bea", "--scope", "read", "--expires-days", "3"]);
    let keys = at(place, &["users", "key", "list", "Bea"]);
    assert!(keys.contains("api  laptop") && keys.contains("read"), "{keys}");
    let id = keys.lines().find(|line| line.contains("read")).unwrap().split(' ').next().unwrap();
    at(place, &["users", "key", "revoke", id]);
    let link = at(place, &["users", "link", "Ada"]);

    let backup = home.join("backup.jsonl");
    let backup = backup.to_str().unwrap();
    let rows = at(place, &["store", "backup", backup]);
    assert!(rows.contains("rows are in"), "{rows}");
    assert!(fails(&["store", "backup", backup]).contains("exists"), "a backup is not overwritten");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(backup).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(backup).unwrap();
    assert!(!text.contains(&key) && !text.contains("battery"), "secrets are hashes");

    // Into the other kind of database, where a server goes on with it.
    at(other, &["store", "restore", backup]);
    let again = rapport(home, &["store", "restore", backup]).args(other).output().unwrap();
    assert!(errors(&again).contains("not empty"), "{}", errors(&again));
    let server = Server::start(home, other, false);
    let url = &server.url;
    assert_eq!(Person::with_key(&key).ask(url, "POST", "/v1/chat/completions", &chat(2)).0, 200);
    assert_eq!(Person::with_key(&revoked).ask(url, "GET", "/v1/models", &Value::Null).0, 401);
    let mut bea = Person::default();
    bea.look(url);
    let body = json!({ "name": "Bea", "password": "battery staple" });
    assert_eq!(bea.ask(url, "POST", "/api/session", &body).0, 200);
    let body = json!({ "token": link.split_once('#').unwrap().1, "password": "correct horse" });
    assert_eq!(bea.ask(url, "POST", "/api/setup", &body).0, 200);
    drop(server);
    let cleaned = at(other, &["store", "clean", "--conversations-after", "30"]);
    assert_eq!(cleaned, "deleted 0 expired rows, 0 conversations");
}

#[test]
fn accounts_and_backups_on_sqlite_go_to_postgres() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    accounts_and_backups(&["--data", data.to_str().unwrap()], &["--database", &cluster.url()]);
}

#[test]
fn accounts_and_backups_on_postgres_go_to_sqlite() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    accounts_and_backups(&["--database", &cluster.url()], &["--data", data.to_str().unwrap()]);
}

#[test]
fn a_store_that_is_not_there_is_not_made_by_a_typo() {
    let home = tempfile::tempdir().unwrap();
    let output = rapport(home.path(), &["users", "list"]).output().unwrap();
    assert!(errors(&output).contains("there is no store at"), "{}", errors(&output));
    assert!(!home.path().join("data").exists());
    // The settings of `serve` say where it is, and flags win.
    std::fs::write(home.path().join("config.toml"), "[serve]\ndata = \"elsewhere\"").unwrap();
    let output = rapport(home.path(), &["users", "list"]).output().unwrap();
    assert!(errors(&output).contains("elsewhere/rapport.db"), "{}", errors(&output));
    let output = rapport(home.path(), &["users", "list", "--data", "here"]).output().unwrap();
    assert!(errors(&output).contains("here/rapport.db"), "{}", errors(&output));
}

/// Two servers start at once on one empty database and are one service: one admin, one secret, one
/// quota, sessions and responses that either knows.
#[test]
fn two_servers_on_one_database_serve_one_account_with_one_quota() {
    const A_DAY: usize = 8;
    let cluster = Cluster::start();
    let (home, url) = (tempfile::tempdir().unwrap(), cluster.url());
    let home = home.path();
    let plans = home.join("plans.toml");
    std::fs::write(&plans, format!("[small]\nrequests_per_day = {A_DAY}\n[unlimited]\n")).unwrap();
    std::fs::write(
        home.join("config.toml"),
        format!("[serve]\nadmin_key = \"{ADMIN_KEY}\"\nplans = \"{}\"", plans.display()),
    )
    .unwrap();
    let place = ["--database", url.as_str(), "--require-key"];
    let starting = [Server::spawn(home, &place), Server::spawn(home, &place)];
    let servers = starting.map(|process| Server::started(process, false));
    let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();

    let admin = Person::with_key(ADMIN_KEY);
    for url in &urls {
        assert_eq!(admin.ask(url, "GET", "/v1/models", &Value::Null).0, 200);
    }
    let csrf =
        urls.iter().map(|url| Person::default().ask(url, "GET", "/api/session", &Value::Null).1);
    let csrf: Vec<Value> = csrf.map(|session| session["csrf"].clone()).collect();
    assert_eq!(csrf[0], csrf[1], "they have one secret");
    assert_eq!(run(home, &["users", "list", "--database", &url]).lines().count(), 1);

    let at = |arguments: &[&str]| {
        let all: Vec<&str> =
            arguments.iter().chain(&["--database", url.as_str()]).copied().collect();
        run(home, &all)
    };
    at(&["users", "add", "Bea", "--plan", "small"]);
    let bea = Person::with_key(&at(&["users", "key", "create", "Bea"]));
    // Twice as many as fit, half of them to each, all at once.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..2 * A_DAY)
            .map(|idx| {
                let (bea, url) = (&bea, urls[idx % 2]);
                scope.spawn(move || bea.ask(url, "POST", "/v1/chat/completions", &chat(1)).0)
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(200), count(429)), (A_DAY, A_DAY), "{statuses:?}");
    for url in &urls {
        assert_eq!(bea.ask(url, "POST", "/v1/chat/completions", &chat(1)).0, 429);
    }

    // What one keeps, the other knows.
    let ask = json!({ "model": "rapport-fast", "input": "Hi!", "max_output_tokens": 2 });
    let (status, response) = admin.ask(urls[0], "POST", "/v1/responses", &ask);
    assert_eq!(status, 200, "{response}");
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    assert_eq!(admin.ask(urls[1], "GET", &path, &Value::Null), (200, response));
    assert_eq!(bea.ask(urls[1], "GET", &path, &Value::Null).0, 404);
    // A key that one has closed is closed at the other.
    let keys = at(&["users", "key", "list", "Bea"]);
    at(&["users", "key", "revoke", keys.split(' ').next().unwrap()]);
    for url in &urls {
        assert_eq!(bea.ask(url, "GET", "/v1/models", &Value::Null).0, 401);
    }
}

struct Provider {
    process: std::process::Child,
    issuer: String,
}

impl Provider {
    fn start() -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let script = tests.join("accounts/provider.mjs");
        let mut process = Command::new("node")
            .arg(node_package(OIDC_PROVIDER, &script))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let issuer = lines.find(|line| line.starts_with("http://"));
        // Who can no longer write what it has to say ends.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, issuer: issuer.expect("the provider says where it listens") }
    }

    /// Signs in as somebody, as a person at its pages does; the address that it sends them back to.
    fn sign_in(&self, address: &str, login: &str) -> String {
        let mut browser = Person::default();
        let mut place = address.to_owned();
        let mut form = Value::Null;
        for _ in 0..20 {
            let path = place.strip_prefix(&self.issuer).unwrap_or(&place).to_owned();
            if path.starts_with("http") {
                return path;
            }
            let method = if form.is_null() { "GET" } else { "POST" };
            let answered: Answered = browser.send(&self.issuer, method, &path, &form).unwrap();
            browser.take_cookies(&answered);
            form = Value::Null;
            if let Some(next) = answered.location {
                place = next;
            } else {
                assert_eq!(answered.status, 200, "{path}: {}", answered.text);
                let is_login = answered.text.contains("name=\"login\"");
                let text = if is_login {
                    format!("prompt=login&login={login}&password=x")
                } else {
                    "prompt=consent".to_owned()
                };
                form = Value::String(text);
                place = path;
            }
        }
        panic!("the provider goes round in circles: {place}");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn people_sign_in_through_a_provider_that_others_wrote() {
    let provider = Provider::start();
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join("config.toml"),
        format!(
            "[oidc]\nissuer = \"{}\"\nclient_id = \"rapport\"\nclient_secret = \"a secret of the test\"\n\
             label = \"Example\"\ndomains = \"example.org\"\nadmins = \"groups=staff\"",
            provider.issuer
        ),
    )
    .unwrap();
    let server = Server::start(home.path(), &[], true);
    let url = &server.url;
    server.first_admin();
    let sign_in = |login: &str| {
        let mut browser = Person::default();
        let started =
            browser.send(url, "GET", "/api/auth/oidc/start?to=/style", &Value::Null).unwrap();
        assert_eq!(started.status, 303, "{}", started.text);
        browser.take_cookies(&started);
        let back = provider.sign_in(&started.location.unwrap(), login);
        let path = back.strip_prefix(url.as_str()).unwrap_or_else(|| panic!("{back}"));
        let answered = browser.send(url, "GET", path, &Value::Null).unwrap();
        browser.take_cookies(&answered);
        // A code that was used opens nothing.
        let again = browser.send(url, "GET", path, &Value::Null).unwrap();
        assert!(again.location.unwrap().contains("oidc_error"));
        (answered.location.unwrap(), browser.ask(url, "GET", "/api/session", &Value::Null).1)
    };
    let (place, session) = sign_in("cleo");
    assert_eq!(place, "/style");
    assert_eq!(session["user"]["name"], "cleo@example.org");
    assert_eq!(session["user"]["role"], "user");
    let (_, again) = sign_in("cleo");
    assert_eq!(again["user"]["id"], session["user"]["id"]);
    assert_eq!(sign_in("staff").1["user"]["role"], "admin");
    let (place, nobody) = sign_in("unverified");
    assert_eq!((place.as_str(), &nobody["user"]), ("/sign-in?oidc_error=domain", &Value::Null));
    // The program says what is wrong before it serves.
    let output =
        rapport(home.path(), &["serve", "--oidc-issuer", "http://id.example.org"]).output();
    assert!(errors(&output.unwrap()).contains("is no https address"));
}
