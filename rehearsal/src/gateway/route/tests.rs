//! The gateway's rules as a table: which request goes where.

use super::*;
use serde_json::json;

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// An Ingress of class `mse`, the younger the longer its name is.
fn ingress(name: &str, host: &str, path: &str, path_type: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "n", "annotations": annotations, "creationTimestamp": format!("2026-01-01T00:00:0{}Z", name.len() % 10)},
        "spec": {"ingressClassName": "mse", "rules": [{"host": host, "http": {"paths": [{
            "path": path, "pathType": path_type, "backend": {"service": {"name": name, "port": {"number": 80}}},
        }]}}]},
    })
}

fn canary_of(name: &str, annotations: &[(&str, &str)]) -> Value {
    let mut all = json!({"nginx.ingress.kubernetes.io/canary": "true"});
    for (key, value) in annotations {
        let key =
            if key.contains('/') { (*key).to_owned() } else { format!("nginx.ingress.kubernetes.io/{key}") };
        all[key] = (*value).into();
    }
    ingress(name, "example.com", "/", "Prefix", all)
}

/// Where a request goes first, with a fixed draw of weights.
fn check(routes: &[Value], host: &str, path: &str, headers: &[(&str, &str)], draw: u64) -> Option<String> {
    let chosen = chosen(routes, host, path, headers, draw);
    chosen.first().map(|to| to.service.clone())
}

/// Every place that a request may go to, the first one first.
fn chosen(routes: &[Value], host: &str, path: &str, headers: &[(&str, &str)], draw: u64) -> Vec<Destination> {
    let (http, ingresses): (Vec<&Value>, Vec<&Value>) =
        routes.iter().partition(|route| route["kind"] == "HTTPRoute");
    let classes = crate::gateway::every_kind();
    let table = Table::build(ingresses.into_iter(), http.into_iter(), &classes);
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let question = Question { host, path, query: "", method: "GET", headers: &map };
    let chosen = table.choose(&question, |bound| draw.min(bound - 1));
    chosen.into_iter().flatten().cloned().collect()
}

#[test]
fn hosts_and_paths_are_matched_by_the_most_exact_rule() {
    let all = [
        ingress("base", "example.com", "/", "Prefix", json!({})),
        ingress("exact", "example.com", "/a", "Exact", json!({})),
        ingress("prefix", "example.com", "/api/v1", "Prefix", json!({})),
        ingress("wild", "*.example.com", "/", "Prefix", json!({})),
        ingress("impl", "impl.org", "/x/", "ImplementationSpecific", json!({})),
    ];
    let table = [
        ("example.com", "/", Some("base")),
        ("example.com:8080", "/", Some("base")),
        ("EXAMPLE.com", "/", Some("base")),
        ("example.com", "/a", Some("exact")),
        ("example.com", "/a/b", Some("base")),
        ("example.com", "/api/v1/x", Some("prefix")),
        ("example.com", "/api/v1", Some("prefix")),
        ("example.com", "/api/v12", Some("base")),
        ("x.example.com", "/", Some("wild")),
        ("x.y.example.com", "/", None),
        ("impl.org", "/x", Some("impl")),
        ("impl.org", "/y", None),
        ("other.org", "/", None),
        ("", "/", None),
    ];
    for (host, path, expected) in table {
        assert_eq!(check(&all, host, path, &[], 0).as_deref(), expected, "{host}{path}");
    }
}

