//! The library in applications of these tests, in this very process or a child of it.

mod examples;
mod framing;
mod half_closed;
mod http2_floods;
mod layers;
mod library;
mod signals;
mod staged_end;
mod time_limits;
mod unread_bodies;

/// What the tests share.
mod support {
    #![allow(dead_code, unreachable_pub, reason = "shared with the tests of the testbed")]

    pub mod http2;
    pub mod raw;
    pub mod running;
}
