//! The MSE cloud-native gateway: nginx's canary annotations, and its own for headers and cookies.
//!
//! Many canaries per host and path; one with a header or cookie is never weighted, so `canary-weight: "0"` beside them only says so.

use serde_json::Value;

use super::ingress::{MSE_SET_HEADER, has_bases, leads_to_lane, shares_places, write_canary};
use super::{Asked, Entry, Judgement, Rules, weighted};
use crate::lane::labels::TAG_HEADER;
use crate::manifest::map_at;

pub(super) struct Mse;

impl Rules for Mse {
    fn check(&self, _entry: &Entry, _tag: &str) -> Vec<String> {
        Vec::new()
    }

    fn write(&self, route: &mut Value, entry: &Entry, tag: &str) -> Result<(), Vec<String>> {
        leads_to_lane(route, tag)?;
        write_canary(route, entry, str::to_owned);
        map_at(route, &["metadata", "annotations"])
            .insert(MSE_SET_HEADER.into(), format!("{TAG_HEADER} {tag}").into());
        Ok(())
    }

    fn judge(&self, asked: &Asked<'_>, judgement: &mut Judgement) {
        has_bases(asked, judgement);
        shares_places(asked, judgement);
        weighted(asked.entry, judgement);
        if asked.entry.cookie.as_ref().is_some_and(|cookie| cookie.value.is_some()) {
            judgement.notes.push(
                "a cookie's value needs an MSE gateway of 1.2.30 or later: older ones let in `always` only"
                    .into(),
            );
        }
    }
}
