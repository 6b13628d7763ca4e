//! One pod as the services see it, and which pod a caller may choose. Pure functions of pods.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::object::{self, int, list, text};
use crate::pods;

/// Which service of the demo a pod plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    A,
    B,
    C,
    /// Anything else: it answers 200 on the ports that it declares.
    Other,
}

impl Role {
    pub(super) fn letter(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::Other => "",
        }
    }

    fn port(self) -> Option<u16> {
        match self {
            Self::A => Some(20001),
            Self::B => Some(20002),
            Self::C => Some(20003),
            Self::Other => None,
        }
    }

    fn find(pod: &Value) -> Self {
        let label = object::label(pod, "msePilotCreateAppName").unwrap_or_default();
        let containers = list(pod, "/spec/containers");
        let names = containers.iter().map(|container| text(container, "/name"));
        let images = containers.iter().map(|container| text(container, "/image"));
        let words = std::iter::once(label).chain(names).chain(images);
        words.filter_map(Self::parse).next().unwrap_or(Self::Other)
    }

    /// The role in a name such as `spring-cloud-a`, `spring-cloud-a-mse-gray` or `.../spring-cloud-a:1`.
    fn parse(name: &str) -> Option<Self> {
        let rest = &name[name.find("spring-cloud-")? + "spring-cloud-".len()..];
        let mut letters = rest.chars();
        let role = match letters.next()? {
            'a' => Self::A,
            'b' => Self::B,
            'c' => Self::C,
            _ => return None,
        };
        letters.next().is_none_or(|next| !next.is_alphanumeric()).then_some(role)
    }
}

/// A pod that listens, or will.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Instance {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) ip: String,
    pub(super) app: String,
    pub(super) role: Role,
    /// The label, as the service prints it; "" for the baseline.
    pub(super) tag: String,
    pub(super) agent: bool,
    pub(super) ready: bool,
    pub(super) running: bool,
    /// How long the pod still serves after its deletion began; `None` while it lives.
    pub(super) leaving: Option<Duration>,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) ports: Vec<u16>,
    pub(super) config: Config,
}

/// Where the value of `custom.config.value` comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Config {
    Literal(String),
    Key { map: String, key: String },
}

impl Instance {
    pub(super) fn of(pod: &Value) -> Self {
        let role = Role::find(pod);
        let main = &list(pod, "/spec/containers").first().cloned().unwrap_or_default();
        let tag = object::label(pod, "alicloud.service.tag").unwrap_or_default();
        let tag = if matches!(tag, "base" | "original") { "" } else { tag };
        let app = object::label(pod, "msePilotCreateAppName").unwrap_or_else(|| text(main, "/name"));
        Self {
            uid: object::uid(pod).to_owned(),
            namespace: object::namespace(pod).to_owned(),
            pod: object::name(pod).to_owned(),
            ip: text(pod, "/status/podIP").to_owned(),
            app: app.to_owned(),
            role,
            tag: tag.to_owned(),
            agent: pods::carries_agent(pod),
            ready: pods::is_ready(pod) && !object::is_dying(pod),
            running: pods::is_running(pod),
            leaving: object::is_dying(pod).then(|| pods::pre_stop(pod)),
            image: text(main, "/image").to_owned(),
            image_id: text(pod, "/status/containerStatuses/0/imageID").to_owned(),
            ports: ports(pod, role),
            config: config(main),
        }
    }

    /// The tag under which the registry knows the pod: without the agent nobody registers it.
    fn registered_tag(&self) -> &str {
        if self.agent { &self.tag } else { "" }
    }
}

fn ports(pod: &Value, role: Role) -> Vec<u16> {
    if let Some(port) = role.port() {
        return vec![port];
    }
    let containers = list(pod, "/spec/containers");
    let declared = containers.iter().flat_map(|container| list(container, "/ports"));
    let mut ports: Vec<u16> = declared
        .filter_map(|port| int(port, "/containerPort"))
        .filter_map(|port| u16::try_from(port).ok())
        .collect();
    let nacos = containers.iter().any(|container| text(container, "/image").contains("nacos-server"));
    if nacos && !ports.contains(&8848) {
        ports.push(8848);
    }
    ports
}