#[test]
fn canaries_take_their_requests_by_header_then_cookie_then_weight() {
    let base = || ingress("base", "example.com", "/", "Prefix", json!({}));
    let by = |annotations: &[(&str, &str)]| vec![base(), canary_of("canary", annotations)];
    let header: Pairs<'_> =
        &[("canary-by-header", "x-user-id"), ("canary-by-header-value", "100"), ("canary-weight", "100")];
    let alone: Pairs<'_> = &[("canary-by-header", "X-User-Id")];
    let pattern: Pairs<'_> =
        &[("canary-by-header", "x-user-id"), ("canary-by-header-pattern", "^1[0-9]{2}$")];
    let cookie: Pairs<'_> = &[("canary-by-cookie", "lane"), ("canary-weight", "100")];
    let weight: Pairs<'_> = &[("canary-weight", "30")];
    let total: Pairs<'_> = &[("canary-weight", "30"), ("canary-weight-total", "1000")];
    let mse: &[(&str, &str)] = &[
        ("mse.ingress.kubernetes.io/canary-by-header", "x-user-id"),
        ("mse.ingress.kubernetes.io/canary-by-header-value", "7"),
    ];
    let table: [(Pairs<'_>, Pairs<'_>, u64, &str); 17] = [
        (header, &[("x-user-id", "100")], 0, "canary"),
        (header, &[("x-user-id", "101")], 0, "base"),
        (header, &[("x-user-id", "always")], 0, "base"),
        (header, &[], 0, "base"),
        (alone, &[("x-user-id", "always")], 0, "canary"),
        (alone, &[("x-user-id", "never")], 0, "base"),
        (pattern, &[("x-user-id", "142")], 0, "canary"),
        (pattern, &[("x-user-id", "1422")], 0, "base"),
        (cookie, &[("cookie", "a=b; lane=always")], 0, "canary"),
        (cookie, &[("cookie", "lane=never")], 0, "base"),
        (cookie, &[], 0, "base"),
        (weight, &[], 29, "canary"),
        (weight, &[], 30, "base"),
        (total, &[], 29, "canary"),
        (total, &[], 30, "base"),
        (mse, &[("x-user-id", "7")], 0, "canary"),
        (&[("canary-by-header", "x"), ("canary-by-header-pattern", "(")], &[("x", "(")], 0, "base"),
    ];
    for (annotations, headers, draw, expected) in table {
        let got = check(&by(annotations), "example.com", "/", headers, draw);
        assert_eq!(got.as_deref(), Some(expected), "{annotations:?} {headers:?} {draw}");
    }
}

