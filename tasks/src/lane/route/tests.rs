//! Who enters, by each kind of gateway: what is written, what is read back, what is refused, what is said.

use serde_json::{Value, json};

use super::*;
use crate::lane::{Judgement, gray_name};

const KINDS: [GatewayKind; 4] =
    [GatewayKind::Mse, GatewayKind::Higress, GatewayKind::IngressNginx, GatewayKind::GatewayApi];

fn header(name: &str, value: Option<&str>, pattern: Option<&str>) -> Entry {
    let own = |text: Option<&str>| text.map(str::to_owned);
    let header = Header { name: name.into(), value: own(value), pattern: own(pattern) };
    Entry { service: "spring-a".into(), header: Some(header), cookie: None, weight: None }
}

fn cookie(value: Option<&str>) -> Entry {
    let cookie = Cookie { name: "lane".into(), value: value.map(str::to_owned) };
    Entry { service: "spring-a".into(), header: None, cookie: Some(cookie), weight: None }
}

fn weight(weight: u32) -> Entry {
    Entry { service: "spring-a".into(), header: None, cookie: None, weight: Some(weight) }
}

/// A route to Service `a`, or to its copy.
fn route(kind: GatewayKind, name: &str, service: &str) -> Value {
    let class = kind.default_class();
    match kind {
        GatewayKind::GatewayApi => json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name },
            "spec": { "parentRefs": [{ "name": "gateway" }], "hostnames": ["example.com"], "rules": [{
                "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }],
                "backendRefs": [{ "name": service, "port": 80 }] }] },
        }),
        _ => json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": name },
            "spec": { "ingressClassName": class, "rules": [{ "host": "example.com", "http": { "paths": [{
                "path": "/", "pathType": "Prefix",
                "backend": { "service": { "name": service, "port": { "number": 80 } } } }] } }] },
        }),
    }
}

fn written(kind: GatewayKind, entry: &Entry, tag: &str) -> Value {
    let mut gray = route(kind, &gray_name("a", tag), &gray_name("a", tag));
    gray["metadata"]["labels"] = json!({ "zadigx-release-type": "mse-gray", "zadigx-release-version": tag });
    gray["metadata"]["annotations"] = json!({ "graylane.dev/origin": "a" });
    kind.rules().write(&mut gray, entry, tag).expect("written");
    gray
}

fn judged(kind: GatewayKind, entry: &Entry, services: usize, others: &[Value]) -> Judgement {
    let gray = written(kind, entry, "gray");
    let base = route(kind, "a", "a");
    let others: Vec<&Value> = [&base].into_iter().chain(others).collect();
    let mut judgement = Judgement::default();
    let asked = Asked { route: &gray, entry, tag: "gray", services, others: &others };
    kind.rules().judge(&asked, &mut judgement);
    judgement
}

