//! Whom a check may ask, and how: no metadata service, no link-local address, no redirect, a bounded answer.
//!
//! A name is judged by every address that it resolves to, at the moment of the connection: what a plan saw an hour ago says nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;

/// The longest answer that is read.
const MAX_BODY: usize = 1024 * 1024;

/// A client that opens a connection a request: a check shall meet what a new user meets.
pub(super) type HttpClient = Over<Guarded<System>>;

/// Such a client, over names that are resolved so.
type Over<R> = Client<HttpsConnector<HttpConnector<R>>, Full<Bytes>>;

/// Such a client, over addresses that are judged.
pub(super) fn client() -> HttpClient {
    over(Guarded(System))
}

fn over<R>(resolver: R) -> Over<R>
where
    R: tower::Service<Name, Response = Addresses, Error = io::Error, Future = Resolving>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(Duration::from_secs(5)));
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
        .map(|builder| builder.https_or_http().enable_http1().wrap_connector(connector));
    let connector =
        connector.unwrap_or_else(|error| panic!("the compiled-in TLS settings are not valid: {error}"));
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub status: u16,
    /// Where a redirect leads; it is not followed.
    pub location: Option<String>,
    pub body: String,
}

/// Sends a request; an error is what there is to say in the place of an answer.
pub(super) async fn fetch<C: Connect + Clone + Send + Sync + 'static>(
    client: &Client<C, Full<Bytes>>,
    request: http::Request<Full<Bytes>>,
    timeout: Duration,
) -> Result<Answer, String> {
    // An address that is written out is never resolved.
    if let Some(why) = request.uri().host().and_then(literal).and_then(forbidden) {
        return Err(format!(
            "no answer: {} is {why}, and is never asked",
            request.uri().host().unwrap_or("")
        ));
    }
    let answered = tokio::time::timeout(timeout, async {
        let response =
            client.request(request).await.map_err(|error| format!("no answer: {}", innermost(&error)))?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION);
        let location = location.and_then(|to| to.to_str().ok()).map(|to| to.chars().take(200).collect());
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => format!("{status}, and a body of more than {} KiB", MAX_BODY / 1024),
            None => format!("{status}, and a body that breaks off: {error}"),
        })?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Answer { status, location, body })
    });
    answered.await.unwrap_or_else(|_| Err(format!("no answer within {}", seconds(timeout))))
}

fn seconds(timeout: Duration) -> String {
    graylane_engine::clock::show_duration(timeout)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(inner) = at.source() {
        at = inner;
    }
    at.to_string()
}

/// A host as an address, where it is one; brackets of IPv6 left out.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Why an address is never asked: cloud metadata hands out credentials to whoever asks from here.
pub(super) fn forbidden(address: IpAddr) -> Option<&'static str> {
    let address = match address {
        IpAddr::V6(six) => match embedded(six) {
            Some(four) => IpAddr::V4(four),
            None => address,
        },
        IpAddr::V4(_) => address,
    };
    match address {
        IpAddr::V4(four) => {
            // Alibaba Cloud, Azure, Oracle; the others use a link-local one.
            let metadata = [[100, 100, 100, 200], [168, 63, 129, 16], [192, 0, 0, 192]];
            match four.octets() {
                octets if metadata.contains(&octets) => Some("an address of cloud metadata"),
                [169, 254, ..] => Some("a link-local address"),
                [0, ..] => Some("an unspecified address"),
                _ if four.is_multicast() || four.is_broadcast() => Some("a multicast address"),
                _ => None,
            }
        }
        IpAddr::V6(six) => {
            let segments = six.segments();
            match segments {
                [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some("an address of cloud metadata"),
                [first, ..] if first & 0xffc0 == 0xfe80 => Some("a link-local address"),
                _ if six.is_unspecified() => Some("an unspecified address"),
                _ if six.is_multicast() => Some("a multicast address"),
                _ => None,
            }
        }
    }
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded(six: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = six.segments();
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of(high, low),
        [0x2002, high, low, ..] => of(high, low),
        _ => None,
    }
}

