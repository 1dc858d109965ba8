//! `rapport serve` over TLS, with an authority that the test makes and clients that others wrote.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod running;

use std::path::{Path, PathBuf};
use std::process::Command;

use running::{Server, default_model, package, script};

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").current_dir(folder).args(arguments).output();
    let output = output.expect("openssl is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {errors}");
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// An authority in `ca.pem`.
fn make_authority(folder: &Path) {
    let begin = ["req", "-x509", "-days", "2", "-subj", "/CN=Test authority"];
    let files = ["-keyout", "ca.key", "-out", "ca.pem"];
    openssl(folder, &[&begin[..], &NEW_KEY, &files].concat());
}

/// A certificate for this machine that the authority signed, in `server.pem` and `server.key`.
fn make_certificate(folder: &Path, serial: &str) {
    let files = ["-keyout", "server.key", "-out", "server.csr"];
    openssl(folder, &[&["req", "-new", "-subj", "/CN=localhost"][..], &NEW_KEY, &files].concat());
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
    std::fs::write(folder.join("names"), names).unwrap();
    let sign =
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2"];
    let out = ["-set_serial", serial, "-extfile", "names", "-out", "server.pem"];
    openssl(folder, &[&sign[..], &out].concat());
}

fn flags(folder: &Path) -> [String; 4] {
    let path = |name: &str| folder.join(name).display().to_string();
    ["--tls-cert".to_owned(), path("server.pem"), "--tls-key".to_owned(), path("server.key")]
}

fn run(client: &mut Command) {
    let output = client.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
fn clients_that_know_the_authority_speak_tls_over_both_protocols() {
    let folder = tempfile::tempdir().unwrap();
    make_authority(folder.path());
    make_certificate(folder.path(), "11");
    let server =
        Server::start(&folder.path().join("home"), &default_model(), &flags(folder.path()));
    let line = server.says(" at https://");
    let url = format!("https://{}", line.split("https://").nth(1).unwrap());
    let link = server.says("/setup#");
    server.says(" is ready");
    let packages: PathBuf = package("openai==3.54.0");
    let authority = folder.path().join("ca.pem");
    let client = |what: &str| {
        let mut client = Command::new("python3");
        client.arg(script("tls_client.py")).args([what, &url]).arg(&authority);
        client.env("PYTHONPATH", &packages);
        client
    };
    run(client("talk").arg(link.split('#').nth(1).unwrap()));

    make_certificate(folder.path(), "12");
    let hang_up = || {
        let id = server.process.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    };
    hang_up();
    server.says("read again");
    run(client("serial").arg("0C"));
    std::fs::write(folder.path().join("server.key"), "nothing").unwrap();
    hang_up();
    assert!(server.says("stays as it was").contains("server.key has no private key in it"));
    run(client("serial").arg("0C"));
}

#[test]
fn the_xai_client_speaks_grpc_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    make_authority(folder.path());
    make_certificate(folder.path(), "11");
    let server =
        Server::start(&folder.path().join("home"), &default_model(), &flags(folder.path()));
    let line = server.says(" at https://127.0.0.1:");
    server.says(" is ready");
    let port = line.rsplit(':').next().unwrap();
    run(Command::new("python3")
        .arg(script("tls_grpc_client.py"))
        .arg(port)
        .env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", folder.path().join("ca.pem"))
        .env("PYTHONPATH", package("xai-sdk==1.21.0")));
}

#[test]
fn pairs_that_cannot_be_used_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    make_authority(folder.path());
    make_certificate(folder.path(), "11");
    std::fs::copy(path("server.pem"), path("first.pem")).unwrap();
    make_certificate(folder.path(), "12");
    std::fs::write(path("expired.pem"), include_bytes!("fixtures/expired.pem")).unwrap();
    std::fs::write(path("cut.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    std::fs::write(
        path("other.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    for (certificate, key, reason) in [
        ("first.pem", "server.key", "is not that of the certificate in"),
        ("expired.pem", "server.key", "ended on 2021-01-01T00:00:00Z: renew it"),
        ("nowhere.pem", "server.key", "nowhere.pem cannot be read"),
        ("server.key", "server.key", "has no certificate in it"),
        ("server.pem", "server.pem", "has no private key in it"),
        ("cut.pem", "server.key", "cut.pem is not PEM as it should be"),
        ("other.pem", "server.key", "other.pem is no certificate of X.509"),
    ] {
        let file = |name| path(name).display().to_string();
        let flags = ["--tls-cert".to_owned(), file(certificate), "--tls-key".to_owned(), file(key)];
        let mut server = Server::start(&path("home"), &default_model(), &flags);
        assert!(!server.process.wait().unwrap().success(), "{certificate} and {key}");
        server.says(reason);
    }
}