/// What annotations, or matches and filters, each kind writes.
#[test]
fn every_kind_writes_who_enters_and_the_header_that_carries_the_tag_in_its_own_words() {
    let n = "nginx.ingress.kubernetes.io";
    let of = |kind: GatewayKind, entry: &Entry| {
        let mut annotations = written(kind, entry, "gray")["metadata"]["annotations"].clone();
        annotations.as_object_mut().expect("a map").retain(|key, _| !key.starts_with("graylane.dev/"));
        annotations
    };
    let dotted = header("x-version", Some("1.0"), None);
    assert_eq!(
        of(GatewayKind::Mse, &dotted),
        json!({ format!("{n}/canary"): "true", format!("{n}/canary-by-header"): "x-version", format!("{n}/canary-by-header-value"): "1.0",
            format!("{n}/canary-weight"): "0", "mse.ingress.kubernetes.io/request-header-control-update": "x-mse-tag gray" })
    );
    assert_eq!(
        of(GatewayKind::Higress, &dotted),
        json!({ format!("{n}/canary"): "true", format!("{n}/canary-by-header"): "x-version", format!("{n}/canary-by-header-value"): "1\\.0",
            format!("{n}/canary-weight"): "0", "higress.io/request-header-control-update": "x-mse-tag gray" }),
        "a value is a regular expression to it, and it reads header control under its own prefix only"
    );
    assert_eq!(
        of(GatewayKind::IngressNginx, &header("x-mse-tag", Some("gray"), None)),
        json!({ format!("{n}/canary"): "true", format!("{n}/canary-by-header"): "x-mse-tag", format!("{n}/canary-by-header-value"): "gray",
            format!("{n}/canary-weight"): "0" })
    );
    assert_eq!(
        of(GatewayKind::Mse, &cookie(Some("yes")))["mse.ingress.kubernetes.io/canary-by-cookie-value"],
        "yes"
    );
    assert_eq!(of(GatewayKind::Mse, &weight(20))[format!("{n}/canary-weight")], "20");
    assert_eq!(
        of(GatewayKind::Mse, &header("x", None, Some("^1")))[format!("{n}/canary-by-header-pattern")],
        "^1"
    );
    let gray = written(GatewayKind::GatewayApi, &dotted, "gray");
    assert_eq!(
        gray["spec"]["rules"][0],
        json!({
            "matches": [{ "path": { "type": "PathPrefix", "value": "/" },
                "headers": [{ "type": "Exact", "name": "x-version", "value": "1.0" }] }],
            "filters": [{ "type": "RequestHeaderModifier",
                "requestHeaderModifier": { "set": [{ "name": "x-mse-tag", "value": "gray" }] } }],
            "backendRefs": [{ "name": "a-mse-gray", "port": 80 }],
        })
    );
}

#[test]
fn whoever_verifies_reads_the_way_in_off_the_route_that_every_kind_wrote() {
    let odd = "a.b*c(d)[e]{f}|g^h$i\\j+k?";
    for kind in KINDS {
        for (entry, expected) in [
            (header("x-user-id", Some("100"), None), Some(("x-user-id", "100"))),
            (header("x-user-id", Some(odd), None), Some(("x-user-id", odd))),
            (cookie(None), Some(("cookie", "lane=always"))),
            (header("x-user-id", None, Some("^1[0-9]$")), None),
        ] {
            let way = way(&written(kind, &entry, "gray"));
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(way.header, expected, "{kind:?} {entry:?}");
            assert_eq!(way.host.as_deref(), Some("example.com"));
            if expected.is_none() {
                let why = "the route asks for a header `x-user-id` that matches `^1[0-9]$`";
                assert_eq!(way.unsure.as_deref(), Some(why), "{kind:?}");
            }
        }
    }
    for kind in [GatewayKind::Mse, GatewayKind::GatewayApi] {
        let way = way(&written(kind, &cookie(Some("a.b")), "gray"));
        assert_eq!(way.header, Some(("cookie".into(), "lane=a.b".into())), "{kind:?}");
    }
}

