//! When Graylane itself is dead: the commands of docs/operations.md, as they stand there, with kubectl alone; and its tables of
//! what is seen against what the code says.
//!
//! GRAYLANE_TEST_KUBECTL names the kubectls (several with `:` between); the one on the path is taken otherwise. With CI=true it
//! is a failure that there is none; elsewhere it is said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams};

use crate::pages::{fragments, page, spans};
use crate::support::stage::{
    CONFIG_MAPS, DEPLOYMENTS, INGRESSES, Kind, PLAIN, PODS, SECRETS, SERVICES, Stage, on_each, resource,
};
use crate::support::{Ran, files_below, ran, say};

const LEASES: Kind = ("coordination.k8s.io/v1", "Lease", "leases");
const GRAY: &str = "zadigx-release-type=mse-gray";

const LANE: &str = r#"name: release
inputs:
  tag: { type: string, default: gray }
  image: { type: string, default: "spring-cloud-c:0.2" }
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 2m
    with:
      environment: production
      tag: ${{ inputs.tag }}
      images: { spring-a: "spring-cloud-a:0.2", spring-c: "${{ inputs.image }}" }
      entry: { service: spring-a, header: { name: x-user-id, value: "${{ inputs.tag }}" } }
"#;

const PRODUCTION: &str = r#"name: prod-workflow
tasks:
  promote:
    type: prod-deploy
    timeout: 2m
    with: { environment: production, images: { spring-c: "spring-cloud-c:0.9" } }
"#;

fn programs() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os("GRAYLANE_TEST_KUBECTL") {
        return std::env::split_paths(&named).collect();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("kubectl"));
    found.filter(|file| file.is_file()).take(1).collect()
}

/// The blocks of shell of a section of the page, in order.
fn blocks(section: &str) -> Vec<String> {
    let page = page("docs/operations.md");
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).expect(section);
    let rest = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let shells = rest.split("```sh\n").skip(1);
    shells.map(|block| block.split_once("```").expect("it ends").0.to_owned()).collect()
}

/// A person at a terminal, who has kubectl and nothing else.
struct Person<'p> {
    kubectl: &'p Path,
    stage: &'p Stage,
    tag: &'p str,
}

impl Person<'_> {
    /// Types a block of the page. Nobody waits for the seconds that it sleeps.
    fn types(&self, block: &str) -> Ran {
        let folder = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink(self.kubectl, folder.path().join("kubectl")).expect("linked");
        // Placeholders stand where a name is meant; `NAME` of a column is a word of its own.
        let named = |word: &str| match word {
            "NS" => self.stage.namespace.clone(),
            word => word
                .replace("=TAG", &format!("={}", self.tag))
                .replace("lane-TAG", &format!("lane-{}", self.tag)),
        };
        let line = |line: &str| line.split(' ').map(named).collect::<Vec<_>>().join(" ");
        let text: Vec<String> = block.lines().map(line).collect();
        assert!(!text.iter().any(|line| line.contains("TAG") || line.contains(" NS")), "{text:?}");
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("sleep() {{ :; }}\n{}", text.join("\n"))]).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()));
        command.env("KUBECONFIG", &self.stage.kubeconfig).env("HOME", folder.path());
        ran(command.current_dir(folder.path()))
    }
}

async fn count(stage: &Stage, kind: Kind, selector: &str) -> usize {
    let api: Api<DynamicObject> = Api::namespaced_with(stage.client(), &stage.namespace, &resource(kind));
    api.list(&ListParams::default().labels(selector)).await.expect("listed").items.len()
}

