//! The MSE cloud-native gateway: many canaries a place, exact values, regular expressions that are searched for.
//!
//! Header canaries are asked first (the older before the younger), then cookies, then weights; a canary with a header or a cookie has no
//! weight. Both `nginx.` and `mse.` name canary annotations; header control is MSE's alone.

use regex::Regex;

use super::ingress::{CookieMatch, HeaderMatch, Rule, Rules, Values, number};

#[derive(Debug)]
pub(super) struct Mse;

impl Rules for Mse {
    fn prefixes(&self) -> &'static [&'static str] {
        &["nginx.ingress.kubernetes.io", "mse.ingress.kubernetes.io"]
    }

    fn control_prefix(&self) -> Option<&'static str> {
        Some("mse.ingress.kubernetes.io")
    }

    fn rule(&self, read: &dyn Fn(&str) -> Option<String>) -> Option<Rule> {
        let header = match read("canary-by-header") {
            None => None,
            Some(name) => {
                let value = match (read("canary-by-header-value"), read("canary-by-header-pattern")) {
                    (Some(value), _) => Values::Is(value),
                    // A pattern that is none matches nobody; the canary has a header, so it gets no weight either.
                    (None, Some(pattern)) => Values::Matches(Regex::new(&pattern).ok()?),
                    (None, None) => Values::Is("always".to_owned()),
                };
                Some(HeaderMatch { name: name.to_ascii_lowercase(), value })
            }
        };
        let cookie = read("canary-by-cookie").map(|name| {
            let value = read("canary-by-cookie-value").unwrap_or_else(|| "always".to_owned());
            CookieMatch { name, value: Values::Is(value) }
        });
        let total = number(read("canary-weight-total"), 100).max(1);
        Some(Rule { header, cookie, weight: number(read("canary-weight"), 0), total, weighted_always: false })
    }
}
