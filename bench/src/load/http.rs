//! As much of HTTP as the load needs: calls on a connection that stays, and server-sent events. No library stands between
//! the clock and the wire.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Whom to ask, and as whom.
#[derive(Clone)]
pub(super) struct To {
    pub(super) address: Arc<str>,
    pub(super) token: Arc<str>,
}

/// A connection to the program.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    to: To,
}

impl Connection {
    pub(super) async fn open(to: &To) -> Result<Connection, String> {
        let stream = TcpStream::connect(&*to.address).await.map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Connection { stream: BufReader::new(stream), to: to.clone() })
    }

    /// A call that must succeed; its body.
    pub(super) async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<String, String> {
        match self.call(method, path, body).await? {
            (200, answer) => Ok(answer),
            (status, answer) => Err(format!("{method} {path}: {status} {answer}")),
        }
    }

    /// A call; its status and its body.
    pub(super) async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, String), String> {
        let wrong = |why: String| format!("{method} {path}: {why}");
        let (status, length) = self.send(method, path, body).await.map_err(wrong)?;
        let mut answer = vec![0; length.ok_or_else(|| wrong("an answer without its length".into()))?];
        self.stream.read_exact(&mut answer).await.map_err(|error| wrong(error.to_string()))?;
        Ok((status, String::from_utf8_lossy(&answer).into_owned()))
    }

    /// Opens a stream of events.
    pub(super) async fn stream(mut self, path: &str) -> Result<Events, String> {
        match self.send("GET", path, "").await? {
            (200, None) => Ok(Events { stream: self.stream, held: Vec::new() }),
            (status, _) => Err(format!("GET {path}: {status}, and no stream")),
        }
    }

    /// Sends a request and reads the head of its answer: the status, and the length of the body where it is known.
    async fn send(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Option<usize>), String> {
        let wrong = |error: std::io::Error| error.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.to.address,
            self.to.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.map_err(wrong)?;
        let (mut status, mut length) = (None, None);
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await.map_err(wrong)? == 0 {
                return Err("the connection was closed".into());
            }
            let line = line.trim_end();
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
                status.ok_or_else(|| format!("no answer of HTTP: {line}"))?;
            } else if let Some((name, value)) = line.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().ok();
                }
            } else {
                return Ok((status.unwrap_or(0), length));
            }
        }
    }
}

/// A stream of server-sent events.
pub(super) struct Events {
    stream: BufReader<TcpStream>,
    held: Vec<u8>,
}

/// One event.
pub(super) struct Sent {
    pub(super) id: Option<u64>,
    pub(super) name: String,
    pub(super) data: String,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Sent>, String> {
        loop {
            if let Some(end) = self.held.windows(2).position(|two| two == b"\n\n") {
                let rest = self.held.split_off(end + 2);
                let whole = std::mem::replace(&mut self.held, rest);
                let sent = Sent::read(&String::from_utf8_lossy(&whole));
                // Something that only keeps the connection alive.
                if sent.data.is_empty() {
                    continue;
                }
                return Ok(Some(sent));
            }
            if !self.chunk().await.map_err(|error| format!("a stream broke off: {error}"))? {
                return Ok(None);
            }
        }
    }

    /// Reads a chunk; whether there was one.
    async fn chunk(&mut self) -> std::io::Result<bool> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let from = self.held.len();
        // With the line break behind it.
        self.held.resize(from + size + 2, 0);
        self.stream.read_exact(&mut self.held[from..]).await?;
        self.held.truncate(from + size);
        Ok(size > 0)
    }
}

impl Sent {
    fn read(text: &str) -> Sent {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        Sent {
            id: field("id: ").parse().ok(),
            name: field("event: ").to_owned(),
            data: field("data: ").to_owned(),
        }
    }

    /// A text in the data, by its key: the first of that name, which is the outermost.
    pub(super) fn text(&self, key: &str) -> Result<&str, String> {
        self.value(key)
            .and_then(|rest| rest.strip_prefix('"')?.split('"').next())
            .ok_or_else(|| self.without(key))
    }

    /// A number in the data, likewise.
    pub(super) fn number(&self, key: &str) -> Result<u64, String> {
        let digits = self.value(key).map(|rest| rest.split([',', '}']).next().unwrap_or_default());
        digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| self.without(key))
    }

    fn value(&self, key: &str) -> Option<&str> {
        let at = self.data.find(&format!("\"{key}\":"))?;
        self.data.get(at + key.len() + 3..)
    }

    fn without(&self, key: &str) -> String {
        format!("an event without `{key}`: {}", self.data)
    }
}
