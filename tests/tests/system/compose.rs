//! compose.yaml, as both Compose versions take it: two healthy replicas on one port, rolled in place and left running.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use crate::artifacts::{server_image, workspace};
use crate::client::ask;
use crate::hitless::Hitless;
use crate::lab::{self, Lab, MARK, Outcome};

/// The two that are about, each with the words that call it: the plugin of today, and the program of yesterday.
const VERSIONS: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];

#[test]
fn compose_brings_up_two_healthy_replicas_that_are_rolled_in_place_and_left_running() -> Outcome {
    lab::run(async |lab| {
        server_image().await;
        let mut tried = 0;
        for words in VERSIONS {
            if is_installed(words).await {
                tried += 1;
                let project = Project::new(lab, words);
                project.up().await;
                assert_rolled_in_place(lab, &project).await;
                project.compose(&["down", "--timeout", "20"]).await;
                assert_eq!(lab.containers().await, [""; 0]);
            }
        }
        assert!(tried > 0, "this test needs `docker compose` or `docker-compose`");
    })
}

async fn assert_rolled_in_place(lab: &Lab, project: &Project<'_>) {
    let before = lab.containers().await;
    assert_eq!(before.len(), 2);
    for id in &before {
        lab.wait_until_health_is(id, "healthy").await;
    }
    assert!(ask(lab, "/").await.unwrap().contains("hello world"));

    let file = project.file();
    let report = lab.directory().join("report");
    let ended = Hitless::new(lab, &["run", "--runtime", "compose", "--compose", file.to_str().unwrap()])
        .arguments(&["--url", &lab.url(), "--report-dir", report.to_str().unwrap()])
        .arguments(&["--rounds", "1", "--rate", "200", "--cohort", "fresh,pooled"])
        .conclude()
        .await;
    ended.assert_exit_code(0);
    assert_eq!(ended.report().restarts().len(), 2, "{ended}");

    assert_eq!(lab.containers().await, before, "the same containers, still there");
    for id in &before {
        lab.wait_until_health_is(id, "healthy").await;
    }
}

/// compose.yaml in a directory of its own, with an override that marks its containers.
struct Project<'a> {
    lab: &'a Lab,
    words: &'static [&'static str],
}

impl<'a> Project<'a> {
    fn new(lab: &'a Lab, words: &'static [&'static str]) -> Self {
        let project = Self { lab, words };
        std::fs::copy(workspace().join("compose.yaml"), project.file()).unwrap();
        std::fs::write(project.override_file(), project.override_text()).unwrap();
        project
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

/// Whether these words call a Compose.
async fn is_installed(words: &[&str]) -> bool {
    let Some((program, words)) = words.split_first() else { return false };
    let mut version = Command::new(program);
    version.args(words).arg("version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().await.is_ok_and(|status| status.success())
}
