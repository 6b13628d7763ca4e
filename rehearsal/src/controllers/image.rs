//! The registry: which image a reference means, and the digest that it has.
//!
//! A digest is derived from repository and tag, so it is the same in every run; the way back from a digest is known
//! for images that some pod has pulled, and kept with the cluster.

use sha2::{Digest as _, Sha256};

use crate::store::State;

/// An image as a node holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// The tag that its behaviour is read from.
    pub(super) tag: String,
    /// `repository@sha256:...`, as `imageID` reports it.
    pub(super) id: String,
}

/// Why there is no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoImage {
    InvalidName(String),
    NotFound(String),
}

/// Finds the image behind a reference and remembers its digest.
pub(super) fn pull(state: &mut State, reference: &str) -> Result<Image, NoImage> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let (repository, tag) = split_tag(name);
    let valid =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "._-/:".contains(letter);
    if repository.is_empty() || !repository.chars().all(valid) {
        let why = format!(
            "Failed to apply default image tag {reference:?}: couldn't parse image name {reference:?}: invalid reference format"
        );
        return Err(NoImage::InvalidName(why));
    }
    let repository = qualified(repository);
    let missing = |what: &str| {
        NoImage::NotFound(format!(
            "failed to pull and unpack image {reference:?}: failed to resolve reference {reference:?}: {reference}: {what}"
        ))
    };
    if let Some(digest) = digest {
        let known = state.images.get(digest).ok_or_else(|| missing("manifest unknown"))?;
        let (home, tag) = split_tag(known);
        if home != repository {
            return Err(missing("manifest unknown"));
        }
        return Ok(Image { tag: tag.to_lowercase(), id: format!("{repository}@{digest}") });
    }
    if tag.to_lowercase().contains("missing") {
        return Err(missing("not found"));
    }
    let known = format!("{repository}:{tag}");
    let digest = digest_of(&known);
    state.images.insert(digest.clone(), known);
    Ok(Image { tag: tag.to_lowercase(), id: format!("{repository}@{digest}") })
}

fn digest_of(reference: &str) -> String {
    let hash = Sha256::digest(reference.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Repository and tag; a port in the registry's name is no tag.
fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    }
}

/// The repository with its registry.
fn qualified(repository: &str) -> String {
    match repository.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => repository.to_owned(),
        Some(_) => format!("docker.io/{repository}"),
        None => format!("docker.io/library/{repository}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::new(1, 10, tokio::sync::watch::channel(0).0)
    }

    #[test]
    fn a_digest_leads_back_to_the_tag_that_it_came_from() {
        let mut state = state();
        let reference = "registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a:0.1-SNAPSHOT";
        let by_tag = pull(&mut state, reference).unwrap();
        assert!(by_tag.id.starts_with("registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a@sha256:"));
        assert_eq!(pull(&mut state, &by_tag.id).unwrap(), by_tag);
        assert_eq!(
            pull(&mut State::new(9, 10, tokio::sync::watch::channel(0).0), reference).unwrap(),
            by_tag
        );
        let elsewhere = by_tag.id.replace("spring-cloud-a", "spring-cloud-b");
        assert!(
            matches!(pull(&mut state, &elsewhere), Err(NoImage::NotFound(why)) if why.contains("manifest unknown"))
        );
    }

    #[test]
    fn short_names_are_those_of_the_hub() {
        let mut state = state();
        let table = [
            ("nginx", "docker.io/library/nginx@sha256:"),
            ("nacos/nacos-server:v2.2.0", "docker.io/nacos/nacos-server@sha256:"),
            ("localhost:5000/x:1", "localhost:5000/x@sha256:"),
        ];
        for (reference, expected) in table {
            assert!(pull(&mut state, reference).unwrap().id.starts_with(expected), "{reference}");
        }
        assert!(matches!(pull(&mut state, "Not An Image"), Err(NoImage::InvalidName(_))));
        assert!(matches!(pull(&mut state, "x:missing"), Err(NoImage::NotFound(_))));
    }
}
