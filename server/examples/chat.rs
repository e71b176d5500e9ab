//! State and a WebSocket: everything that one client says, all others hear.
//!
//! A WebSocket cannot move to a sibling, since the conversation lives here. So each is closed in its own way when the
//! server is told to stop, "service restart, come again", and the client connects again, to whoever serves then.
//!
//! ```text
//! cargo run -p hitless-server --example chat
//! ```

use std::process::ExitCode;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::{Router, routing::get};
use hitless_server::{Drain, RECONNECT_CLOSE_CODE, Server, StartError};
use tokio::sync::broadcast;

#[derive(Clone)]
struct Room {
    said: broadcast::Sender<String>,
    drain: Drain,
}

#[tokio::main]
async fn main() -> Result<ExitCode, StartError> {
    let server = Server::new(([127, 0, 0, 1], 8080))
        .stream_grace(Duration::from_secs(1))
        .on_event(|record| println!("{:?}", record.event));
    let router = router(server.drain());
    let report = server.run(router).await?;
    Ok(report.exit_code())
}

pub(crate) fn router(drain: Drain) -> Router {
    let room = Room { said: broadcast::channel(64).0, drain };
    Router::new().route("/chat", get(enter)).with_state(room)
}

async fn enter(State(room): State<Room>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| talk(socket, room))
}

async fn talk(mut socket: WebSocket, room: Room) {
    let mut heard = room.said.subscribe();
    loop {
        tokio::select! {
            said = socket.recv() => match said {
                // Nobody else may be listening.
                Some(Ok(Message::Text(text))) => drop(room.said.send(text.to_string())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            Ok(text) = heard.recv() => {
                if socket.send(Message::Text(text.into())).await.is_err() {
                    return;
                }
            }
            () = room.drain.started() => {
                let close = CloseFrame { code: RECONNECT_CLOSE_CODE, reason: "restart".into() };
                // The client may be gone already.
                let _ = socket.send(Message::Close(Some(close))).await;
                return;
            }
        }
    }
}