/// What a kind cannot express, with the sentence that a user sees; before anything is rendered.
#[test]
fn what_a_kind_cannot_express_is_refused() {
    use GatewayKind::{GatewayApi, Higress, IngressNginx, Mse};
    let table: [(GatewayKind, Entry, &str); 16] = [
        (Mse, header("x-user-id", Some("100"), None), ""),
        (Mse, header("x-user-id", None, Some("^1")), ""),
        (Mse, cookie(Some("yes")), ""),
        (Mse, weight(20), ""),
        (Higress, cookie(None), ""),
        (Higress, weight(20), ""),
        (
            Higress,
            cookie(Some("yes")),
            "a higress gateway cannot compare a cookie with `yes`: it lets in the value `always` only; leave `value` out, or use `header`",
        ),
        (
            IngressNginx,
            cookie(Some("yes")),
            "ingress-nginx cannot compare a cookie with `yes`: it lets in the value `always` only; leave `value` out, or use `header`",
        ),
        (IngressNginx, header("x-mse-tag", Some("gray"), None), ""),
        (
            IngressNginx,
            header("x-mse-tag", Some("blue"), None),
            "`x-mse-tag` must have the lane's tag as its value: it carries the tag from hop to hop, so write `value: gray`",
        ),
        (GatewayApi, cookie(Some("yes")), ""),
        (
            GatewayApi,
            weight(20),
            "a gateway-api gateway shares requests out by weights in the baseline's own HTTPRoute: a lane leaves that alone; use `header` or `cookie`",
        ),
        (
            Mse,
            header("x-mse-tag", Some("gray"), None),
            "`x-mse-tag` cannot decide who enters a lane: it carries the tag from hop to hop",
        ),
        (
            Mse,
            header("x user", Some("1"), None),
            "`x user` cannot be sent as a name: use letters, digits, `-` and `_`",
        ),
        (
            Mse,
            header("x-user", Some(" 1"), None),
            "` 1` cannot be told apart by a gateway: use printable ASCII, without spaces at the ends",
        ),
        (
            Mse,
            cookie(Some("a;b")),
            "`a;b` cannot be the value of a cookie: leave out `;`, `,`, `\"`, `\\` and spaces",
        ),
    ];
    for (kind, entry, expected) in table {
        let found = check_resolved(&entry, kind, "gray");
        assert_eq!(found.first().map(String::as_str).unwrap_or_default(), expected, "{kind:?} {entry:?}");
    }
}

fn canary(kind: GatewayKind, name: &str, tag: &str, entry: &Entry) -> Value {
    let mut other = written(kind, entry, tag);
    other["metadata"]["name"] = name.into();
    other
}

/// A case, the gateway, who enters, how many services the lane has, what else is routed, and what is said.
type Beside = (&'static str, GatewayKind, Entry, usize, Vec<Value>, &'static str);

