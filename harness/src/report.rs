//! Renders one [`Report`](crate::analysis::report::Report), as files, text and tables. Computes nothing.

pub mod annotations;
pub mod digest;
pub mod files;
pub mod headline;
pub mod html;
pub mod json;
pub mod junit;
pub mod markdown;
pub mod metrics;
pub mod terminal;
pub mod text;
