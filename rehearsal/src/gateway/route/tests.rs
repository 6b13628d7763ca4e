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
fn check(ingresses: &[Value], host: &str, path: &str, headers: &[(&str, &str)], draw: u64) -> Option<String> {
    let table = Table::build(ingresses.iter(), &["mse".to_owned()]);
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let chosen = table.choose(host, path, &map, |bound| draw.min(bound - 1))?;
    Some(chosen[0].service.clone())
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
    nginx["spec"]["ingressClassName"] = "nginx".into();
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
    let read = control(&ingress("x", "h", "/", "Prefix", annotations), "request-header-control");
    assert_eq!(read.update, [pair("x-mse-tag", "gray"), pair("x-other", "two words")]);
    assert_eq!(read.add, [pair("x-more", "1")]);
    assert_eq!(read.remove, ["x-a", "x-b"]);
}
