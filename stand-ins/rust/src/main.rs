//! The command line of the published crate ostree-ext as a program of its own.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match ostree_ext::cli::run_from_iter(std::env::args_os()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}"); // one line with every cause, as bootc prints it
            ExitCode::FAILURE
        }
    }
}
