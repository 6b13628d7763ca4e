//! Cursors: where the next page of a list begins. A cursor names the list that it was made for, and is refused by another.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use graylane_engine::id::Digest;
use serde::Serialize;
use serde_json::Value;

use super::error::{ApiError, Code};

/// What stands for a list: its name, and what was asked of it besides the page.
pub(super) fn list(name: &str, asked: &impl Serialize) -> String {
    let mut asked = serde_json::to_value(asked).unwrap_or_default();
    if let Some(asked) = asked.as_object_mut() {
        asked.retain(|key, value| !["limit", "after", "cursor"].contains(&key.as_str()) && !value.is_null());
        asked.sort_keys();
    }
    let digest = Digest::of(Value::from([name.into(), asked].to_vec()).to_string().as_bytes());
    digest.short().to_owned()
}

/// A cursor of this list, for what comes after `last`.
pub(super) fn write(list: &str, last: &impl ToString) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{list}.{}", last.to_string()))
}

/// What the last page ended with.
///
/// # Errors
/// It is no cursor, or one of another list.
pub(super) fn read<T: std::str::FromStr>(list: &str, cursor: &str) -> Result<T, ApiError> {
    let no = |words: &str| {
        ApiError::new(Code::BadCursor, words).hint("ask for the first page again, without a cursor")
    };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| no("this is no cursor"))?;
    let text = String::from_utf8(bytes).map_err(|_| no("this is no cursor"))?;
    let (of, last) = text.split_once('.').ok_or_else(|| no("this is no cursor"))?;
    if of != list {
        return Err(no("this cursor belongs to another list, or to other conditions"));
    }
    last.parse().map_err(|_| no("this is no cursor"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cursor_is_taken_by_its_own_list_alone() {
        let mine = list("runs", &json!({ "status": "failed", "limit": 5 }));
        assert_eq!(
            mine,
            list("runs", &json!({ "limit": 50, "cursor": "x", "status": "failed", "tag": null }))
        );
        let cursor = write(&mine, &7);
        assert_eq!(read::<u64>(&mine, &cursor).ok(), Some(7));
        for other in
            [list("runs", &json!({ "status": "running" })), list("audit", &json!({ "status": "failed" }))]
        {
            assert_eq!(
                read::<u64>(&other, &cursor).map_err(|no| no.into_problem().code),
                Err("bad-cursor".into())
            );
        }
        for wrong in ["", "x", "%%%", "e30", &BASE64_URL_SAFE_NO_PAD.encode(format!("{mine}.x"))] {
            assert!(read::<u64>(&mine, wrong).is_err(), "{wrong}");
        }
    }
}
