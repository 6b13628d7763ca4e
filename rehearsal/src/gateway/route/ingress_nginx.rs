//! ingress-nginx: one canary a place, attached to the primary Service, and no header that it could set.
//!
//! So every other host and path of the same primary Service is split too. `always` and `never` decide where a header has no value of its own;
//! a value that is missed goes on to the cookie, then to the weight.

use regex::Regex;

use super::ingress::{CookieMatch, HeaderMatch, Rule, Rules, Values, number};

#[derive(Debug)]
pub(super) struct IngressNginx;

impl Rules for IngressNginx {
    fn prefixes(&self) -> &'static [&'static str] {
        &["nginx.ingress.kubernetes.io"]
    }

    fn control_prefix(&self) -> Option<&'static str> {
        None
    }

    fn by_upstream(&self) -> bool {
        true
    }

    fn rule(&self, read: &dyn Fn(&str) -> Option<String>) -> Option<Rule> {
        let header = match read("canary-by-header") {
            None => None,
            Some(name) => {
                let value = match (read("canary-by-header-value"), read("canary-by-header-pattern")) {
                    (Some(value), _) => Values::Is(value),
                    (None, Some(pattern)) => Values::Matches(Regex::new(&pattern).ok()?),
                    (None, None) => Values::AlwaysOrNever,
                };
                Some(HeaderMatch { name: name.to_ascii_lowercase(), value })
            }
        };
        let cookie = read("canary-by-cookie").map(|name| CookieMatch { name, value: Values::AlwaysOrNever });
        // A total below 100 is not taken.
        let total = number(read("canary-weight-total"), 100).max(100);
        Some(Rule { header, cookie, weight: number(read("canary-weight"), 0), total, weighted_always: true })
    }
}
