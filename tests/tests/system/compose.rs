//! Compose projects: ours, as both Compose versions take it, two healthy replicas on one port, rolled in place and left
//! running; and anybody's.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use hitless_tests::tools;
use tokio::process::Command;

use crate::artifacts::{saboteur_image, server_image, workspace};
use crate::client::{ask, is_refused};
use crate::hitless::{Ended, Hitless};
use crate::lab::{self, Lab, MARK, Outcome};

/// Compose of today, a plugin, and of yesterday, a program: the words that call each.
const PLUGIN: &[&str] = &["docker", "compose"];
const PROGRAM: &[&str] = &["docker-compose"];
/// Whichever is there.
const EITHER: &[&[&str]] = &[PLUGIN, PROGRAM];
const LOAD: [&str; 6] = ["--rounds", "1", "--rate", "200", "--cohort", "fresh,pooled"];

#[test]
fn compose_plugin_brings_up_two_healthy_replicas_that_are_rolled_in_place_and_left_running() -> Outcome {
    lab::run(async |lab| assert_ours_is_rolled_by(lab, &[PLUGIN]).await)
}

#[test]
fn compose_1_brings_up_two_healthy_replicas_that_are_rolled_in_place_and_left_running() -> Outcome {
    lab::run(async |lab| assert_ours_is_rolled_by(lab, &[PROGRAM]).await)
}

#[test]
fn interrupted_run_leaves_a_project_running_whose_replica_was_draining() -> Outcome {
    lab::run(async |lab| {
        let Some(project) = Project::ours(lab, EITHER).await else { return };
        project.up().await;
        let before = lab.containers().await;
        // A request that takes long keeps the drain going when the interrupt comes.
        let load =
            ["--rounds", "100", "--cohort", "fresh=50,slow=5", "--slow-delay", "3s", "--settle", "0ms"];
        let running = project.run(&load).start().await;
        lab.wait_for_container_event("kill").await;
        running.signal("INT").await;
        let ended = running.end().await;
        ended.assert_exit_code(4);
        assert_eq!(lab.containers().await, before, "the same containers, still there");
        for id in &before {
            lab.wait_until_health_is(id, "healthy").await;
        }
        project.down().await;
    })
}

#[test]
fn anybodys_project_may_answer_what_it_likes() -> Outcome {
    lab::run(async |lab| {
        let Some(project) = Project::anybodys(lab).await else { return };
        project.up().await;
        let budgets = ["--budget", "wrong_body==0", "--budget", "refused==0", "--budget", "http_error==0"];
        let ended = project.run(&[&LOAD[..4], &budgets].concat()).end().await;
        ended.assert_held();
        assert_eq!(
            ended.report().cohorts(),
            ["fresh", "pooled"],
            "no path of it is known to be slow: {ended}"
        );
        assert_eq!(restarted(&ended), ["shop", "shop-admin"], "{ended}");
        // Its turn ends with it, and the next run takes one.
        drop(ended);
        let ended = project.run(&[&LOAD[..4], &budgets, &["--service", "shop"]].concat()).end().await;
        assert_eq!(restarted(&ended), ["shop"], "{ended}");
        project.down().await;
    })
}

#[test]
fn backend_that_never_listens_behind_a_front_on_its_network_is_refused_before_the_first_stop() -> Outcome {
    lab::run(async |lab| {
        let Some(project) = Project::with_dead_backend(lab).await else { return };
        project.up().await;
        // Compose has started it, and it needs a moment until it listens.
        let answering = async {
            while is_refused(lab).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), answering).await.unwrap();
        let before = started_at(lab).await;
        let ended = project.run(&[&LOAD[..], &["--service", "shop-admin"]].concat()).end().await;
        ended.assert_exit_code(2);
        for said in [
            "cannot tell whether replica shop-admin is ready",
            "would answer in its place",
            "--ready log:TEXT",
        ] {
            assert!(ended.stderr.contains(said), "{said}: {ended}");
        }
        assert_eq!(started_at(lab).await, before, "nothing was stopped");
        project.down().await;
    })
}

/// When each container of the lab was started.
async fn started_at(lab: &Lab) -> String {
    let ids = lab.containers().await;
    let inspected =
        Command::new("docker").args(["inspect", "-f", "{{.State.StartedAt}}"]).args(&ids).output();
    String::from_utf8(inspected.await.unwrap().stdout).unwrap()
}

fn restarted(ended: &Ended) -> Vec<&str> {
    ended.report().restarts().iter().map(|restart| restart["replica"].as_str().unwrap()).collect()
}

async fn assert_ours_is_rolled_by(lab: &Lab, compose: &[&'static [&'static str]]) {
    let Some(project) = Project::ours(lab, compose).await else { return };
    project.up().await;
    assert_rolled_in_place(lab, &project).await;
    project.down().await;
    assert_eq!(lab.containers().await, [""; 0]);
}

