//! What a reader does with `report.html`: on a wide window and on a phone, with a mouse and with a finger. The page stands
//! in a frame of another one, which plays the reader and writes down what it sees.

use std::path::Path;

use hitless::report::json;
use serde_json::{Value, json};

use crate::hostile;
use crate::page::{lacks_browser, open, rendered};
use crate::runs::{self, Run};

const PHONE: u32 = 390;
const WIDE: u32 = 1280;

/// What a reader can do, for the scripts below. `turn` lets the events that are due happen.
const READER: &str = r#"
    const turn = () => new Promise((done) => setTimeout(done));
    const rows = page.querySelector(".rows"), axis = page.querySelector(".axis .plot");
    const xOf = (share) => { const box = axis.getBoundingClientRect(); return box.left + share * box.width; };
    const pointer = (kind, share, more) => new win.PointerEvent(kind, {
      pointerType: "mouse", button: 0, bubbles: true, clientX: xOf(share), clientY: 0, ...more });
    const drag = async (from, to) => {
      rows.dispatchEvent(pointer("pointerdown", from));
      win.dispatchEvent(pointer("pointermove", to));
      win.dispatchEvent(pointer("pointerup", to));
      await turn();
    };
    const press = async (go) => { page.querySelector(`[data-go=${go}]`).click(); await turn(); };
    const shown = () => page.getElementById("shown").textContent;
    const ticks = () => [...axis.querySelectorAll("span")].filter((one) => !one.hidden);
"#;

/// Opens a page in a frame so wide, does what `script` says, and gives back what it returns.
fn read(page: &Path, width: u32, script: &str) -> Value {
    let reader = page.with_file_name("reader.html");
    let text = format!(
        r#"<!doctype html><iframe width="{width}" height="900" style="border:0" src="report.html"></iframe><script>
        const frame = document.querySelector("iframe");
        frame.onload = async () => {{
          const win = frame.contentWindow, page = win.document, result = document.createElement("pre");
          result.id = "result";
          try {{ {READER} result.textContent = JSON.stringify(await (async () => {{ {script} }})()); }}
          catch (error) {{ result.textContent = JSON.stringify(String(error)); }}
          document.body.append(result);
        }};
        </script>"#
    );
    std::fs::write(&reader, text).expect("room for a page");
    let opened = open(&reader, "");
    assert!(opened.console.is_empty(), "{:#?}", opened.console);
    let (_, rest) = opened.document.split_once("<pre id=\"result\">").expect("the reader came to an end");
    let (result, _) = rest.split_once("</pre>").expect("the result ends");
    let result = result.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&result).expect("the result is JSON")
}

#[test]
fn nothing_is_wider_than_the_window() {
    if lacks_browser() {
        return;
    }
    let widest = r"
        const root = page.documentElement;
        const isIn = (one) => !one.closest('.wide') && one.getBoundingClientRect().right > root.clientWidth + 0.5;
        const labels = ticks().filter((one) => one.getBoundingClientRect().right > axis.getBoundingClientRect().right + 0.5);
        return { over: root.scrollWidth - root.clientWidth, wide: [...page.querySelectorAll('main *')].filter(isIn)
          .map((one) => one.outerHTML.slice(0, 200)), cut: labels.map((one) => one.textContent) };
    ";
    let replacing = Run { is_replacing: true, ..Run::failing() };
    for run in [Run::clean(), replacing, Run::lossy()] {
        let (directory, _) = rendered(&run);
        for width in [PHONE, WIDE] {
            let seen = read(&directory.path().join("report.html"), width, widest);
            assert_eq!(seen, json!({ "over": 0, "wide": [], "cut": [] }), "{width}: {run:?}");
        }
    }
    let directory = tempfile::tempdir().expect("a directory for the run");
    std::fs::write(directory.path().join("report.json"), json::render(&hostile::hostile())).expect("room");
    runs::rendered(directory.path());
    let seen = read(&directory.path().join("report.html"), PHONE, widest);
    assert_eq!(seen["over"], 0, "{seen:#}");
}

#[test]
fn whole_run_comes_back_after_every_drag() {
    if lacks_browser() {
        return;
    }
    let (directory, _) = rendered(&Run::failing());
    let seen = read(
        &directory.path().join("report.html"),
        WIDE,
        r"
        const said = [];
        for (const back of ['all', 'all', 'Escape', 'Escape']) {
          await drag(0.4, 0.6);
          said.push(shown() !== '');
          if (back === 'all') await press('all');
          else { win.dispatchEvent(new win.KeyboardEvent('keydown', { key: back })); await turn(); }
          said.push(shown() === '');
        }
        await press('next');
        const first = shown();
        await drag(0.4, 0.6);
        page.querySelector('a[data-zoom]').click();
        await turn();
        said.push(first !== '' && shown() === first);
        return said;
        ",
    );
    assert_eq!(seen, json!(vec![true; 9]));
}

