//! Open-source Higress: as MSE, but values are regular expressions and its own annotations have its own prefix.
//!
//! An exact value becomes `always|VALUE`, matched as a whole: `always` lets in too, and metacharacters are live. It does not know the
//! prefix `mse.`, so header control under that prefix does nothing.

use regex::Regex;

use super::ingress::{CookieMatch, HeaderMatch, Rule, Rules, Values, number};

#[derive(Debug)]
pub(super) struct Higress;

impl Rules for Higress {
    fn prefixes(&self) -> &'static [&'static str] {
        &["nginx.ingress.kubernetes.io", "higress.io"]
    }

    fn control_prefix(&self) -> Option<&'static str> {
        Some("higress.io")
    }

    fn rule(&self, read: &dyn Fn(&str) -> Option<String>) -> Option<Rule> {
        let whole = |pattern: String| Regex::new(&format!("^(?:{pattern})$")).ok();
        let header = match read("canary-by-header") {
            None => None,
            Some(name) => {
                let value = match (read("canary-by-header-value"), read("canary-by-header-pattern")) {
                    (Some(value), _) => Values::Matches(whole(format!("always|{value}"))?),
                    (None, Some(pattern)) => Values::Matches(whole(format!(".*{pattern}.*"))?),
                    (None, None) => Values::Is("always".to_owned()),
                };
                Some(HeaderMatch { name: name.to_ascii_lowercase(), value })
            }
        };
        let cookie =
            read("canary-by-cookie").map(|name| CookieMatch { name, value: Values::Is("always".to_owned()) });
        let total = number(read("canary-weight-total"), 100).max(1);
        Some(Rule { header, cookie, weight: number(read("canary-weight"), 0), total, weighted_always: false })
    }
}
