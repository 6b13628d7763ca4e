//! What this identity may do, asked of the API server: all of it at once, or one right. Nothing is written.

use graylane_engine::task::TaskError;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::api::{Api, PostParams};

use super::{Cluster, Failed};

/// Something that this identity may or may not do.
#[derive(Debug, Clone, Copy)]
pub struct Right<'r> {
    /// The namespace; none for what belongs to no namespace.
    pub namespace: Option<&'r str>,
    /// As in `patch`.
    pub verb: &'r str,
    /// The API group; empty for the oldest kinds.
    pub group: &'r str,
    /// As in `deployments`.
    pub resource: &'r str,
    /// As in `log` of pods.
    pub subresource: Option<&'r str>,
    /// The one object that it is about; none for all of them.
    pub name: Option<&'r str>,
}

/// The rules that hold for this identity in a namespace, as far as the API server can list them.
#[derive(Debug, Default)]
pub struct Granted(Vec<ResourceRule>);

impl Granted {
    /// Whether a rule says it. That none does is no proof: other authorizers than RBAC do not list what they allow.
    pub fn covers(&self, right: &Right<'_>) -> bool {
        let is = |listed: &[String], wanted: &str| listed.iter().any(|one| one == wanted || one == "*");
        let whole = match right.subresource {
            Some(subresource) => format!("{}/{subresource}", right.resource),
            None => right.resource.to_owned(),
        };
        self.0.iter().any(|rule| {
            let named = rule.resource_names.as_deref().unwrap_or_default();
            let meant =
                named.is_empty() || right.name.is_some_and(|name| named.iter().any(|one| one == name));
            meant
                && is(&rule.verbs, right.verb)
                && is(rule.api_groups.as_deref().unwrap_or_default(), right.group)
                && is(rule.resources.as_deref().unwrap_or_default(), &whole)
        })
    }
}

impl Cluster {
    /// The rules that hold for this identity in a namespace (SelfSubjectRulesReview). None known where that is not served.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn granted(&self, namespace: &str) -> Result<Granted, TaskError> {
        let reviews: Api<SelfSubjectRulesReview> = Api::all(self.client.clone());
        let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
        let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
        let params = PostParams::default();
        match self.raw_call("rules review", || reviews.create(&params, &review)).await {
            Ok(answer) => Ok(Granted(answer.status.map(|status| status.resource_rules).unwrap_or_default())),
            Err(Failed::Api(status, _)) if matches!(status.code, 403..=405) => Ok(Granted::default()),
            Err(failed) => Err(failed.error()),
        }
    }

    /// Whether this identity may do something: the API server is asked (SelfSubjectAccessReview).
    ///
    /// # Errors
    /// What the API server said.
    pub async fn may(&self, right: &Right<'_>) -> Result<bool, TaskError> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let attributes = ResourceAttributes {
            group: Some(right.group.to_owned()),
            resource: Some(right.resource.to_owned()),
            subresource: right.subresource.map(str::to_owned),
            verb: Some(right.verb.to_owned()),
            namespace: right.namespace.map(str::to_owned),
            name: right.name.map(str::to_owned),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let params = PostParams::default();
        let answer = self.call("access review", || reviews.create(&params, &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