fn config(container: &Value) -> Config {
    let named =
        |variable: &&Value| matches!(text(variable, "/name"), "custom.config.value" | "CUSTOM_CONFIG_VALUE");
    let Some(variable) = list(container, "/env").iter().find(named) else {
        return Config::Literal("base".to_owned());
    };
    let reference = &variable["valueFrom"]["configMapKeyRef"];
    if reference.is_object() {
        return Config::Key {
            map: text(reference, "/name").to_owned(),
            key: text(reference, "/key").to_owned(),
        };
    }
    Config::Literal(text(variable, "/value").to_owned())
}

/// The instances that a caller may choose from for a service and a tag: on the lane, else untagged, else any.
pub(super) fn candidates(
    all: &[Arc<Instance>],
    caller: &Instance,
    role: Role,
    tag: &str,
) -> Vec<Arc<Instance>> {
    let of = |one: &&Arc<Instance>| one.role == role && one.ready;
    let here: Vec<&Arc<Instance>> =
        all.iter().filter(of).filter(|one| one.namespace == caller.namespace).collect();
    // A registry knows no namespaces: a service that lives elsewhere is found there.
    let ready: Vec<&Arc<Instance>> = if here.is_empty() { all.iter().filter(of).collect() } else { here };
    let with = |tag: &str| -> Vec<Arc<Instance>> {
        ready.iter().filter(|one| one.registered_tag() == tag).map(|one| (*one).clone()).collect()
    };
    let chosen = match (caller.agent, tag) {
        (false, _) => Vec::new(),
        (true, "") => with(""),
        (true, tag) => {
            let lane = with(tag);
            if lane.is_empty() { with("") } else { lane }
        }
    };
    if chosen.is_empty() { ready.into_iter().cloned().collect() } else { chosen }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, role: &str, tag: &str, agent: bool) -> Arc<Instance> {
        let init = if agent { json!([{"name": crate::AGENT_CONTAINER}]) } else { json!([]) };
        Arc::new(Instance::of(&json!({
            "metadata": {"name": name, "namespace": "n", "labels": {"msePilotCreateAppName": format!("spring-cloud-{role}"), "alicloud.service.tag": tag}},
            "spec": {"containers": [{"name": "x", "image": "i:1"}], "initContainers": init},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        })))
    }

    #[test]
    fn a_marked_request_stays_on_its_lane_where_there_is_one() {
        let all = [pod("b", "b", "", true), pod("c", "c", "", true), pod("c-gray", "c", "gray", true)];
        let with_agent = pod("a", "a", "", true);
        let without = pod("a-bare", "a", "", false);
        let table: [(&Arc<Instance>, Role, &str, &[&str]); 6] = [
            (&with_agent, Role::C, "gray", &["c-gray"]),
            (&with_agent, Role::B, "gray", &["b"]),
            (&with_agent, Role::C, "", &["c"]),
            (&with_agent, Role::C, "blue", &["c"]),
            (&without, Role::C, "gray", &["c", "c-gray"]),
            (&without, Role::C, "", &["c", "c-gray"]),
        ];
        for (caller, role, tag, expected) in table {
            let found: Vec<String> =
                candidates(&all, caller, role, tag).iter().map(|one| one.pod.clone()).collect();
            assert_eq!(found, expected, "{} calls {role:?} with {tag:?}", caller.pod);
        }
    }

    #[test]
    fn a_gray_pod_without_the_agent_counts_as_baseline() {
        let all = [pod("c", "c", "", true), pod("c-gray", "c", "gray", false)];
        assert_eq!(candidates(&all, &pod("a", "a", "", true), Role::C, "").len(), 2);
    }

    #[test]
    fn roles_are_found_in_names_as_teams_write_them() {
        for (name, expected) in [
            ("spring-cloud-a", Some(Role::A)),
            ("spring-cloud-c-mse-gray", Some(Role::C)),
            ("registry/yizhan/spring-cloud-b:0.1", Some(Role::B)),
            ("spring-cloud-alibaba", None),
            ("nacos-server", None),
        ] {
            assert_eq!(Role::parse(name), expected, "{name}");
        }
    }
}
