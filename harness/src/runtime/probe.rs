//! Asks the target's port whether somebody is there. Not per replica when replicas share the port.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clock::Moment;
use crate::scenario::Target;

const ASK_EVERY: Duration = Duration::from_millis(20);
const ONE_PROBE: Duration = Duration::from_secs(2);

/// Waits until the port accepts a connection.
pub(super) async fn until_connected(target: &Target) -> Moment {
    loop {
        let connecting = TcpStream::connect((target.host, target.port));
        if let Ok(Ok(_)) = tokio::time::timeout(ONE_PROBE, connecting).await {
            return Moment::now();
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Waits until a GET of `path` is answered with a status from 200 to 299.
pub(super) async fn until_answered(target: &Target, path: &str) -> Moment {
    loop {
        if let Ok(Ok(true)) = tokio::time::timeout(ONE_PROBE, is_answered(target, path)).await {
            return Moment::now();
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn is_answered(target: &Target, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((target.host, target.port)).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {}:{}\r\n\r\n", target.host, target.port);
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200": the status's first digit is byte 9.
    let mut beginning = [0; 10];
    stream.read_exact(&mut beginning).await?;
    Ok(beginning.starts_with(b"HTTP/1.") && beginning[9] == b'2')
}
