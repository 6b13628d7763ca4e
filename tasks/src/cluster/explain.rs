//! What an API server said, as an error for the person who can mend it, and whether asking again may help.
//!
//! Nothing here calls anybody.

use std::time::Duration;

use graylane_engine::task::TaskError;
use kube::core::Status;

/// A call that was not answered as it should have been.
pub(super) enum Failed {
    /// The API server refused it.
    Api(Box<Status>, TaskError),
    /// It was not reached, or did not answer.
    Other(TaskError),
}

impl Failed {
    pub(super) fn error(self) -> TaskError {
        match self {
            Failed::Api(_, error) | Failed::Other(error) => error,
        }
    }

    /// How long asking again may help.
    pub(super) fn passes(&self) -> Passes {
        match self {
            Failed::Api(status, _) => match status.code {
                429 | 502 | 503 | 504 => Passes::WhenItIsBack,
                500 => Passes::Soon,
                _ => Passes::Never,
            },
            Failed::Other(error) if error.kind == graylane_engine::task::ErrorKind::Transient => {
                Passes::WhenItIsBack
            }
            Failed::Other(_) => Passes::Never,
        }
    }

    /// How long the API server asks to be left alone, where its answer says so.
    pub(super) fn told_to_wait(&self) -> Duration {
        let seconds = match self {
            Failed::Api(status, _) => {
                status.details.as_ref().map_or(0, |details| details.retry_after_seconds)
            }
            Failed::Other(_) => 0,
        };
        Duration::from_secs(u64::from(seconds))
    }
}

/// Whether what failed may work when it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passes {
    /// The API server is away, or has too much to do: an attempt that has begun waits for it.
    WhenItIsBack,
    /// It broke on this request; a few more tries show whether it always does.
    Soon,
    /// It said what it thinks.
    Never,
}

/// A right that the API server missed, as its own words name it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Denied<'m> {
    verb: &'m str,
    resource: &'m str,
    group: &'m str,
    namespace: Option<&'m str>,
}