/// What only the cluster tells: other canaries, bases that are missing, neighbours.
#[test]
fn a_route_is_judged_beside_what_is_routed_already() {
    use GatewayKind::{GatewayApi, Higress, IngressNginx, Mse};
    let user = || header("x-user-id", Some("100"), None);
    let tag = || header("x-mse-tag", Some("gray"), None);
    let other_user = || header("x-user-id", Some("200"), None);
    let blue = |kind: GatewayKind, entry: &Entry| canary(kind, "a-mse-blue", "blue", entry);
    let mut elsewhere = route(IngressNginx, "shop", "a");
    elsewhere["spec"]["rules"][0]["host"] = "shop.example.com".into();
    let mut to_gray = route(IngressNginx, "direct", "a-mse-gray");
    to_gray["spec"]["rules"][0]["host"] = "direct.example.com".into();
    let table: Vec<Beside> = vec![
        ("two lanes, two users, on mse", Mse, user(), 2, vec![blue(Mse, &other_user())], ""),
        (
            "two lanes for one user",
            Mse,
            user(),
            2,
            vec![blue(Mse, &user())],
            "lane `blue` (Ingress a-mse-blue) lets the same requests in at example.com/: of two the gateway asks the older one, and this lane would never be met",
        ),
        (
            "the same on higress, escaped",
            Higress,
            header("x-user-id", Some("1.0"), None),
            2,
            vec![blue(Higress, &header("x-user-id", Some("1.0"), None))],
            "lane `blue` (Ingress a-mse-blue) lets the same requests in at example.com/: of two the gateway asks the older one, and this lane would never be met",
        ),
        (
            "weights that add up to more than all",
            Mse,
            weight(60),
            2,
            vec![blue(Mse, &weight(50))],
            "weights add up to 110 %: lane `blue` (Ingress a-mse-blue) with 50 % enters at the same place",
        ),
        (
            "a second canary on ingress-nginx",
            IngressNginx,
            tag(),
            2,
            vec![blue(IngressNginx, &other_user())],
            "ingress-nginx takes one canary for a host and path, and lane `blue` (Ingress a-mse-blue) is the one for example.com/: take it down first",
        ),
        (
            "a whole chain by a business header on ingress-nginx",
            IngressNginx,
            user(),
            2,
            vec![],
            "ingress-nginx cannot put `x-mse-tag` on requests, so behind the entry nobody would meet the lane's other services: enter by `header: { name: x-mse-tag, value: gray }`, which the client sends, or deploy the entry alone",
        ),
        (
            "a normal Ingress to the gray Service",
            IngressNginx,
            tag(),
            2,
            vec![to_gray],
            "Ingress direct leads to a-mse-gray as to any Service: ingress-nginx then takes no canary to it",
        ),
        ("two routes on gateway-api", GatewayApi, user(), 2, vec![blue(GatewayApi, &other_user())], ""),
        (
            "two equal routes on gateway-api",
            GatewayApi,
            user(),
            2,
            vec![blue(GatewayApi, &user())],
            "lane `blue` (HTTPRoute a-mse-blue) lets the same requests in: of two equal matches the gateway takes the older route, and this lane would never be met",
        ),
    ];
    for (what, kind, entry, services, others, expected) in table {
        let judgement = judged(kind, &entry, services, &others);
        let first = judgement.wrong.first().map(String::as_str).unwrap_or_default();
        assert_eq!(first, expected, "{what}");
    }
    let told: [Beside; 8] = [
        (
            "weight",
            Mse,
            weight(20),
            2,
            vec![],
            "20 % of all requests enter, each drawn anew: a user may meet both versions, and the whole chain is not promised",
        ),
        (
            "cookie value",
            Mse,
            cookie(Some("yes")),
            2,
            vec![],
            "a cookie's value needs an MSE gateway of 1.2.30 or later: older ones let in `always` only",
        ),
        (
            "always",
            Higress,
            user(),
            2,
            vec![],
            "a higress gateway also lets requests in whose `x-user-id` is `always`",
        ),
        (
            "by the tag",
            IngressNginx,
            tag(),
            2,
            vec![],
            "whoever sends `x-mse-tag: gray` enters the lane: ingress-nginx passes the header on as it came",
        ),
        (
            "the entry alone",
            IngressNginx,
            user(),
            1,
            vec![],
            "ingress-nginx cannot put `x-mse-tag` on requests: behind spring-a they go on to the baseline",
        ),
        (
            "neighbours",
            IngressNginx,
            tag(),
            2,
            vec![elsewhere],
            "ingress-nginx splits by Service: shop.example.com/ of Ingress shop leads to a too, and its requests enter the lane by the same rule",
        ),
        (
            "no fallback",
            GatewayApi,
            user(),
            2,
            vec![],
            "HTTPRoute a-mse-gray has no fallback: while no gray pod is ready, those who enter the lane get 503",
        ),
        (
            "a regular expression",
            GatewayApi,
            cookie(None),
            2,
            vec![],
            "HTTPRoute a-mse-gray compares by a regular expression, which a gateway-api gateway may lack: see that it reports `RegularExpression` as supported",
        ),
    ];
    for (what, kind, entry, services, others, expected) in told {
        let judgement = judged(kind, &entry, services, &others);
        assert_eq!(judgement.wrong, Vec::<String>::new(), "{what}");
        assert!(judgement.notes.iter().any(|note| note == expected), "{what}: {:?}", judgement.notes);
    }
}

