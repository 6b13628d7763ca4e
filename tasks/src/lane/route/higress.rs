//! Open-source Higress: nginx's canary annotations, but exact values become regular expressions, and headers are set under
//! `higress.io/` only; MSE's own prefix says nothing to it.

use serde_json::Value;

use super::ingress::{HIGRESS_SET_HEADER, has_bases, leads_to_lane, shares_places, write_canary};
use super::{Asked, Entry, Judgement, Rules, escaped, weighted};
use crate::lane::labels::TAG_HEADER;
use crate::manifest::map_at;

pub(super) struct Higress;

impl Rules for Higress {
    fn check(&self, entry: &Entry, _tag: &str) -> Vec<String> {
        let value = entry.cookie.as_ref().and_then(|cookie| cookie.value.as_deref());
        match value.filter(|value| *value != "always") {
            Some(value) => vec![format!(
                "a higress gateway cannot compare a cookie with `{value}`: it lets in the value `always` only; leave `value` out, or use `header`"
            )],
            None => Vec::new(),
        }
    }

    fn write(&self, route: &mut Value, entry: &Entry, tag: &str) -> Result<(), Vec<String>> {
        leads_to_lane(route, tag)?;
        // It would read `a.b` as `always|a.b`, a pattern.
        let mut entry = entry.clone();
        if let Some(cookie) = &mut entry.cookie {
            cookie.value = None;
        }
        write_canary(route, &entry, escaped);
        map_at(route, &["metadata", "annotations"])
            .insert(HIGRESS_SET_HEADER.into(), format!("{TAG_HEADER} {tag}").into());
        Ok(())
    }

    fn judge(&self, asked: &Asked<'_>, judgement: &mut Judgement) {
        has_bases(asked, judgement);
        shares_places(asked, judgement);
        weighted(asked.entry, judgement);
        if let Some(header) = asked.entry.header.as_ref().filter(|header| header.value.is_some()) {
            judgement
                .notes
                .push(format!("a higress gateway also lets requests in whose `{}` is `always`", header.name));
        }
    }
}