impl<'m> Denied<'m> {
    /// Reads `... cannot patch resource "deployments" in API group "apps" in the namespace "shop"`.
    pub(super) fn read(message: &'m str) -> Option<Denied<'m>> {
        let (_, rest) = message.split_once(" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once("\" in API group \"")?;
        let (group, rest) = rest.split_once('"')?;
        let namespace = rest.split_once("in the namespace \"").and_then(|(_, rest)| rest.split('"').next());
        (!verb.contains(' ')).then_some(Denied { verb, resource, group, namespace })
    }

    fn hint(&self) -> String {
        let rule = rule(self.group, self.resource, &[self.verb]);
        match self.namespace {
            Some(namespace) => format!(
                "add this rule to the Role of this identity in {namespace}: {rule}; `graylane rbac ENVIRONMENT` prints all that is needed"
            ),
            None => format!("add this rule to a ClusterRole of this identity: {rule}"),
        }
    }
}

/// Whether the API server refused a call because a right is lacking.
pub(crate) fn lacks_right(error: &TaskError) -> bool {
    Denied::read(&error.message).is_some()
}

/// A rule of a Role on one line, as it may be pasted into one.
pub fn rule(group: &str, resource: &str, verbs: &[&str]) -> String {
    format!("{{ apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [{}] }}", verbs.join(", "))
}

pub(super) fn explain(what: &str, error: kube::Error) -> Failed {
    match error {
        kube::Error::Api(status) => {
            let task_error = said(what, &status);
            Failed::Api(status, task_error)
        }
        other => {
            let words = chain(&other);
            Failed::Other(
                TaskError::transient(format!("{what}: the cluster cannot be reached: {words}"))
                    .hint("check the address in the kubeconfig, and the network"),
            )
        }
    }
}

/// What the API server's refusal means for a person.
fn said(what: &str, status: &Status) -> TaskError {
    let words = if status.message.trim().is_empty() { "no reason was given" } else { status.message.trim() };
    let code = status.code;
    // Load balancers and filters in front of an API server answer in words of their own.
    let message = if status.reason.is_empty() {
        format!("{what}: {words} ({code})")
    } else {
        format!("{what}: {words}")
    };
    let permanent = || TaskError::permanent(message.clone());
    match code {
        403 if words.contains("is being terminated") => permanent()
            .hint("the namespace is being deleted: wait until it is gone and was made anew, or correct `namespace`"),
        403 if words.contains("exceeded quota") => {
            permanent().hint("raise the quota, or take down a lane that is no longer used: `graylane lanes`")
        }
        400..=499 if words.contains("admission webhook") => permanent().hint(
            "a policy of the cluster does not take the object: mend what it names, or speak to who runs the webhook",
        ),
        403 => match Denied::read(words) {
            Some(denied) => permanent().hint(denied.hint()),
            None => permanent().hint("the rights of this identity do not allow it; see `kubectl auth can-i`"),
        },
        404 if words.starts_with("namespaces ") => {
            permanent().hint("create the namespace, or correct `namespace` in the environment's file")
        }
        401 => TaskError::permanent(format!("{what}: {words} (401)"))
            .hint("the credentials of the cluster are not accepted: renew them"),
        400 | 404 | 405 | 415 | 422 => permanent(),
        _ => TaskError::transient(message.clone()),
    }
}

/// An error with everything below it: the outermost says only "service error".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = vec![error.to_string()];
    let mut at = error.source();
    while let Some(inner) = at {
        let text = inner.to_string();
        if !words.iter().any(|word| word.contains(&text)) {
            words.push(text);
        }
        at = inner.source();
    }
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use graylane_engine::task::ErrorKind;
    use serde_json::json;

    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> Status {
        let status = json!({ "status": "Failure", "code": code, "reason": reason, "message": message });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn every_refusal_names_what_to_do_and_only_what_may_pass_is_tried_again() {
        let quota = "services \"a\" is forbidden: exceeded quota: few, requested: services=1, used: services=2, limited: services=2";
        let right = "deployments.apps \"a\" is forbidden: User \"u\" cannot patch resource \"deployments\" in API group \"apps\" in the namespace \"shop\"";
        let namespace = "configmaps \"a\" is forbidden: unable to create new content in namespace shop because it is being terminated";
        let table = [
            (403, "Forbidden", quota, ErrorKind::Permanent, Passes::Never, "raise the quota"),
            (
                403,
                "Forbidden",
                right,
                ErrorKind::Permanent,
                Passes::Never,
                "add this rule to the Role of this identity in shop: { apiGroups: [\"apps\"], resources: [\"deployments\"], verbs: [patch] }; `graylane rbac ENVIRONMENT`",
            ),
            (
                403,
                "Forbidden",
                namespace,
                ErrorKind::Permanent,
                Passes::Never,
                "the namespace is being deleted",
            ),
            (
                400,
                "",
                "admission webhook \"p\" denied the request: no",
                ErrorKind::Permanent,
                Passes::Never,
                "a policy of the cluster",
            ),
            (401, "Unauthorized", "Unauthorized", ErrorKind::Permanent, Passes::Never, "renew them"),
            (409, "Conflict", "the object has been modified", ErrorKind::Transient, Passes::Never, ""),
            (429, "", "Too many requests", ErrorKind::Transient, Passes::WhenItIsBack, ""),
            (500, "InternalError", "etcd", ErrorKind::Transient, Passes::Soon, ""),
            (503, "", "", ErrorKind::Transient, Passes::WhenItIsBack, ""),
        ];
        for (code, reason, message, kind, passes, hint) in table {
            let failed = explain("it", kube::Error::Api(Box::new(status(code, reason, message))));
            assert_eq!(failed.passes(), passes, "{code} {message}");
            let error = failed.error();
            assert_eq!(error.kind, kind, "{code} {message}");
            assert!(error.message.contains(message), "{error:?}");
            assert!(error.hint.unwrap_or_default().contains(hint), "{code} {message}");
        }
    }

    #[test]
    fn a_missing_right_is_read_off_the_words_of_the_api_server() {
        let namespaced = "x is forbidden: User \"u\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"n\"";
        let read = Denied::read(namespaced).expect("read");
        assert_eq!(read, Denied { verb: "get", resource: "pods/log", group: "", namespace: Some("n") });
        let whole = "x is forbidden: User \"u\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
        assert_eq!(Denied::read(whole).expect("read").namespace, None);
        assert_eq!(Denied::read("x is forbidden: exceeded quota"), None);
    }
}
