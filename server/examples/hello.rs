//! The whole of it: run two of these and restart them one after the other; no client notices.

use std::process::ExitCode;

use axum::{Router, routing::get};
use hitless_server::{Server, StartError};

#[tokio::main]
async fn main() -> Result<ExitCode, StartError> {
    let router = Router::new().route("/", get(async || "hello world"));
    let report = Server::new(([127, 0, 0, 1], 8080)).run(router).await?;
    Ok(report.exit_code())
}
