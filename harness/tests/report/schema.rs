//! `report.json` against `schema/report.schema.json`: the schema takes what is written and nothing else, so neither can
//! change without the other.

use std::collections::BTreeSet;
use std::path::Path;

use hitless::model::cut_short::CutShort;
use hitless::model::failure::FailureClass;
use hitless::model::phase::Phase;
use hitless::report::json;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::runs::{self, Run};

/// Objects whose fields are named by the kernel, by servers or after replicas.
const OPEN: [&str; 4] =
    ["/restarts/0/account", "/timeline/buckets/0/replicas", "/evidence/kernel", "/scenario/options"];

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/report.schema.json");
    let text = std::fs::read_to_string(&path).expect("the schema is in the package");
    serde_json::from_str(&text).expect("the schema is JSON")
}

fn validator() -> Validator {
    let schema = schema();
    jsonschema::meta::validate(&schema).expect("the schema is one of draft 2020-12");
    jsonschema::draft202012::new(&schema).expect("the schema can be used")
}

fn assert_valid(validator: &Validator, report: &Value, what: &str) {
    let errors: Vec<String> = validator
        .iter_errors(report)
        .take(5)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}");
}

/// What the binary writes of a run.
fn written(run: &Run) -> Value {
    let directory = run.written();
    runs::rendered(directory.path());
    serde_json::from_str(&runs::text(directory.path(), "report.json")).expect("report.json is JSON")
}

#[test]
fn every_kind_of_report_is_valid() {
    let validator = validator();
    let cut_off = Run::failing().written();
    let events = runs::text(cut_off.path(), "events.jsonl");
    std::fs::write(cut_off.path().join("events.jsonl"), &events[..events.len() / 2]).expect("room for half");
    runs::rendered(cut_off.path());
    let cut_off =
        serde_json::from_str(&runs::text(cut_off.path(), "report.json")).expect("report.json is JSON");
    for (what, report) in [
        ("a clean run", written(&Run::clean())),
        ("a failing run", written(&Run::failing())),
        ("a run of replacements", written(&Run { is_replacing: true, ..Run::failing() })),
        ("a run that was cut off", cut_off),
        ("a run that never sent anything", {
            let nothing = tempfile::tempdir().expect("a directory for the run");
            runs::write(&Run::clean().lines()[..1], nothing.path());
            runs::rendered(nothing.path());
            serde_json::from_str(&runs::text(nothing.path(), "report.json")).expect("report.json is JSON")
        }),
    ] {
        assert_valid(&validator, &report, what);
    }
}

#[test]
fn field_that_nobody_knows_is_refused_everywhere() {
    let (validator, report) = (validator(), example());
    for place in places(&report).iter().filter(|place| !OPEN.contains(&place.as_str())) {
        let mut changed = report.clone();
        let Some(Value::Object(object)) = changed.pointer_mut(place) else { continue };
        object.insert("added_by_a_later_version".to_owned(), json!(1));
        assert!(!validator.is_valid(&changed), "an unknown field in {place:?} goes unnoticed");
    }
}

#[test]
fn value_of_another_type_is_refused_everywhere() {
    let (validator, report) = (validator(), example());
    // Earlier versions wrote a sentence for the reason why a run was cut short.
    let free = |place: &str| {
        place.starts_with("/restarts/0/account/")
            || place.starts_with("/scenario/options/")
            || place == "/run/cut_short"
    };
    for place in places(&report).iter().filter(|place| !free(place)) {
        let mut changed = report.clone();
        let value = changed.pointer_mut(place).expect("a place in the report");
        *value = match value {
            Value::Object(_) | Value::Array(_) => json!("neither an object nor a list"),
            _ => json!([{"neither": "a text nor a number"}]),
        };
        assert!(!validator.is_valid(&changed), "another type at {place:?} goes unnoticed");
    }
}

#[test]
fn field_that_is_always_written_is_required() {
    let (validator, report) = (validator(), example());
    let optional = [
        "/restarts/0/successor",
        "/restarts/0/broke",
        "/restarts/0/terminated_ms",
        "/restarts/0/exited_ms",
        "/restarts/0/started_ms",
        "/restarts/0/ready_ms",
        "/restarts/0/answered_ms",
        "/failures/0/on_kept_connection",
        "/timeline/buckets/0/by_class",
        "/timeline/buckets/0/queue",
    ];
    let named_elsewhere = |place: &str| OPEN.iter().any(|open| place.starts_with(&format!("{open}/")));
    let is_count_of_a_kind =
        |place: &str| place.contains("/by_class/") || place.starts_with("/restarts/0/phases/");
    for place in places(&report) {
        let Some((parent, field)) = place.rsplit_once('/') else { continue };
        let mut changed = report.clone();
        let Some(Value::Object(object)) = changed.pointer_mut(parent) else { continue };
        if optional.contains(&place.as_str()) || named_elsewhere(&place) || is_count_of_a_kind(&place) {
            continue;
        }
        object.remove(field);
        assert!(!validator.is_valid(&changed), "a report without {place} goes unnoticed");
    }
}

#[test]
fn classes_and_phases_of_the_schema_are_those_of_the_harness() {
    let schema = schema();
    let names = |of: &str| -> Value {
        let names = schema.pointer(&format!("/$defs/{of}/oneOf")).and_then(Value::as_array);
        names.expect("a list of names").iter().map(|name| name["const"].clone()).collect()
    };
    assert_eq!(names("FailureClass"), json!(FailureClass::ALL));
    assert_eq!(names("Phase"), json!(Phase::ALL));
}

#[test]
fn every_field_is_explained() {
    fn walk(schema: &Value, place: &str, silent: &mut Vec<String>) {
        match schema {
            Value::Object(object) => {
                for (key, value) in object {
                    if let ("properties" | "$defs", Value::Object(fields)) = (key.as_str(), value) {
                        // A constant tells which of several forms an object has.
                        let is_silent = |field: &Value| {
                            field.get("description").is_none() && field.get("const").is_none()
                        };
                        silent.extend(
                            fields
                                .iter()
                                .filter(|(_, field)| is_silent(field))
                                .map(|(name, _)| format!("{place}/{name}")),
                        );
                    }
                    walk(value, &format!("{place}/{key}"), silent);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, place, silent)),
            _ => {}
        }
    }
    let mut silent = Vec::new();
    walk(&schema(), "", &mut silent);
    assert!(silent.is_empty(), "without a description: {silent:#?}");
}

/// A small report in which every field has a value.
fn example() -> Value {
    let run = Run { rounds: 1, every_ms: 40.0, is_replacing: true, ..Run::failing() };
    let mut report = run.report();
    report.run.cut_short = Some(CutShort::Interrupted);
    report.evidence.accept_queue_max = Some(7);
    let report: Value = serde_json::from_str(&json::render(&report)).expect("report.json is JSON");
    assert_valid(&validator(), &report, "the example");
    report
}

/// Every place of a report, of lists the first element only.
fn places(report: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, place: &str, places: &mut BTreeSet<String>) {
        places.insert(place.to_owned());
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    walk(value, &format!("{place}/{key}"), places);
                }
            }
            Value::Array(list) => {
                if let Some(first) = list.first() {
                    walk(first, &format!("{place}/0"), places);
                }
            }
            _ => {}
        }
    }
    let mut places = BTreeSet::new();
    walk(report, "", &mut places);
    places
}
