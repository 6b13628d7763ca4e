//! A cluster with one real node (containerd, runc, kubelet, kube-proxy), and the images that its pods run.
//!
//! The node lives in namespaces of its own, which no route leads out of: its pods are reached from within its network only.
//! Two variables name what it needs: GRAYLANE_TEST_REALNODE the program that brings such a cluster up, and
//! GRAYLANE_TEST_STAND_IN the stand-in as a static program (`cargo xtask` builds it).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, PostParams};
use serde_json::json;

/// What the program that brings the cluster up calls.
const PROGRAMS: &[&str] = &[
    "busybox",
    "conntrack",
    "containerd",
    "ctr",
    "etcd",
    "iptables",
    "kubectl",
    "nsenter",
    "openssl",
    "python3",
    "runc",
    "socat",
    "unshare",
];

/// An image: its name, and the command that it runs; none is the stand-in.
const IMAGES: &[(&str, Option<&str>)] = &[
    ("local.test/pause:1", Some(r#"["/bin/sleep", "2147483647"]"#)),
    ("registry.cn-hangzhou.aliyuncs.com/acs/ack-onepilot-init:5.2.1", Some(r#"["/bin/true"]"#)),
    ("docker.io/nacos/nacos-server:v2.2.0", None),
    ("registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a:0.1-SNAPSHOT", None),
    ("registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a:0.2-SNAPSHOT", None),
    ("registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-b:0.1-SNAPSHOT", None),
    ("registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-c:0.1-SNAPSHOT", None),
    ("registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-c:0.2-SNAPSHOT", None),
    (
        "registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-c:crash",
        Some(r#"["/bin/sh", "-c", "echo the pool of connections is empty >&2; exit 3"]"#),
    ),
    ("docker.io/library/tools:1", Some(r#"["/bin/sh"]"#)),
];

/// The cluster; taken down when it is dropped.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    program: PathBuf,
    pid: String,
}

impl Node {
    /// Brings the cluster up.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub(crate) fn up() -> Result<Node, String> {
        let named = |variable: &str| {
            let found = std::env::var_os(variable).filter(|value| !value.is_empty());
            found.map(PathBuf::from).ok_or_else(|| format!("{variable} is not set"))
        };
        let program = named("GRAYLANE_TEST_REALNODE")?;
        let stand_in = named("GRAYLANE_TEST_STAND_IN")?;
        if fs::metadata("/proc/self").map(|this| this.uid()).ok() != Some(0) {
            return Err("it needs root".to_owned());
        }
        let missing: Vec<&str> = PROGRAMS.iter().filter(|name| !on_path(name)).copied().collect();
        if !missing.is_empty() {
            return Err(format!("not installed: {}", missing.join(", ")));
        }
        let namespaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"];
        called(Command::new("unshare").args(namespaces))?;

        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let archives = images(&program, &stand_in, folder.path())?;
        let cluster = folder.path().join("cluster");
        let mut node = Node { program, pid: String::new(), folder };
        called(Command::new(&node.program).arg("up").arg(&cluster).args(&archives))?;
        let pid = fs::read_to_string(cluster.join("ns.pid")).map_err(|error| error.to_string())?;
        node.pid = pid.split_whitespace().next().unwrap_or_default().to_owned();
        node.name_digests()?;
        Ok(node)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.cluster().join("kubeconfig")
    }

    /// A program that is started on the node: in its network, where its pods are.
    pub(crate) fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid)).arg("--").arg(program);
        command
    }

    fn cluster(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// Gives each image the name by digest that it would have if it had been pulled: archives bring their tags only.
    fn name_digests(&self) -> Result<(), String> {
        let ctr = || {
            let mut command = Command::new("ctr");
            command.arg("-a").arg(self.cluster().join("containerd.sock")).args(["-n", "k8s.io", "images"]);
            command
        };
        let listed = called(ctr().arg("list"))?;
        for line in listed.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(digest)) = (words.next(), words.find(|word| word.starts_with("sha256:")))
            else {
                continue;
            };
            if let Some((repository, _)) = name.rsplit_once(':').filter(|_| !name.starts_with("sha256:")) {
                called(ctr().args(["tag", name]).arg(format!("{repository}@{digest}")))?;
            }
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What was started is ended by its recorded id; a cluster that never came up has none.
        let _ = Command::new(&self.program)
            .arg("down")
            .arg(self.cluster())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Archives of the images, each with a digest of its own.
fn images(program: &Path, stand_in: &Path, folder: &Path) -> Result<Vec<PathBuf>, String> {
    let maker = program.with_file_name("mkimage.py");
    let busybox = called(Command::new("sh").args(["-c", "command -v busybox"]))?;
    let small = folder.join("stand-in");
    called(Command::new("strip").arg("-o").arg(&small).arg(stand_in))?;
    let mut archives = Vec::new();
    for (number, (name, command)) in IMAGES.iter().enumerate() {
        let archive = folder.join(format!("{number}.tar"));
        let mut call = Command::new("python3");
        call.arg(&maker).arg(&archive).args([name, "--busybox", busybox.trim()]);
        call.args(["--env", &format!("IMAGE={name}")]);
        match command {
            Some(command) => call.args(["--entrypoint", command]),
            None => call
                .arg("--file")
                .arg(format!("{}=stand-in", small.display()))
                .args(["--entrypoint", r#"["/stand-in"]"#]),
        };
        called(&mut call)?;
        archives.push(archive);
    }
    Ok(archives)
}

/// Lets the pods of a namespace look at each other, as an application's registry lets them.
pub(crate) async fn let_pods_look(client: &kube::Client, namespace: &str) {
    let binding = json!({
        "metadata": { "name": "stand-ins" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": namespace }],
    });
    let binding: RoleBinding = serde_json::from_value(binding).expect("valid");
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    bindings.create(&PostParams::default(), &binding).await.expect("created");
}

fn on_path(name: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(name).is_file())
}

/// Calls a program to its end; what it printed, or its last words.
fn called(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let all = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    let last: Vec<&str> = all.lines().rev().take(5).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("; ");
    Err(format!("{} failed: {last}", command.get_program().display()))
}
