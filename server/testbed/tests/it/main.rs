//! The testbed's servers as people run them: the server and the saboteurs, as child processes.

mod handover;
mod hanging;
mod http2;
mod limits;
mod saboteurs;
mod siblings;
mod stages;
mod starts;
mod support;