#[test]
fn of_several_canaries_the_older_is_asked_first_and_weights_add_up() {
    let base = ingress("base", "example.com", "/", "Prefix", json!({}));
    let gray = canary_of("gray1", &[("canary-by-header", "x-user-id"), ("canary-by-header-value", "100")]);
    let blue = canary_of("bluish", &[("canary-by-header", "x-user-id"), ("canary-by-header-value", "200")]);
    let late =
        canary_of("latecomer", &[("canary-by-header", "x-user-id"), ("canary-by-header-value", "100")]);
    let ten = canary_of("ten10", &[("canary-weight", "10")]);
    let twenty = canary_of("twenty", &[("canary-weight", "20")]);
    let all = [late, blue, twenty, gray, base, ten];
    let table: [(Pairs<'_>, u64, &str); 6] = [
        (&[("x-user-id", "100")], 99, "gray1"),
        (&[("x-user-id", "200")], 99, "bluish"),
        (&[], 5, "ten10"),
        (&[], 15, "twenty"),
        (&[], 29, "twenty"),
        (&[], 30, "base"),
    ];
    for (headers, draw, expected) in table {
        assert_eq!(
            check(&all, "example.com", "/", headers, draw).as_deref(),
            Some(expected),
            "{headers:?} {draw}"
        );
    }
}

#[test]
fn a_canary_without_its_base_and_other_classes_do_not_exist() {
    let header: Pairs<'_> = &[("canary-by-header", "x"), ("canary-by-header-value", "1")];
    let lonely = canary_of("lonely", header);
    assert_eq!(check(&[lonely], "example.com", "/", &[("x", "1")], 0), None);
    let base = ingress("base", "example.com", "/", "Prefix", json!({}));
    let mut unpaired = canary_of("canary", header);
    unpaired["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = "ImplementationSpecific".into();
    assert_eq!(
        check(&[base.clone(), unpaired], "example.com", "/", &[("x", "1")], 0).as_deref(),
        Some("base")
    );
    let mut nginx = base.clone();
    nginx["spec"]["ingressClassName"] = "unknown".into();
    assert_eq!(check(&[nginx], "example.com", "/", &[], 0), None);
    let mut younger = ingress("younger", "example.com", "/", "Prefix", json!({}));
    younger["metadata"]["creationTimestamp"] = "2027-01-01T00:00:00Z".into();
    assert_eq!(check(&[younger, base], "example.com", "/", &[], 0).as_deref(), Some("base"));
}

#[test]
fn header_control_is_read_line_by_line_and_belongs_to_its_own_ingress() {
    let annotations = json!({
        "mse.ingress.kubernetes.io/request-header-control-update": "x-mse-tag gray\nx-other \"two words\"",
        "mse.ingress.kubernetes.io/request-header-control-add": "x-more 1",
        "mse.ingress.kubernetes.io/request-header-control-remove": "x-a, x-b",
    });
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let ingress = ingress("x", "h", "/", "Prefix", annotations);
    let read = ingress::control(&ingress, "mse.ingress.kubernetes.io", "request-header-control");
    assert_eq!(read.update, [pair("x-mse-tag", "gray"), pair("x-other", "two words")]);
    assert_eq!(read.add, [pair("x-more", "1")]);
    assert_eq!(read.remove, ["x-a", "x-b"]);
}

fn of_class(class: &str, mut ingress: Value) -> Value {
    ingress["spec"]["ingressClassName"] = class.into();
    ingress
}

/// The same canary under each class, a row a request: where each kind sends it (its reference tables, section by section).
#[test]
fn each_kind_reads_the_same_annotations_by_its_own_rules() {
    let value: Pairs<'_> = &[("canary-by-header", "x-user-id"), ("canary-by-header-value", "100")];
    let dotted: Pairs<'_> = &[("canary-by-header", "v"), ("canary-by-header-value", "1.0")];
    let escaped: Pairs<'_> = &[("canary-by-header", "v"), ("canary-by-header-value", "1\\.0")];
    let alone: Pairs<'_> = &[("canary-by-header", "x-user-id")];
    let pattern: Pairs<'_> =
        &[("canary-by-header", "x-user-id"), ("canary-by-header-pattern", "^1[0-9]{2}$")];
    let cookie: Pairs<'_> =
        &[("canary-by-cookie", "lane"), ("mse.ingress.kubernetes.io/canary-by-cookie-value", "yes")];
    let plain_cookie: Pairs<'_> = &[("canary-by-cookie", "lane")];
    let both: Pairs<'_> =
        &[("canary-by-header", "x-user-id"), ("canary-by-header-value", "100"), ("canary-weight", "100")];
    let small_total: Pairs<'_> = &[("canary-weight", "10"), ("canary-weight-total", "20")];
    // (annotations, request, draw, mse, higress, nginx)
    let table: [(Pairs<'_>, Pairs<'_>, u64, bool, bool, bool); 17] = [
        (value, &[("x-user-id", "100")], 0, true, true, true),
        (value, &[("x-user-id", "101")], 0, false, false, false),
        (value, &[("x-user-id", "always")], 0, false, true, false),
        (dotted, &[("v", "1.0")], 0, true, true, true),
        (dotted, &[("v", "1x0")], 0, false, true, false),
        (escaped, &[("v", "1.0")], 0, false, true, false),
        (escaped, &[("v", "1x0")], 0, false, false, false),
        (alone, &[("x-user-id", "always")], 0, true, true, true),
        (alone, &[("x-user-id", "never")], 0, false, false, false),
        (pattern, &[("x-user-id", "142")], 0, true, true, true),
        (pattern, &[("x-user-id", "1422")], 0, false, false, false),
        (cookie, &[("cookie", "lane=yes")], 0, true, false, false),
        (cookie, &[("cookie", "lane=always")], 0, false, true, true),
        (plain_cookie, &[("cookie", "a=b; lane=always")], 0, true, true, true),
        (both, &[("x-user-id", "7")], 0, false, false, true),
        (small_total, &[], 15, false, false, false),
        (small_total, &[], 9, true, true, true),
    ];
    for (annotations, headers, draw, mse, higress, nginx) in table {
        for (class, expected) in [("mse", mse), ("higress", higress), ("nginx", nginx)] {
            let base = of_class(class, ingress("base", "example.com", "/", "Prefix", json!({})));
            let canary = of_class(class, canary_of("canary", annotations));
            let got = check(&[base, canary], "example.com", "/", headers, draw);
            let expected = if expected { "canary" } else { "base" };
            assert_eq!(got.as_deref(), Some(expected), "{class}: {annotations:?} {headers:?} {draw}");
        }
    }
}

#[test]
fn who_sets_the_tag_header_depends_on_the_kind() {
    let annotations = json!({
        "nginx.ingress.kubernetes.io/canary": "true", "nginx.ingress.kubernetes.io/canary-by-header": "x",
        "mse.ingress.kubernetes.io/request-header-control-update": "x-mse-tag by-mse",
        "higress.io/request-header-control-update": "x-mse-tag by-higress",
    });
    for (class, expected) in [("mse", Some("by-mse")), ("higress", Some("by-higress")), ("nginx", None)] {
        let base = of_class(class, ingress("base", "example.com", "/", "Prefix", json!({})));
        let canary = of_class(class, ingress("canary", "example.com", "/", "Prefix", annotations.clone()));
        let to = chosen(&[base, canary], "example.com", "/", &[("x", "always")], 0).remove(0);
        assert_eq!(to.service, "canary");
        let set = to.request.update.first().map(|(_, value)| value.as_str());
        assert_eq!(set, expected, "{class}");
    }
}

#[test]
fn nginx_attaches_one_canary_to_the_primary_service_wherever_it_is_routed() {
    let n = |name: &str, host: &str, service: &str, annotations: Value| {
        let mut made = of_class("nginx", ingress(name, host, "/", "Prefix", annotations));
        made["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = service.into();
        made
    };
    let by = |value: &str| {
        json!({"nginx.ingress.kubernetes.io/canary": "true", "nginx.ingress.kubernetes.io/canary-by-header": "x",
            "nginx.ingress.kubernetes.io/canary-by-header-value": value})
    };
    let base = || n("base", "example.com", "a", json!({}));
    let shop = || n("shops", "shop.example.com", "a", json!({}));
    let other = || n("others", "other.example.com", "b", json!({}));
    let gray = || n("canary", "example.com", "a-gray", by("1"));
    let blue = || n("canary2", "example.com", "a-blue", by("2"));
    let own = || n("canary", "example.com", "a", by("1"));
    let direct = || n("directs", "gray.example.com", "a-gray", json!({}));
    let table: [(&str, Vec<Value>, &str, &str, &str); 8] = [
        ("the place itself", vec![base(), gray()], "example.com", "1", "a-gray"),
        ("another host of the same Service", vec![base(), shop(), gray()], "shop.example.com", "1", "a-gray"),
        ("a host of another Service", vec![base(), other(), gray()], "other.example.com", "1", "b"),
        ("the older of two canaries", vec![base(), gray(), blue()], "example.com", "1", "a-gray"),
        ("the younger one is nobody's", vec![base(), gray(), blue()], "example.com", "2", "a"),
        ("base and canary are one Service", vec![base(), own()], "example.com", "1", "a"),
        (
            "the gray Service has an Ingress of its own",
            vec![base(), direct(), gray()],
            "example.com",
            "1",
            "a",
        ),
        ("a canary without a base", vec![shop(), gray()], "shop.example.com", "1", "a"),
    ];
    for (what, all, host, value, expected) in table {
        assert_eq!(check(&all, host, "/", &[("x", value)], 0).as_deref(), Some(expected), "{what}");
    }
    // Nobody else does that: the canary is of the place.
    let mut others = vec![base(), shop(), gray()];
    others.iter_mut().for_each(|one| one["spec"]["ingressClassName"] = "mse".into());
    assert_eq!(check(&others, "shop.example.com", "/", &[("x", "1")], 0).as_deref(), Some("a"));
}

#[test]
fn nginx_lets_never_keep_out_and_a_missed_header_go_on_to_the_weight() {
    let base = || of_class("nginx", ingress("base", "example.com", "/", "Prefix", json!({})));
    let by = |annotations: Pairs<'_>| vec![base(), of_class("nginx", canary_of("canary", annotations))];
    let all: Pairs<'_> = &[("canary-by-header", "x"), ("canary-by-cookie", "c"), ("canary-weight", "100")];
    for (headers, expected) in [
        (&[("x", "never")] as Pairs<'_>, "base"),
        (&[("x", "never"), ("cookie", "c=always")], "base"),
        (&[("x", "maybe"), ("cookie", "c=never")], "base"),
        (&[("x", "maybe")], "canary"),
        (&[], "canary"),
    ] {
        assert_eq!(check(&by(all), "example.com", "/", headers, 0).as_deref(), Some(expected), "{headers:?}");
    }
}

fn http_route(name: &str, hosts: &[&str], matches: Value, service: &str) -> Value {
    json!({
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "n", "creationTimestamp": format!("2026-01-01T00:00:0{}Z", name.len() % 10)},
        "spec": {"hostnames": hosts, "rules": [{"matches": matches, "backendRefs": [{"name": service, "port": 80}],
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-mse-tag", "value": name}]}}]}]},
    })
}

#[test]
fn of_http_routes_the_most_specific_match_wins_and_nothing_falls_back() {
    let path = |value: &str| json!({"type": "PathPrefix", "value": value});
    let user = |value: &str| json!([{"name": "X-User-Id", "value": value}]);
    let all = [
        http_route("base", &["example.com"], json!([{"path": path("/")}]), "a"),
        http_route(
            "grayer",
            &["example.com"],
            json!([{"path": path("/"), "headers": user("100")}]),
            "a-gray",
        ),
        http_route("latecom", &["example.com"], json!([{"path": path("/"), "headers": user("100")}]), "late"),
        http_route("deep", &["example.com"], json!([{"path": path("/deep")}]), "deep"),
        http_route(
            "exact",
            &["example.com"],
            json!([{"path": {"type": "Exact", "value": "/deep"}}]),
            "exact",
        ),
        http_route("method", &["example.com"], json!([{"path": path("/post"), "method": "POST"}]), "post"),
        http_route("wild", &["*.example.com"], json!([]), "wild"),
        http_route(
            "cook",
            &["example.com"],
            json!([{"path": path("/"), "headers": [
            {"name": "cookie", "type": "RegularExpression", "value": "^(?:.*;\\s*)?lane=always(?:\\s*;.*)?$"}]}]),
            "cookie",
        ),
    ];
    let table: [(&str, &str, Pairs<'_>, Option<&str>); 12] = [
        ("example.com", "/", &[], Some("a")),
        ("example.com", "/", &[("x-user-id", "100")], Some("a-gray")),
        ("example.com", "/x", &[("x-user-id", "100")], Some("a-gray")),
        ("example.com", "/", &[("x-user-id", "1000")], Some("a")),
        ("example.com", "/deep/er", &[("x-user-id", "100")], Some("deep")),
        ("example.com", "/deep", &[], Some("exact")),
        ("example.com", "/post", &[], Some("a")),
        ("one.example.com", "/", &[], Some("wild")),
        ("example.org", "/", &[], None),
        ("example.com", "/", &[("cookie", "a=b; lane=always; c=d")], Some("cookie")),
        ("example.com", "/", &[("cookie", "lane=always")], Some("cookie")),
        ("example.com", "/", &[("cookie", "xlane=always")], Some("a")),
    ];
    for (host, path, headers, expected) in table {
        assert_eq!(check(&all, host, path, headers, 0).as_deref(), expected, "{host}{path} {headers:?}");
    }
    let gray = chosen(&all, "example.com", "/", &[("x-user-id", "100")], 0);
    assert_eq!(gray.len(), 1, "there is nothing to fall back to");
    assert_eq!(gray[0].request.update, [("x-mse-tag".to_owned(), "grayer".to_owned())]);
    assert!(gray[0].strict);
    let mut split = http_route("base", &["example.com"], json!([]), "a");
    split["spec"]["rules"][0]["backendRefs"] =
        json!([{"name": "a", "port": 80, "weight": 90}, {"name": "b", "port": 80, "weight": 10}]);
    for (draw, expected) in [(0, "a"), (89, "a"), (90, "b")] {
        assert_eq!(check(&[split.clone()], "example.com", "/", &[], draw).as_deref(), Some(expected));
    }
}
