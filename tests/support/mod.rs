//! A user's home for a test: a copy of the examples, a data folder, the binary, and a rehearsal of its own.

pub(crate) mod agent;
pub(crate) mod compare;
pub(crate) mod daemon;
pub(crate) mod desk;
pub(crate) mod line;
pub(crate) mod node;
pub(crate) mod proxy;
pub(crate) mod routes;
pub(crate) mod stage;
pub(crate) mod tally;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// The value of the example's Secret; it must never be found in a data folder.
pub(crate) const SECRET: &str = "example-token-7f3a9c";

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A folder in which the program is run.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The same, after the exit code was compared.
    pub(crate) fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// Runs a command to its end.
pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("started");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Home {
    /// A home with the examples as they are in the repository.
    pub(crate) fn new() -> Home {
        let home = Home { folder: tempfile::tempdir().expect("a folder") };
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["workflows", "config"] {
            copy(&repository.join(folder), &home.path(folder));
        }
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Changes a file of the home by replacing a text that must be there.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(path, text.replace(from, to)).expect("written");
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).expect("written");
    }

    /// An environment `real` on a cluster, with no gateway of its own; `rest` is what stands in its file besides.
    pub(crate) fn real(&self, kubeconfig: &Path, namespace: &str, rest: &str) {
        let environment = format!(
            "name: real\ncluster: {{ kubeconfig: {} }}\nnamespace: {namespace}\ngateway: {{ kind: mse, address: \"http://127.0.0.1:1\" }}\nservices: ../services\n{rest}\n",
            kubeconfig.display()
        );
        self.write("config/environments/real.yaml", &environment);
    }

    /// The program, with its data folder and the rehearsal's delays of a test.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_graylane"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("GRAYLANE_DATA", self.data())
            .env("GRAYLANE_REHEARSAL_DELAYS", "fast")
            .env("USER", "ann")
            .env("NO_COLOR", "1")
            .env_remove("GRAYLANE_LOG")
            .env("XDG_CONFIG_HOME", self.path("no-config"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn graylane(&self, arguments: &[&str]) -> Ran {
        ran(&mut self.command(arguments))
    }

    /// Starts the rehearsal as a process of its own.
    pub(crate) fn rehearsal(&self, delays: &str) -> Rehearsal {
        let mut child = self
            .command(&["rehearsal", "--gateway", "127.0.0.1:0"])
            .env("GRAYLANE_REHEARSAL_DELAYS", delays)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut gateway = String::new();
        let mut kubeconfig = PathBuf::new();
        loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).expect("readable") > 0, "the rehearsal ended early");
            if let Some(address) = line.strip_prefix("gateway  http://") {
                gateway = address.trim().to_owned();
            }
            if let Some(rest) = line.strip_prefix("kubectl  KUBECONFIG=") {
                kubeconfig = rest.split_whitespace().next().expect("a path").into();
            }
            if line.starts_with("its objects stay") {
                break;
            }
        }
        Rehearsal { child, gateway, kubeconfig, _stdout: lines }
    }

    /// Searches every file of the data folder for the example's secret, plain and in base64.
    pub(crate) fn assert_no_secret(&self) {
        let needles = [SECRET.as_bytes().to_vec(), b"ZXhhbXBsZS10b2tlbi03ZjNhOWM".to_vec()];
        let mut files = 0;
        for path in files_below(&self.data()) {
            let bytes = fs::read(&path).unwrap_or_default();
            files += 1;
            for needle in &needles {
                let found = bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "{} holds the example's secret", path.display());
            }
        }
        assert!(files > 3, "there is a data folder to search");
    }
}

/// Copies a folder with all that is below it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("readable").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Every file below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}

/// A rehearsal cluster in a process of its own; ended when the test ends.
pub(crate) struct Rehearsal {
    child: Child,
    pub(crate) gateway: String,
    pub(crate) kubeconfig: PathBuf,
    _stdout: BufReader<ChildStdout>,
}

impl Rehearsal {
    /// A client of its API server.
    pub(crate) async fn client(&self) -> kube::Client {
        client(&self.kubeconfig).await
    }
}

/// A client of the API server that a kubeconfig names.
pub(crate) async fn client(kubeconfig: &Path) -> kube::Client {
    let file = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.expect("valid");
    kube::Client::try_from(config).expect("a client")
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        // Nothing of it is needed any more; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the gateway answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Which images answered, hop by hop.
    pub(crate) chain: String,
    pub(crate) body: String,
}

/// One request through a gateway, as a browser would send it; status 0 where no answer came.
pub(crate) fn ask(gateway: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    try_ask(gateway, path, headers).unwrap_or_else(|error| Answer {
        status: 0,
        chain: String::new(),
        body: error.to_string(),
    })
}

fn try_ask(gateway: &str, path: &str, headers: &[(&str, &str)]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: example.com\r\n{headers}connection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text.as_str(), ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chain = head.lines().find_map(|line| line.strip_prefix("x-rehearsal-chain: ")).unwrap_or_default();
    Ok(Answer { status, chain: chain.to_owned(), body: body.to_owned() })
}

/// The header of the gray user.
pub(crate) const GRAY: &[(&str, &str)] = &[("x-user-id", "100")];

/// Somebody who asks again and again, until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<BTreeMap<String, u64>>>,
}

impl Load {
    /// Two users, one gray and one not, each asking some fifty times a second.
    pub(crate) fn start(gateway: &str) -> Load {
        Load::with(gateway, &[&[], GRAY])
    }

    /// Users with these headers.
    pub(crate) fn with(gateway: &str, users: &[&'static [(&'static str, &'static str)]]) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |headers: &'static [(&'static str, &'static str)]| {
            let (stop, gateway) = (Arc::clone(&stop), gateway.to_owned());
            std::thread::spawn(move || {
                let mut answers = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(&gateway, "/a", headers);
                    *answers.entry(format!("{} {}", answer.status, shape(&answer.body))).or_insert(0) += 1;
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                answers
            })
        };
        let threads = users.iter().map(|headers| spawn(headers)).collect();
        Load { stop, threads }
    }

    /// How often each status and shape of answer came, user by user.
    pub(crate) fn stop(self) -> Vec<BTreeMap<String, u64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    }
}

/// An answer without addresses: `Agray -> B -> Cgray`.
pub(crate) fn shape(body: &str) -> String {
    let hops = body.trim().split(" -> ").map(|hop| hop.split('[').next().unwrap_or_default());
    hops.collect::<Vec<_>>().join(" -> ")
}

/// Asks until the answer is as wanted; what lags behind may take a moment.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = PATIENCE.as_millis() / 50;
    for _ in 0..patience {
        if holds() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("gave up waiting until {what}");
}

/// Past the test runner, which keeps what a test that passes prints to itself.
pub(crate) fn say(text: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr(), "{text}");
}
