//! The built program as a server, and somebody's browser or program for it.

#![allow(dead_code, reason = "each test program uses some of this")]
#![allow(clippy::allow_attributes, reason = "what is unused differs between the programs")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

/// A running `rapport serve`.
pub(crate) struct Server {
    pub(crate) process: Child,
    /// Such as `http://127.0.0.1:1234`.
    pub(crate) url: String,
    /// What it said so far on the error output, up to its address or its link.
    pub(crate) link: Option<String>,
}

pub(crate) fn rapport(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rapport"));
    command.args(arguments).env("RAPPORT_HOME", home).stdin(Stdio::null());
    command
}

/// Runs the program to its end, which must be good; what it wrote.
pub(crate) fn run(home: &Path, arguments: &[&str]) -> String {
    let output = rapport(home, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Server {
    /// Starts one at a free port and waits until it answers. `is_first`: it prints the first link.
    pub(crate) fn start(home: &Path, arguments: &[&str], is_first: bool) -> Self {
        Self::started(Self::spawn(home, arguments), is_first)
    }

    /// Begins to start one; several may start at once.
    pub(crate) fn spawn(home: &Path, arguments: &[&str]) -> Child {
        let model = rapport_testkit::default_model();
        rapport(home, &["serve", "--port", "0", "--model", model.to_str().unwrap()])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn started(mut process: Child, is_first: bool) -> Self {
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (mut url, mut link, mut said) = (None, None, String::new());
        while url.is_none() || is_first && link.is_none() {
            let line = lines.next().unwrap_or_else(|| panic!("it did not start: {said}")).unwrap();
            if let Some((_, rest)) = line.split_once(" at http://") {
                let (address, token) = rest.split_once("/setup#").unwrap_or((rest, ""));
                url = Some(format!("http://{address}"));
                link = Some(token.to_owned()).filter(|token| !token.is_empty()).or(link);
            }
            said += &line;
            said.push('\n');
        }
        // The rest is read so that the server never waits for it.
        std::thread::spawn(move || lines.for_each(drop));
        let server = Self { process, url: url.unwrap(), link };
        while Person::default().send(&server.url, "GET", "/readyz", &Value::Null).unwrap().status
            != 200
        {
            std::thread::yield_now();
        }
        server
    }

    /// Makes the first admin by the link.
    pub(crate) fn first_admin(&self) -> Person {
        let mut person = Person::default();
        person.look(&self.url);
        let body = json!({ "token": self.link, "name": "Ada", "password": "correct horse" });
        let answered = person.send(&self.url, "POST", "/api/setup", &body).unwrap();
        assert_eq!(answered.status, 200, "{}", answered.text);
        person.take_cookies(&answered);
        person.look(&self.url);
        person
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An answer to a request.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) cookies: Vec<String>,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| Value::String(self.text.clone()))
    }
}

/// Somebody's browser or program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Person {
    pub(crate) cookies: BTreeMap<String, String>,
    pub(crate) csrf: String,
    pub(crate) key: Option<String>,
}

impl Person {
    pub(crate) fn with_key(key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..Self::default() }
    }

    fn request(
        &self,
        url: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .build()
            .into();
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let form = body.as_str();
        let kind =
            if form.is_some() { "application/x-www-form-urlencoded" } else { "application/json" };
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{url}{path}"))
            .header("content-type", kind)
            .header("x-rapport-csrf", &self.csrf)
            .header("cookie", cookies.join("; "));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if body.is_null() {
            return agent.run(request.body(()).unwrap());
        }
        let text = form.map_or_else(|| body.to_string(), str::to_owned);
        agent.run(request.body(text).unwrap())
    }

    /// Asks and reads the answer to its end. A body that is a text is sent as a form.
    pub(crate) fn send(
        &self,
        url: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Answered, ureq::Error> {
        let mut response = self.request(url, method, path, body)?;
        let header = |name: &str| {
            let values = response.headers().get_all(name).iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        Ok(Answered {
            status: response.status().as_u16(),
            location: header("location").pop(),
            cookies: header("set-cookie"),
            text: response.body_mut().read_to_string()?,
        })
    }

    pub(crate) fn ask(&self, url: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let answered = self.send(url, method, path, body).unwrap();
        (answered.status, answered.json())
    }

    /// The lines of an answer as they come.
    pub(crate) fn lines(
        &self,
        url: &str,
        path: &str,
    ) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>, ureq::Error> {
        let response = self.request(url, "GET", path, &Value::Null)?;
        let (_, body) = response.into_parts();
        let reader: Box<dyn Read> = Box::new(body.into_reader());
        Ok(BufReader::new(reader).lines())
    }

    /// The token of the page.
    pub(crate) fn look(&mut self, url: &str) {
        let (status, session) = self.ask(url, "GET", "/api/session", &Value::Null);
        assert_eq!(status, 200, "{session}");
        session["csrf"].as_str().unwrap().clone_into(&mut self.csrf);
    }

    pub(crate) fn take_cookies(&mut self, answered: &Answered) {
        for cookie in &answered.cookies {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}