async fn until_none(stage: &Stage, kind: Kind, selector: &str) {
    for _ in 0..600 {
        if count(stage, kind, selector).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} with {selector} are left", kind.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_commands_show_and_take_down_what_a_dead_graylane_left() {
    let programs = programs();
    say(&format!("a dead Graylane's lane, with kubectl alone: {} kubectl", programs.len()));
    assert!(!programs.is_empty() || std::env::var("CI").as_deref() != Ok("true"), "CI has no kubectl");
    let blocks = blocks("When Graylane itself is dead");
    let [shows, leases, takes_down, nothing] = blocks.as_slice() else { panic!("{blocks:#?}") };
    on_each(PLAIN, async |stage| {
        let home = &stage.home;
        home.write("workflows/lane.yaml", LANE);
        home.write("workflows/production.yaml", PRODUCTION);
        for (number, kubectl) in programs.iter().enumerate() {
            // A neighbour stays as it is.
            home.graylane(&["run", "workflows/lane.yaml", "-i", "tag=blue"]).expect(0);
            let before = count(stage, DEPLOYMENTS, "").await;
            home.graylane(&["run", "workflows/lane.yaml"]).expect(0);
            // Graylane dies while it writes the lane again.
            let slow = ["run", "workflows/lane.yaml", "-i", "image=spring-cloud-c:neverready"];
            let mut command = home.command(&slow);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
            for _ in 0..600 {
                if count(stage, LEASES, "").await == 1 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            child.kill().expect("killed");
            child.wait().expect("ended");
            assert_eq!(count(stage, LEASES, "").await, 1, "it held the lane's lease");

            let person = Person { kubectl, stage, tag: "gray" };
            let shown = person.types(shows).expect(0).stdout;
            for words in ["spring-cloud-a-mse-gray", "spring-cloud-c-mse-gray", "spring-cloud-c-mse-blue"] {
                assert!(shown.contains(words), "{words}: {shown}");
            }
            let header = shown.lines().find(|line| line.starts_with("NAME ") && line.contains("RUN"));
            assert!(header.is_some_and(|line| line.contains("SINCE")), "{shown}");
            let of_the_lane = shown.lines().skip_while(|line| Some(*line) != header).skip(1);
            let rows: Vec<&str> = of_the_lane.collect();
            assert!(rows.len() == 2 && rows.iter().all(|row| !row.contains("<none>")), "{shown}");

            let held = person.types(leases).expect(0).stdout;
            let lines: Vec<&str> = held.lines().collect();
            assert!(
                lines[0].split_whitespace().eq(["LEASE", "HOLDER", "RENEWED", "HOST", "RUN", "DEED"]),
                "{held}"
            );
            let row: Vec<&str> = lines[1].split_whitespace().collect();
            assert_eq!(lines.len(), 2, "{held}");
            assert!(row[0] == "graylane-lane-gray" && row[1].starts_with("graylane-"), "{held}");
            assert!(row[2].starts_with("20") && row[4].starts_with('0') && row[5] == "<none>", "{held}");

            let full = person.types(nothing).expect(0);
            assert!(full.stdout.contains("-mse-gray"), "the control: {full:?}");
            person.types(takes_down).expect(0);
            until_none(stage, PODS, &format!("{GRAY},zadigx-release-version=gray")).await;
            let gone = person.types(nothing).expect(0);
            assert!(gone.stdout.is_empty() && gone.stderr.contains("No resources found"), "{gone:?}");
            for kind in [DEPLOYMENTS, SERVICES, INGRESSES, CONFIG_MAPS, SECRETS, PODS] {
                let left = count(stage, kind, &format!("{GRAY},zadigx-release-version=gray")).await;
                assert_eq!(left, 0, "{}", kind.1);
            }
            assert_eq!(count(stage, LEASES, "").await, 0);
            assert_eq!(count(stage, DEPLOYMENTS, "").await, before, "production and the neighbour stay");
            home.graylane(&["cancel", "latest"]).expect(0);
            let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
            let tags: Vec<&str> =
                lanes.as_array().expect("a list").iter().filter_map(|l| l["tag"].as_str()).collect();
            assert_eq!(tags, ["blue"]);

            // A Deployment of production goes back, once: its image is another one then.
            if number == 0 {
                home.graylane(&["run", "workflows/production.yaml"]).expect(0);
                let image = async || {
                    let live = stage.get(DEPLOYMENTS, "spring-cloud-c").await.expect("there");
                    live["spec"]["template"]["spec"]["containers"][0]["image"]
                        .as_str()
                        .expect("one")
                        .to_owned()
                };
                assert_eq!(image().await, "spring-cloud-c:0.9");
                let command = "kubectl rollout undo deployment/NAME -n NS";
                assert!(page("docs/operations.md").contains(&format!("`{command}`")));
                person.types(&command.replace("NAME", "spring-cloud-c")).expect(0);
                assert_ne!(image().await, "spring-cloud-c:0.9");
            }
        }
    })
    .await;
}

/// The code without its tests, a file each. What is one sentence for people may be put together on several lines.
fn code() -> Vec<String> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["tasks/src", "engine/src", "src"] {
        for file in files_below(&repository.join(folder)) {
            let shown = file.display().to_string();
            if !shown.ends_with(".rs") || shown.ends_with("tests.rs") || shown.contains("/tests/") {
                continue;
            }
            let text = std::fs::read_to_string(&file).expect("readable");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            files.push(code.collect::<Vec<_>>().join(" ").replace('`', "").replace("\\\"", "\""));
        }
    }
    files
}

/// Whether the words of a sentence between its placeholders stand in the code, in order and near each other.
fn is_said(sentence: &str, code: &[String]) -> bool {
    const NEAR: usize = 800;
    let words = fragments(sentence);
    let Some((first, rest)) = words.split_first() else { return false };
    code.iter().any(|file| {
        file.match_indices(first.as_str()).any(|(at, _)| {
            let after = file[at..].chars().take(NEAR).collect::<String>();
            let mut after = after[first.len()..].to_owned();
            rest.iter().all(|word| match after.split_once(word.as_str()) {
                Some((_, tail)) => {
                    after = tail.to_owned();
                    true
                }
                None => false,
            })
        })
    })
}

/// What the tables quote of Graylane is what Graylane says.
#[test]
fn every_sentence_that_operations_quotes_stands_in_the_code() {
    let (page, code) = (page("docs/operations.md"), code());
    // The tables of symptoms, and in which column Graylane speaks.
    let tables = [("| On the cluster | Graylane says |", 1), ("| What is seen | What it means", 0)];
    let mut looked = 0;
    let mut missing = Vec::new();
    for (header, column) in tables {
        let (_, rest) = page.split_once(&format!("\n{header}")).expect(header);
        let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
            for sentence in spans(cells[column]) {
                looked += 1;
                if !is_said(&sentence, &code) {
                    missing.push(sentence);
                }
            }
        }
    }
    assert!(looked >= 18, "the tables were read: {looked}");
    assert_eq!(missing, Vec::<String>::new(), "no code says these");
    // The controls: what nobody says, and words that stand far from each other.
    assert!(!is_said("this was never said of NAME", &code));
    assert!(!is_said("is held by NAME crashes again and again", &code));
}
