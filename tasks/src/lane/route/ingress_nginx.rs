//! ingress-nginx: one canary per host and path, attached to the primary Service, and no way to set a header.
//!
//! So the tag must come with the request: a lane of several services is entered by the tag header itself.

use serde_json::Value;

use super::ingress::{has_bases, is_canary, leads_to_lane, places, rivals, same_class, write_canary};
use super::{Asked, Entry, Judgement, Rules, weighted, whose};
use crate::lane::gray_name;
use crate::lane::labels::TAG_HEADER;
use crate::manifest::ObjectRef;

pub(super) struct IngressNginx;

/// Whether requests carry the tag already.
fn by_tag(entry: &Entry, tag: &str) -> bool {
    entry.header.as_ref().is_some_and(|header| {
        header.name.eq_ignore_ascii_case(TAG_HEADER) && header.value.as_deref() == Some(tag)
    })
}

impl Rules for IngressNginx {
    fn check(&self, entry: &Entry, tag: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(value) = entry.cookie.as_ref().and_then(|c| c.value.as_deref()).filter(|v| *v != "always")
        {
            wrong.push(format!(
                "ingress-nginx cannot compare a cookie with `{value}`: it lets in the value `always` only; leave `value` out, or use `header`"
            ));
        }
        if let Some(header) = &entry.header
            && header.name.eq_ignore_ascii_case(TAG_HEADER)
            && !by_tag(entry, tag)
        {
            wrong.push(format!(
                "`{TAG_HEADER}` must have the lane's tag as its value: it carries the tag from hop to hop, so write `value: {tag}`"
            ));
        }
        wrong
    }

    fn write(&self, route: &mut Value, entry: &Entry, tag: &str) -> Result<(), Vec<String>> {
        leads_to_lane(route, tag)?;
        // A canary to the same Service as its base does nothing, and is an error in the controller's log.
        let suffix = gray_name("", tag);
        let gray = |backend: &Value| {
            backend
                .pointer("/service/name")
                .and_then(Value::as_str)
                .is_some_and(|name| name.ends_with(&suffix))
        };
        if let Some(rules) = route.pointer_mut("/spec/rules").and_then(Value::as_array_mut) {
            for rule in rules.iter_mut() {
                if let Some(paths) = rule.pointer_mut("/http/paths").and_then(Value::as_array_mut) {
                    paths.retain(|path| gray(&path["backend"]));
                }
            }
            rules.retain(|rule| {
                rule.pointer("/http/paths").and_then(Value::as_array).is_some_and(|p| !p.is_empty())
            });
        }
        if let Some(spec) = route.get_mut("spec").and_then(Value::as_object_mut)
            && spec.get("defaultBackend").is_some_and(|backend| !gray(backend))
        {
            spec.remove("defaultBackend");
        }
        let mut entry = entry.clone();
        if let Some(cookie) = &mut entry.cookie {
            cookie.value = None;
        }
        write_canary(route, &entry, str::to_owned);
        Ok(())
    }

    fn judge(&self, asked: &Asked<'_>, judgement: &mut Judgement) {
        has_bases(asked, judgement);
        for (other, place) in rivals(asked) {
            judgement.wrong.push(format!(
                "ingress-nginx takes one canary for a host and path, and {} is the one for {}: take it down first",
                whose(other),
                place.shown()
            ));
        }
        self.carries_the_tag(asked, judgement);
        self.names_neighbours(asked, judgement);
        weighted(asked.entry, judgement);
    }
}

impl IngressNginx {
    fn carries_the_tag(&self, asked: &Asked<'_>, judgement: &mut Judgement) {
        if by_tag(asked.entry, asked.tag) {
            judgement.notes.push(format!(
                "whoever sends `{TAG_HEADER}: {}` enters the lane: ingress-nginx passes the header on as it came",
                asked.tag
            ));
        } else if asked.services > 1 {
            judgement.wrong.push(format!(
                "ingress-nginx cannot put `{TAG_HEADER}` on requests, so behind the entry nobody would meet the lane's other services: enter by `header: {{ name: {TAG_HEADER}, value: {} }}`, which the client sends, or deploy the entry alone",
                asked.tag
            ));
        } else {
            judgement.notes.push(format!(
                "ingress-nginx cannot put `{TAG_HEADER}` on requests: behind {} they go on to the baseline",
                asked.entry.service
            ));
        }
    }

    /// The canary hangs on the primary Service, not on the place.
    fn names_neighbours(&self, asked: &Asked<'_>, judgement: &mut Judgement) {
        let mine = places(asked.route);
        let bases: Vec<&Value> = same_class(asked).filter(|other| !is_canary(other)).collect();
        let primaries: Vec<(String, String)> = bases
            .iter()
            .flat_map(|base| places(base))
            .filter(|base| mine.iter().any(|place| place.pairs(base)))
            .map(|base| (base.service, base.port))
            .collect();
        for base in &bases {
            for place in places(base) {
                let shared = primaries.contains(&(place.service.clone(), place.port.clone()));
                if shared && !mine.iter().any(|one| one.pairs(&place)) {
                    judgement.notes.push(format!(
                        "ingress-nginx splits by Service: {} of {} leads to {} too, and its requests enter the lane by the same rule",
                        place.shown(),
                        ObjectRef::of(base),
                        place.service
                    ));
                }
                if mine.iter().any(|one| one.service == place.service) {
                    judgement.wrong.push(format!(
                        "{} leads to {} as to any Service: ingress-nginx then takes no canary to it",
                        ObjectRef::of(base),
                        place.service
                    ));
                }
            }
        }
    }
}
