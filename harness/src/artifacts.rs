//! What has to be built before a run: the server's image and its program.

pub mod checkout;
pub mod image;
pub mod program;
