//! The labels and annotations of lanes. Zadig's keys, so that its lanes and ours can be told apart by value alone.

/// Tells versions of a service apart: a lane's tag, or [`ORIGINAL`].
pub const VERSION: &str = "zadigx-release-version";
/// Says what kind of copy an object belongs to.
pub const TYPE: &str = "zadigx-release-type";
/// The value of [`TYPE`] on lane objects.
pub const GRAY_TYPE: &str = "mse-gray";
/// The service that an object is a copy of.
pub const SERVICE_NAME: &str = "zadigx-release-service-name";
/// The tag that MSE routes by (Alibaba Cloud MSE, full-chain gray release).
pub const SERVICE_TAG: &str = "alicloud.service.tag";
/// The MSE application; by default the Deployment's name, which the copy does not share.
pub const APP_NAME: &str = "msePilotCreateAppName";
/// The value of [`VERSION`] on the baseline.
pub const ORIGINAL: &str = "original";
/// The header that carries a lane's tag from hop to hop.
pub const TAG_HEADER: &str = "x-mse-tag";

/// The baseline object that a lane object was made from.
pub const ANNOTATION_ORIGIN: &str = "graylane.dev/origin";
/// The hash of what that object was on the cluster when the copy was made.
pub const ANNOTATION_BASELINE_HASH: &str = "graylane.dev/baseline-hash";
/// The hash of that object as its manifest had it: what a promotion compares with.
pub const ANNOTATION_MANIFEST_HASH: &str = "graylane.dev/manifest-hash";
/// The run that wrote the object last; also says that it is ours.
pub const ANNOTATION_RUN: &str = "graylane.dev/run";
/// When the lane object was first made.
pub const ANNOTATION_CREATED: &str = "graylane.dev/created";
/// When the lane may be taken down for its age.
pub const ANNOTATION_EXPIRES: &str = "graylane.dev/expires";
/// On a gray Deployment: every object of the copy, so that one which somebody deletes is missed.
pub const ANNOTATION_OBJECTS: &str = "graylane.dev/objects";
/// The hash of the configuration that pods read: when it changes, they are rolled.
pub const ANNOTATION_CONFIG_HASH: &str = "graylane.dev/config-hash";

/// What was verified of a gray Deployment, as JSON: it counts while the template is the one that it names.
pub const ANNOTATION_VERIFIED: &str = "graylane.dev/verified";

/// The selector of everything in a lane.
pub fn selector(tag: &str) -> String {
    format!("{TYPE}={GRAY_TYPE},{VERSION}={tag}")
}
