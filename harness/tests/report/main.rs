//! What is written of a run, from its events.jsonl through the binary to each file, and that nothing that a server says
//! can change what a reader, a browser or a parser makes of it.

mod headline;
mod hostile;
mod junit;
mod metrics;
mod page;
mod reader;
mod runs;
mod schema;
mod schema_1;
mod size;
mod terminal;
#[path = "../../../tests/src/tools.rs"]
#[expect(unreachable_pub, reason = "it is public where it lives")]
mod tools;
mod wire;