#[test]
fn a_canary_needs_its_base_on_the_cluster() {
    for kind in KINDS {
        let entry = if kind == GatewayKind::IngressNginx {
            header("x-mse-tag", Some("gray"), None)
        } else {
            header("x-user-id", Some("100"), None)
        };
        let gray = written(kind, &entry, "gray");
        let judge = |others: &[&Value]| {
            let mut judgement = Judgement::default();
            let asked = Asked { route: &gray, entry: &entry, tag: "gray", services: 2, others };
            kind.rules().judge(&asked, &mut judgement);
            judgement.wrong
        };
        let base = route(kind, "a", "a");
        assert_eq!(judge(&[&base]), Vec::<String>::new(), "{kind:?}");
        let wrong = judge(&[]);
        assert!(wrong[0].contains("production was not brought up to its manifest"), "{kind:?}: {wrong:?}");
        if kind != GatewayKind::GatewayApi {
            let mut other_type = base.clone();
            other_type["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = "ImplementationSpecific".into();
            let wrong = judge(&[&other_type]);
            assert!(
                wrong[0].contains("has pathType ImplementationSpecific, the manifest Prefix"),
                "{wrong:?}"
            );
            let mut other_class = base.clone();
            other_class["spec"]["ingressClassName"] = "other".into();
            assert_eq!(judge(&[&other_class]).len(), 1, "{kind:?}: a base of another class is none");
        }
    }
}

#[test]
fn a_route_that_leads_past_the_lane_is_refused_by_every_kind() {
    for kind in KINDS {
        let mut past = route(kind, "a-mse-gray", "somebody-else");
        let entry = header("x-user-id", Some("100"), None);
        let wrong = kind.rules().write(&mut past, &entry, "gray").expect_err("leads past");
        assert!(wrong[0].contains("leads to no Service that the lane has a copy of"), "{kind:?}: {wrong:?}");
    }
}

#[test]
fn what_the_baseline_says_of_canaries_and_headers_is_not_the_lanes() {
    let mut gray = route(GatewayKind::Higress, "a-mse-gray", "a-mse-gray");
    gray["metadata"]["annotations"] = json!({
        "nginx.ingress.kubernetes.io/canary-by-query": "x",
        "mse.ingress.kubernetes.io/request-header-control-update": "x-mse-tag other",
        "higress.io/request-header-control-remove": "x-mse-tag",
        "mse.ingress.kubernetes.io/destination": "100% a.n.svc.cluster.local:80",
        "higress.io/destination": "100% a.n.svc.cluster.local:80",
        "mse.ingress.kubernetes.io/service-subset": "base",
        "mse.ingress.kubernetes.io/subset-labels": "version original",
        "nginx.ingress.kubernetes.io/rewrite-target": "/",
    });
    let entry = header("x-user-id", Some("100"), None);
    GatewayKind::Higress.rules().write(&mut gray, &entry, "gray").expect("written");
    let keys: Vec<&String> = gray["metadata"]["annotations"].as_object().expect("a map").keys().collect();
    assert!(keys.contains(&&"nginx.ingress.kubernetes.io/rewrite-target".to_owned()));
    assert!(
        !keys.iter().any(|key| key.ends_with("canary-by-query")
            || key.ends_with("-remove")
            || key.ends_with("/destination")
            || key.starts_with("mse.")),
        "{keys:?}"
    );
}

#[test]
fn a_filter_of_the_baseline_keeps_its_headers_and_takes_ours() {
    let mut gray = route(GatewayKind::GatewayApi, "a-mse-gray", "a-mse-gray");
    gray["spec"]["rules"][0]["filters"] = json!([{ "type": "RequestHeaderModifier", "requestHeaderModifier": {
        "set": [{ "name": "x-one", "value": "1" }], "remove": ["X-Mse-Tag", "x-two"] } }]);
    gray["spec"]["rules"][0]["matches"] = json!([]);
    GatewayKind::GatewayApi.rules().write(&mut gray, &header("x", Some("1"), None), "gray").expect("written");
    assert_eq!(
        gray["spec"]["rules"][0]["filters"],
        json!([{ "type": "RequestHeaderModifier", "requestHeaderModifier": {
            "set": [{ "name": "x-one", "value": "1" }, { "name": "x-mse-tag", "value": "gray" }], "remove": ["x-two"] } }])
    );
    assert_eq!(gray["spec"]["rules"][0]["matches"][0]["path"], json!({ "type": "PathPrefix", "value": "/" }));
    let mut taken = route(GatewayKind::GatewayApi, "a-mse-gray", "a-mse-gray");
    taken["spec"]["rules"][0]["matches"][0]["headers"] = json!([{ "name": "X-User-Id", "value": "7" }]);
    let wrong =
        GatewayKind::GatewayApi.rules().write(&mut taken, &header("x-user-id", Some("1"), None), "gray");
    assert!(wrong.expect_err("twice")[0].contains("a route may ask once"));
}