async fn assert_rolled_in_place(lab: &Lab, project: &Project<'_>) {
    let before = lab.containers().await;
    assert_eq!(before.len(), 2);
    for id in &before {
        lab.wait_until_health_is(id, "healthy").await;
    }
    assert!(ask(lab, "/").await.unwrap().contains("hello world"));

    let ended = project.run(&LOAD).end().await;
    ended.assert_held();
    assert_eq!(ended.report().restarts().len(), 2, "{ended}");

    assert_eq!(lab.containers().await, before, "the same containers, still there");
    for id in &before {
        lab.wait_until_health_is(id, "healthy").await;
    }
}

/// A Compose file in a directory of its own, with an override that marks its containers.
struct Project<'a> {
    lab: &'a Lab,
    words: &'static [&'static str],
}

impl<'a> Project<'a> {
    /// compose.yaml of this repository.
    async fn ours(lab: &'a Lab, composes: &[&'static [&'static str]]) -> Option<Self> {
        let project = Self { lab, words: installed(composes).await? };
        server_image().await;
        std::fs::copy(workspace().join("compose.yaml"), project.file()).unwrap();
        std::fs::write(project.override_file(), project.override_text()).unwrap();
        Some(project)
    }

    /// Two services without a health check, whose every answer is another than our server's.
    async fn anybodys(lab: &'a Lab) -> Option<Self> {
        Self::of_saboteurs(lab, "wrong-body:every=1").await
    }

    /// The same, but the second service never listens.
    async fn with_dead_backend(lab: &'a Lab) -> Option<Self> {
        Self::of_saboteurs(lab, "never-ready").await
    }

    /// Two services without a health check: the first always answers, the second is of this mode.
    async fn of_saboteurs(lab: &'a Lab, second: &str) -> Option<Self> {
        let project = Self { lab, words: installed(EITHER).await? };
        let image = saboteur_image().await.reference();
        let (mark, port) = (lab.mark(), lab.port);
        let service = |name: &str, mode: &str| {
            format!(
                "  {name}:\n    image: {image}\n    network_mode: host\n    environment:\n      {MARK}: {mark}\n      \
                 SABOTEUR: {mode}\n      SABOTEUR_LISTEN: 127.0.0.1:{port}\n"
            )
        };
        let text =
            format!("services:\n{}{}", service("shop", "wrong-body:every=1"), service("shop-admin", second));
        std::fs::write(project.file(), text).unwrap();
        // Compose 1 takes a file without a service for one of the first version.
        std::fs::write(project.override_file(), "services:\n  shop:\n    network_mode: host\n").unwrap();
        Some(project)
    }

    /// `hitless run` of this project.
    fn run(&self, arguments: &[&str]) -> Hitless {
        let file = self.file();
        let report = self.lab.directory().join("report");
        Hitless::new(self.lab, &["run", "--runtime", "compose", "--compose", file.to_str().unwrap()])
            .arguments(&["--url", &self.lab.url(), "--report-dir", report.to_str().unwrap()])
            .arguments(arguments)
    }

    fn file(&self) -> PathBuf {
        self.lab.directory().join("compose.yaml")
    }

    fn override_file(&self) -> PathBuf {
        self.lab.directory().join("compose.override.yaml")
    }

    /// The mark, and admin sockets that no project beside this one has.
    fn override_text(&self) -> String {
        let mark = self.lab.mark();
        let service = |name: &str| {
            format!(
                "  {name}:\n    environment:\n      {MARK}: {mark}\n      HITLESS_ADMIN: unix:@hitless-tests.{mark}.{name}\n"
            )
        };
        format!("services:\n{}{}", service("server-a"), service("server-b"))
    }

    async fn up(&self) {
        self.compose(&["up", "--detach"]).await;
    }

    async fn down(&self) {
        self.compose(&["down", "--timeout", "20"]).await;
    }

    async fn compose(&self, arguments: &[&str]) {
        let [program, words @ ..] = self.words else { unreachable!("a version has at least one word") };
        let output = Command::new(program)
            .args(words)
            .args(["--project-name", &format!("hitless-tests-{}", self.lab.mark())])
            .args(["--file".as_ref(), self.file().as_os_str(), "--file".as_ref()])
            .arg(self.override_file())
            .args(arguments)
            .env("HITLESS_LISTEN", format!("127.0.0.1:{}", self.lab.port))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {}: {said}", self.words.join(" "), arguments.join(" "));
    }
}

/// The first of these Composes that is installed.
async fn installed(composes: &[&'static [&'static str]]) -> Option<&'static [&'static str]> {
    for words in composes {
        if is_installed(words).await {
            return Some(words);
        }
    }
    let names: Vec<String> = composes.iter().map(|words| format!("`{}`", words.join(" "))).collect();
    tools::lack(&names.join(" or "));
    None
}

/// Whether these words call a Compose.
async fn is_installed(words: &[&str]) -> bool {
    let Some((program, words)) = words.split_first() else { return false };
    let mut version = Command::new(program);
    version.args(words).arg("version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().await.is_ok_and(|status| status.success())
}
