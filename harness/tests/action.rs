//! `.github/actions/hitless/run.sh`: inputs become arguments, the report becomes outputs, whatever the run came to.

#![expect(clippy::unwrap_used, reason = "a step of a test that fails ends the test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A job: a directory to work in, and the files that a runner gives to a step.
struct Job {
    directory: TempDir,
    inputs: Vec<(&'static str, String)>,
}

/// What a step came to.
struct Ended {
    exit_code: i32,
    outputs: BTreeMap<String, String>,
    stderr: String,
}

impl Job {
    fn new(binary: &Path) -> Self {
        let inputs = vec![("INPUT_BINARY", binary.display().to_string())];
        Self { directory: TempDir::new().unwrap(), inputs }
    }

    /// A job whose `hitless` writes down its arguments, leaves this report and ends with `exit_code`.
    fn with_fake(exit_code: i32, metrics: Option<&str>) -> Self {
        let mut job = Self::new(Path::new("./fake"));
        let report = metrics.map_or_else(String::new, |metrics| {
            format!(
                "mkdir -p report\necho '{{}}' >report/report.json\necho summary >report/summary.md\n\
                 cat >report/metrics.txt <<'METRICS'\n{metrics}\nMETRICS\n"
            )
        });
        let script = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >arguments\n{report}exit {exit_code}\n");
        let fake = job.path("fake");
        fs::write(&fake, script).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        job.inputs.push(("INPUT_REPORT_DIR", "report".into()));
        job
    }