#[test]
fn what_a_restart_lost_is_told_also_where_its_failures_were_not_kept() {
    if lacks_browser() {
        return;
    }
    let (directory, report) = rendered(&Run::lossy());
    assert!(report["failures_cut"].as_u64() > Some(0), "the run loses more than is kept");
    let last = report["restarts"].as_array().expect("restarts").len();
    let seen = read(
        &directory.path().join("report.html"),
        WIDE,
        &format!(
            r"
            win.location.hash = 'zoom-{last}';
            await turn();
            const lines = [...page.querySelectorAll('#restart li.lost')].map((line) => line.textContent);
            const dots = page.querySelectorAll('.lane .dots');
            return {{ lines, dots: [...dots].map((path) => path.getAttribute('d').split('M').length > 10) }};
            "
        ),
    );
    assert_eq!(seen["lines"][0], "80 failed in all: 40 refused, 40 empty reply");
    let in_between = seen["lines"][1].as_str().unwrap_or_default();
    assert!(in_between.ends_with("about 80 failed: 40 refused, 40 empty reply"), "{seen:#}");
    assert_eq!(seen["dots"], json!([true, true]), "both lanes show when");
}

#[test]
fn finger_chooses_a_restart_and_what_it_showed_stays() {
    if lacks_browser() {
        return;
    }
    let (directory, _) = rendered(&Run::failing());
    let seen = read(
        &directory.path().join("report.html"),
        PHONE,
        r"
        const finger = { pointerType: 'touch' };
        // The third of four restarts, a second apart.
        rows.dispatchEvent(pointer('pointerdown', 0.6, finger));
        rows.dispatchEvent(pointer('pointerup', 0.6, finger));
        rows.dispatchEvent(pointer('pointerleave', 0.6, finger));
        const stays = !page.querySelector('.readout').hidden;
        rows.dispatchEvent(pointer('click', 0.6, finger));
        await turn();
        return { stays, shown: shown().split(':')[0] };
        ",
    );
    assert_eq!(seen, json!({ "stays": true, "shown": "restart 3 of 4" }));
}

#[test]
fn time_axis_has_at_least_four_labels_on_a_phone_too() {
    if lacks_browser() {
        return;
    }
    for every_ms in [300.0, 900.0, 1_700.0, 9_000.0] {
        let (directory, _) = rendered(&Run { every_ms, ..Run::clean() });
        let page = directory.path().join("report.html");
        let seen = read(
            &page,
            PHONE,
            "const boxes = ticks().map((one) => one.getBoundingClientRect());
             return { ticks: boxes.length, apart: boxes.every((box, at) => !at || box.left > boxes[at - 1].right) };",
        );
        assert!(seen["ticks"].as_u64() >= Some(4) && seen["apart"] == json!(true), "{every_ms}: {seen}");
        let seen = read(
            &page,
            WIDE,
            "const before = ticks()[0]; win.dispatchEvent(new win.Event('resize')); return ticks()[0] !== before;",
        );
        assert_eq!(seen, true, "the labels do not follow the window");
    }
}

#[test]
fn restart_that_failed_among_many_is_marked_and_its_row_stands_open() {
    if lacks_browser() {
        return;
    }
    let (directory, _) = rendered(&Run::failing_once());
    for width in [PHONE, WIDE] {
        let seen = read(
            &directory.path().join("report.html"),
            width,
            r"
            const marks = [...page.querySelectorAll('.mark')].map((mark) => [mark.textContent, mark.dataset.zoom]);
            const isOpen = (row) => !row.closest('details') || row.closest('details').open;
            const rowsShown = [...page.querySelectorAll('#restarts tbody tr')].filter(isOpen).map((row) => row.id);
            const folded = page.querySelector('#restarts details summary').textContent;
            await press('failing');
            return { marks, rowsShown, folded, shown: shown().split(',')[0] };
            ",
        );
        assert_eq!(
            seen,
            json!({
                "marks": [["▼10", "37"]],
                "rowsShown": ["restart-37"],
                "folded": "59 restarts without failures",
                "shown": "restart 37 of 60: server-a",
            }),
            "{width}"
        );
    }
}
