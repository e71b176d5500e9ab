//! Server-sent events: a number every second.
//!
//! A stream that would last for ever cannot move to a sibling. It ends when the server is told to stop, and its last word
//! is when to come again; a browser's `EventSource` then connects to whoever serves, by itself.
//!
//! ```text
//! cargo run -p hitless-server --example events
//! curl -N http://127.0.0.1:8080/numbers
//! ```

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::{Router, routing::get};
use futures_util::stream::{self, Stream};
use hitless_server::{Drain, Server, StartError};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<ExitCode, StartError> {
    let server = Server::new(([127, 0, 0, 1], 8080)).on_event(|record| println!("{:?}", record.event));
    let router = router(server.drain());
    let report = server.run(router).await?;
    Ok(report.exit_code())
}

pub(crate) fn router(drain: Drain) -> Router {
    Router::new().route("/numbers", get(numbers)).with_state(drain)
}

async fn numbers(State(drain): State<Drain>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let numbers = stream::unfold(0_u64, async |number| {
        if number > 0 {
            sleep(Duration::from_secs(1)).await;
        }
        Some((Ok(Event::default().data(number.to_string())), number + 1))
    });
    let goodbye = Event::default().retry(Duration::from_millis(100));
    Sse::new(drain.end(numbers, Ok(goodbye)))
}