/// Why the addresses of a name are not asked. A name may not lead to this machine unless it says so.
fn judged(name: &str, addresses: &[SocketAddr]) -> Result<(), String> {
    for address in addresses {
        if let Some(why) = forbidden(address.ip()) {
            return Err(format!("`{name}` is {}, {why}, and is never asked", address.ip()));
        }
        let here = match address.ip() {
            IpAddr::V6(six) => six.is_loopback() || embedded(six).is_some_and(|four| four.is_loopback()),
            IpAddr::V4(four) => four.is_loopback(),
        };
        if here && !name.eq_ignore_ascii_case("localhost") {
            return Err(format!("`{name}` is {}, which is this machine, and is not asked", address.ip()));
        }
    }
    Ok(())
}

type Addresses = std::vec::IntoIter<SocketAddr>;
type Resolving = Pin<Box<dyn Future<Output = io::Result<Addresses>> + Send>>;

/// Where the addresses of a name come from.
pub(super) trait Names: Clone + Send + Sync + 'static {
    /// All of them.
    fn of(&self, name: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// From the system's resolver.
#[derive(Debug, Clone, Copy)]
pub(super) struct System;

impl Names for System {
    async fn of(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.collect())
    }
}

/// Resolves names, and lets no forbidden address pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guarded<N>(N);