    fn input(mut self, name: &'static str, value: &str) -> Self {
        self.inputs.push((name, value.into()));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self) -> Ended {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/actions/hitless/run.sh");
        let outputs = self.path("outputs");
        let ended = Command::new(script)
            .current_dir(self.directory.path())
            .env("GITHUB_OUTPUT", &outputs)
            .env_remove("GITHUB_STEP_SUMMARY")
            .envs(self.inputs.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        let written = fs::read_to_string(&outputs).unwrap_or_default();
        Ended {
            exit_code: ended.status.code().unwrap(),
            outputs: written.lines().map(|line| line.split_once('=').unwrap()).map(owned).collect(),
            stderr: String::from_utf8(ended.stderr).unwrap(),
        }
    }

    fn arguments(&self) -> Vec<String> {
        fs::read_to_string(self.path("arguments")).unwrap().lines().map(ToOwned::to_owned).collect()
    }
}

fn owned(pair: (&str, &str)) -> (String, String) {
    (pair.0.to_owned(), pair.1.to_owned())
}

const METRICS: &str = r#"hitless_requests_total{subject="a b",cohort="fresh"} 900
hitless_requests_total{subject="a b",cohort="slow"} 100
hitless_failed_total{subject="a b",cohort="fresh"} 3
hitless_failed_total{subject="a b",cohort="slow"} 2
hitless_failures_total{subject="a b",cohort="fresh",class="refused"} 3
hitless_failures_total{subject="a b",cohort="fresh",class="harness_resource"} 40
hitless_failures_total{subject="a b",cohort="slow",class="truncated"} 2"#;

#[test]
fn outputs_are_written_whatever_the_run_came_to() {
    for (exit_code, verdict) in [(0, "pass"), (1, "fail"), (4, "inconclusive")] {
        let ended = Job::with_fake(exit_code, Some(METRICS)).run();
        assert_eq!(ended.exit_code, exit_code, "{}", ended.stderr);
        let expected = [
            ("exit-code", exit_code.to_string()),
            ("failed", "5".into()),
            ("report", "report/report.json".into()),
            ("requests", "1000".into()),
            ("summary", "report/summary.md".into()),
            ("verdict", verdict.into()),
        ];
        let outputs: Vec<(&str, String)> =
            ended.outputs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        assert_eq!(outputs, expected);
    }
}

#[test]
fn run_that_could_not_be_carried_out_leaves_no_report_of_an_older_one() {
    let job = Job::with_fake(3, None);
    fs::create_dir(job.path("report")).unwrap();
    fs::write(job.path("report/report.json"), "{}").unwrap();
    let ended = job.run();
    assert_eq!((ended.exit_code, ended.outputs["verdict"].as_str()), (3, "error"));
    assert_eq!([&ended.outputs["report"], &ended.outputs["requests"]], ["", ""]);
}

#[test]
fn inconclusive_run_fails_the_job_only_if_it_should() {
    let run = |fail_on| Job::with_fake(4, Some(METRICS)).input("INPUT_FAIL_ON", fail_on).run();
    assert_eq!((run("inconclusive").exit_code, run("fail").exit_code), (4, 0));
    assert_eq!(run("fail").outputs["exit-code"], "4");
    let unknown = run("sometimes");
    assert!(unknown.exit_code == 2 && unknown.stderr.contains("sometimes"), "{}", unknown.stderr);
}

#[test]
fn inputs_are_arguments_and_never_commands() {
    let job = Job::with_fake(0, Some(METRICS))
        .input("INPUT_IMAGE", "$(touch pwned)")
        .input("INPUT_ENV", "A=1 2\nB='; touch pwned; '\n\n")
        .input("INPUT_BUDGETS", "failed==0\r\n  \np(99)<250ms")
        .input("INPUT_COHORTS", "--until-failure")
        .input("INPUT_ARGS", "--slow-path=/a b\n--quiet\n`touch pwned`");
    assert_eq!(job.run().exit_code, 0);
    assert_eq!(
        job.arguments(),
        [
            "run",
            "--report-dir=report",
            "--image=$(touch pwned)",
            "--env=A=1 2",
            "--env=B='; touch pwned; '",
            "--cohort=--until-failure",
            "--budget=failed==0",
            "--budget=p(99)<250ms",
            "--slow-path=/a b",
            "--quiet",
            "`touch pwned`",
        ]
    );
    assert!(!job.path("pwned").exists());
}

#[test]
fn every_input_is_an_argument_that_hitless_knows() {
    let job = Job::new(Path::new(env!("CARGO_BIN_EXE_hitless")))
        .input("INPUT_IMAGE", "shop:1.4")
        .input("INPUT_COMPOSE", "compose.yaml")
        .input("INPUT_SERVICES", "a\nb")
        .input("INPUT_ENV", "A=1")
        .input("INPUT_URL", "http://127.0.0.1:9/")
        .input("INPUT_REPLICAS", "2")
        .input("INPUT_ROUNDS", "1")
        .input("INPUT_RATE", "10")
        .input("INPUT_COHORTS", "fresh\nslow")
        .input("INPUT_BUDGETS", "failed==0")
        .input("INPUT_PRESET", "sloppy");
    let ended = job.run();
    assert_eq!((ended.exit_code, ended.outputs["verdict"].as_str()), (2, "error"), "{}", ended.stderr);
    // The flags were understood: what is wrong is what one of them says.
    assert!(!ended.stderr.contains("unexpected argument"), "{}", ended.stderr);
}

#[test]
fn every_input_of_the_action_reaches_the_script() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/actions/hitless");
    let (action, script) = (
        fs::read_to_string(here.join("action.yml")).unwrap(),
        fs::read_to_string(here.join("run.sh")).unwrap(),
    );
    let passed: Vec<(&str, &str)> =
        action.lines().filter_map(|line| line.trim().strip_prefix("INPUT_")?.split_once(": ")).collect();
    assert!(passed.len() > 10);
    for (name, value) in &passed {
        assert!(script.contains(&format!("INPUT_{name}")), "run.sh does not read INPUT_{name}");
        let input = name.to_lowercase().replace('_', "-");
        assert_eq!(*value, format!("${{{{ inputs.{input} }}}}"));
    }
    let (_, inputs) = action.split_once("\ninputs:\n").unwrap();
    let (inputs, _) = inputs.split_once("\noutputs:\n").unwrap();
    let declared = inputs.lines().filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'));
    for input in declared.filter(|input| !input.starts_with(' ') && *input != "artifact") {
        let name = input.to_uppercase().replace('-', "_");
        assert!(passed.iter().any(|(passed, _)| *passed == name), "the input {input} is not passed on");
    }
}
