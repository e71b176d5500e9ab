//! `hitless image`: builds the server's image from this checkout.

use clap::Args;

use super::CommandError;
use crate::artifacts::checkout::{Artifact, Checkout};
use crate::artifacts::image;
use crate::console;
use crate::host::engine::Engine;
use crate::scenario::SERVER_IMAGE;

#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// The image's name.
    #[arg(long, default_value = SERVER_IMAGE)]
    tag: String,
    /// Print the Dockerfile of the image instead of building it.
    #[arg(long)]
    print_dockerfile: bool,
}

pub(super) async fn execute(args: &ImageArgs) -> Result<u8, CommandError> {
    let checkout = Checkout::find()?;
    if args.print_dockerfile {
        console::print(&image::dockerfile(&checkout, &Artifact::SERVER)?.0)?;
    } else {
        image::build(&Engine::connect().await?, &checkout, &Artifact::SERVER, &args.tag).await?;
        console::print(&format!("built image {}\n", args.tag))?;
    }
    Ok(0)
}
