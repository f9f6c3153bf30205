//! The `triscore` program: parse, call, print. What it does, an embedder can do with the library.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
