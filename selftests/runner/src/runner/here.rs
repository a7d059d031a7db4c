//! Runs one case in this process.

use std::process::ExitCode;

use framework::Skip;

use super::EXIT_SKIP;
use super::registry::ALL;

/// Runs the case of this name in this process.
#[allow(clippy::print_stdout)] // the case's diagnostics; the runner reads them
pub(super) fn run(name: &str) -> ExitCode {
    let Some(case) = ALL.iter().find(|case| case.name == name) else {
        println!("no case is called {name}");
        return ExitCode::FAILURE;
    };
    match (case.run)() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) => {
                println!("{}", skip.0);
                ExitCode::from(EXIT_SKIP)
            }
            None => {
                println!("{error:?}");
                ExitCode::FAILURE
            }
        },
    }
}