impl<N: Names> tower::Service<Name> for Guarded<N> {
    type Response = Addresses;
    type Error = io::Error;
    type Future = Resolving;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.0.clone();
        Box::pin(async move {
            let found = names.of(name.as_str()).await?;
            judged(name.as_str(), &found).map_err(io::Error::other)?;
            Ok(found.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server on loopback: `/elsewhere` redirects to the address given, `/large` is a body of 2 MiB, all else is `hello`.
    struct Served {
        address: SocketAddr,
        /// How many requests came.
        met: Arc<AtomicUsize>,
    }

    impl Served {
        async fn start(elsewhere: String) -> Served {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let served = Served { address: listener.local_addr().expect("bound"), met: Arc::default() };
            let met = Arc::clone(&served.met);
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut head = [0; 2048];
                    let read = stream.read(&mut head).await.unwrap_or(0);
                    let head = String::from_utf8_lossy(&head[..read]).into_owned();
                    met.fetch_add(1, Ordering::SeqCst);
                    let answer = if head.starts_with("GET /elsewhere ") {
                        format!(
                            "HTTP/1.1 302 Found\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                        )
                    } else {
                        let body = if head.starts_with("GET /large ") {
                            "x".repeat(2 * MAX_BODY)
                        } else {
                            "hello".into()
                        };
                        let length = body.len();
                        format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                        )
                    };
                    // Whoever asked may have gone after the first piece.
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
            served
        }

        fn met(&self) -> usize {
            self.met.load(Ordering::SeqCst)
        }

        /// A request for a path here, under this name.
        fn request(&self, host: &str, path: &str) -> http::Request<Full<Bytes>> {
            let uri = format!("http://{host}:{}{path}", self.address.port());
            http::Request::get(uri).body(Full::default()).expect("a request")
        }
    }

    /// Every name is this machine, as an attacker's name server would say.
    #[derive(Clone)]
    struct Rebound;

    impl Names for Rebound {
        async fn of(&self, _: &str) -> io::Result<Vec<SocketAddr>> {
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))])
        }
    }

    /// The same, with the guard off.
    #[derive(Clone)]
    struct Unguarded(Rebound);

    impl tower::Service<Name> for Unguarded {
        type Response = Addresses;
        type Error = io::Error;
        type Future = Resolving;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, name: Name) -> Self::Future {
            let names = self.0.clone();
            Box::pin(async move { Ok(names.of(name.as_str()).await?.into_iter()) })
        }
    }

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_never_connected_to() {
        let server = Served::start(String::new()).await;
        let request = || server.request("www.example.com", "/");
        let refused = fetch(&over(Guarded(Rebound)), request(), SOON).await.expect_err("refused");
        assert_eq!(
            refused,
            "no answer: `www.example.com` is 127.0.0.1, which is this machine, and is not asked"
        );
        assert_eq!(server.met(), 0, "nothing was sent");
        // The control: with the guard off, the same request arrives.
        let answer = fetch(&over(Unguarded(Rebound)), request(), SOON).await.expect("answered");
        assert_eq!((answer.body.as_str(), server.met()), ("hello", 1));
    }

    #[tokio::test]
    async fn an_address_that_is_written_out_is_judged_before_anything_is_sent() {
        let server = Served::start(String::new()).await;
        let request = || server.request("0.0.0.0", "/");
        let refused = fetch(&client(), request(), SOON).await.expect_err("refused");
        assert_eq!(refused, "no answer: 0.0.0.0 is an unspecified address, and is never asked");
        assert_eq!(server.met(), 0, "nothing was sent");
        // The control: the client by itself goes there, and it is this machine.
        client().request(request()).await.expect("answered");
        assert_eq!(server.met(), 1);
    }

    #[tokio::test]
    async fn a_redirect_is_told_and_never_followed() {
        let other = Served::start(String::new()).await;
        let there = format!("http://{}/", other.address);
        let server = Served::start(there.clone()).await;
        let answer =
            fetch(&client(), server.request("127.0.0.1", "/elsewhere"), SOON).await.expect("answered");
        assert_eq!((answer.status, answer.location.as_deref()), (302, Some(there.as_str())));
        assert_eq!(other.met(), 0, "nobody went there");
        // The control: who follows it arrives.
        let followed = http::Request::get(&there).body(Full::default()).expect("a request");
        fetch(&client(), followed, SOON).await.expect("answered");
        assert_eq!(other.met(), 1);
    }

    #[tokio::test]
    async fn of_an_endless_body_no_more_is_read_than_is_allowed() {
        let server = Served::start(String::new()).await;
        let request = || server.request("127.0.0.1", "/large");
        let refused = fetch(&client(), request(), SOON).await.expect_err("refused");
        assert_eq!(refused, "200, and a body of more than 1024 KiB");
        // The control: without the limit all of it is kept.
        let response = client().request(request()).await.expect("answered");
        let whole = response.into_body().collect().await.expect("read").to_bytes();
        assert_eq!(whole.len(), 2 * MAX_BODY);
    }

    #[test]
    fn metadata_and_link_local_addresses_are_never_asked_however_they_are_written() {
        for (address, why) in [
            ("169.254.169.254", Some("a link-local address")),
            ("::ffff:169.254.169.254", Some("a link-local address")),
            ("64:ff9b::a9fe:a9fe", Some("a link-local address")),
            ("2002:a9fe:a9fe::1", Some("a link-local address")),
            ("100.100.100.200", Some("an address of cloud metadata")),
            ("::ffff:100.100.100.200", Some("an address of cloud metadata")),
            ("168.63.129.16", Some("an address of cloud metadata")),
            ("fd00:ec2::254", Some("an address of cloud metadata")),
            ("fe80::1", Some("a link-local address")),
            ("0.0.0.0", Some("an unspecified address")),
            ("::", Some("an unspecified address")),
            ("224.0.0.1", Some("a multicast address")),
            ("255.255.255.255", Some("a multicast address")),
            ("ff02::1", Some("a multicast address")),
            ("10.0.0.1", None),
            ("127.0.0.1", None),
            ("::1", None),
            ("8.8.8.8", None),
            ("2606:4700::1111", None),
        ] {
            assert_eq!(forbidden(address.parse().expect("an address")), why, "{address}");
        }
    }

    #[test]
    fn a_name_is_judged_by_everything_that_it_resolves_to() {
        for (name, addresses, expected) in [
            ("www.example.com", vec!["93.184.216.34:0"], Ok(())),
            (
                "www.example.com",
                vec!["93.184.216.34:0", "169.254.169.254:0"],
                Err("`www.example.com` is 169.254.169.254, a link-local address, and is never asked"),
            ),
            ("localhost", vec!["127.0.0.1:0", "[::1]:0"], Ok(())),
            (
                "rebound.example.com",
                vec!["127.0.0.1:0"],
                Err("`rebound.example.com` is 127.0.0.1, which is this machine, and is not asked"),
            ),
            (
                "rebound.example.com",
                vec!["[::ffff:127.0.0.1]:0"],
                Err("`rebound.example.com` is ::ffff:127.0.0.1, which is this machine, and is not asked"),
            ),
        ] {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().expect("valid")).collect();
            assert_eq!(judged(name, &addresses), expected.map_err(str::to_owned), "{name}");
        }
    }
}
