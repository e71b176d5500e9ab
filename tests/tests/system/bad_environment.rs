//! What a broken environment looks like: exit code 3, one line that names what is missing, nothing left behind.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use crate::hitless::Hitless;
use crate::lab::{self, Outcome};

#[test]
fn engine_that_is_not_there_is_named() -> Outcome {
    lab::run(async |lab| {
        let ended = Hitless::run(lab, &[]).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").end().await;
        ended.assert_exit_code(3);
        ended.assert_one_line_about(&["/nonexistent/docker.sock"]);
    })
}

#[test]
fn socket_that_nobody_listens_on_is_named() -> Outcome {
    lab::run(async |lab| {
        let socket = lab.directory().join("docker.sock");
        // The file of a closed listener stays.
        drop(UnixListener::bind(&socket).unwrap());
        let host = format!("unix://{}", socket.display());
        let ended = Hitless::run(lab, &[]).env("DOCKER_HOST", &host).end().await;
        ended.assert_exit_code(3);
        ended.assert_one_line_about(&[socket.to_str().unwrap()]);
    })
}

#[test]
fn port_that_is_taken_is_named() -> Outcome {
    lab::run(async |lab| {
        let _taken = TcpListener::bind(("0.0.0.0", lab.port)).unwrap();
        for preset in ["graceful", "reuseport"] {
            let ended = Hitless::run(lab, &["--preset", preset]).end().await;
            ended.assert_exit_code(3);
            ended.assert_one_line_about(&[&lab.port.to_string()]);
        }
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

#[test]
fn image_that_is_not_there_is_named() -> Outcome {
    lab::run(async |lab| {
        let image = "hitless-tests-no-such-image:latest";
        let ended = Hitless::run(lab, &["--image", image]).end().await;
        ended.assert_exit_code(3);
        ended.assert_one_line_about(&[image]);
        assert_eq!(lab.containers().await, [""; 0]);
    })
}
