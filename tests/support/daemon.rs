//! A daemon in a process of its own, and an HTTP client that can also be rude.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Home, PATIENCE, until};

/// A workflow that touches no cluster and succeeds at once.
pub(crate) const QUICK: &str = "name: release\ntasks:\n  ask: { type: approval, when: \"${{ false }}\" }\n";
/// One that waits for people.
pub(crate) const WAITS: &str = "name: release\ntasks:\n  ask: { type: approval, with: { expires: 1h } }\n";

/// `graylane serve`; killed when the test ends.
pub(crate) struct Daemon {
    child: Child,
    /// What it said at its start.
    pub(crate) said: String,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    stderr: std::path::PathBuf,
    _stdout: BufReader<ChildStdout>,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The code of a problem.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        problem["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Home {
    /// Starts the daemon on a free port, and waits until it answers.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Daemon {
        self.serve_with(arguments, |_| {})
    }

    /// The same, with more said to its process.
    pub(crate) fn serve_with(&self, arguments: &[&str], more: impl Fn(&mut Command)) -> Daemon {
        let mut command = self.command(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat());
        let stderr = self.path(&format!("stderr-{}", fs::read_dir(self.path("")).expect("readable").count()));
        command.stdout(Stdio::piped()).stderr(fs::File::create(&stderr).expect("made"));
        more(&mut command);
        let mut child = command.spawn().expect("started");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (mut said, mut address) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            let read = stdout.read_line(&mut line).expect("readable");
            let told = fs::read_to_string(&stderr).unwrap_or_default();
            assert!(read > 0, "the daemon ended early: {said}{told}");
            if let Some(rest) = line.strip_prefix("API ") {
                address = rest.trim().split("://").nth(1).expect("an address").to_owned();
            }
            said.push_str(&line);
            if line.starts_with("tokens ") {
                break;
            }
        }
        Daemon { child, said, address, stderr, _stdout: stdout }
    }

    /// Makes a token; whoever holds the store does it.
    pub(crate) fn token(&self, name: &str, role: &str, more: &[&str]) -> String {
        let ran = self.graylane(&[&["token", "create", name, "--role", role], more].concat());
        ran.expect(0).stdout.trim().to_owned()
    }
}

impl Daemon {
    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// Waits for its end; gives the exit code, and what it said on standard error.
    pub(crate) fn ended(&mut self) -> (i32, String) {
        let mut code = None;
        until("the daemon has ended", || {
            code = self.child.try_wait().expect("waited for").map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        (code.unwrap_or(-1), self.stderr())
    }

    /// What it has said on standard error.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// One request; a token is shown where one is given.
    pub(crate) fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Reply {
        let mut headers = Vec::new();
        let bearer = token.map(|token| format!("Bearer {token}"));
        if let Some(bearer) = &bearer {
            headers.push(("authorization", bearer.as_str()));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        self.send(method, path, &headers, body.as_bytes())
    }

    pub(crate) fn get(&self, path: &str, token: &str) -> Reply {
        self.ask("GET", path, Some(token), None)
    }

    pub(crate) fn post(&self, path: &str, token: &str, body: &Value) -> Reply {
        self.ask("POST", path, Some(token), Some(body))
    }

    /// One request with these headers, as they are.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = self.connect();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{lines}content-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        // A refused body is not read to its end.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        read_reply(&mut stream)
    }

    /// One request as the owner of the data folder.
    pub(crate) fn ask_socket(&self, home: &Home, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let mut stream = UnixStream::connect(home.data().join("api.sock")).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: graylane\r\n{kind}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .expect("written");
        read_reply(&mut stream)
    }

    /// The status of an answer that goes on for ever; without a caller, as the owner of the data folder.
    pub(crate) fn head(&self, home: &Home, path: &str, caller: Option<Option<&str>>) -> u16 {
        let status = |line: std::io::Result<String>| {
            line.ok().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
        };
        let head = |token: Option<&str>| {
            let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
            format!("GET {path} HTTP/1.1\r\nhost: x\r\n{token}\r\n")
        };
        match caller {
            Some(token) => {
                let mut stream = self.connect();
                stream.write_all(head(token).as_bytes()).expect("sent");
                BufReader::new(stream).lines().next().map_or(0, status)
            }
            None => {
                let mut stream = UnixStream::connect(home.data().join("api.sock")).expect("connected");
                stream.write_all(head(None).as_bytes()).expect("sent");
                BufReader::new(stream).lines().next().map_or(0, status)
            }
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("set");
        stream
    }

    /// Submits a file of one's own, with an admin's token; gives the run.
    pub(crate) fn submit(&self, token: &str, workflow: &str) -> String {
        let reply = self.post("/api/v1/runs", token, &submission(workflow));
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until a run has this status.
    pub(crate) fn until(&self, token: &str, run: &str, status: &str) {
        until(&format!("run {run} is {status}"), || {
            self.get(&format!("/api/v1/runs/{run}"), token).json()["status"] == status
        });
    }
}

/// What submits a file of one's own.
pub(crate) fn submission(workflow: &str) -> Value {
    use base64::Engine as _;
    let file = base64::prelude::BASE64_STANDARD.encode(workflow);
    serde_json::json!({ "bundle": { "version": 1, "files": { "workflow.yaml": file } } })
}

/// Reads an answer to its end.
pub(crate) fn read_reply(stream: &mut impl std::io::Read) -> Reply {
    let mut bytes = Vec::new();
    // A connection that is reset after the answer has given it all the same.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text.as_str(), ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    Reply { status, head: head.to_owned(), body }
}

fn unchunked(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        body.push_str(&rest[..size]);
        text = rest[size..].trim_start_matches("\r\n");
    }
    body
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
