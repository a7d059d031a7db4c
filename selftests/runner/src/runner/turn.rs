//! Which cases run, and with which kind of memory.

use framework::driver::Driver;
use framework::memory::Kind;

use super::registry::{ALL, Case};
use super::{Args, selection};

/// A case and the kind of memory to run it with.
pub(super) struct Turn {
    pub(super) case: &'static Case,
    memory: Kind,
    pub(super) name: String,
}

impl Turn {
    fn new(case: &'static Case, memory: Kind) -> Self {
        let name = match memory {
            Kind::Udmabuf => case.name.clone(),
            _ => format!("{}({})", case.name, memory.name()),
        };
        Self { case, memory, name }
    }

    /// Returns this program's arguments that run the case.
    pub(super) fn runner_arguments(&self, driver: Driver) -> [&str; 6] {
        [
            "--case",
            &self.case.name,
            "--with",
            self.memory.name(),
            "--driver",
            driver.name(),
        ]
    }
}

/// Returns the chosen cases, all with one kind of memory, then all with the next.
pub(super) fn turns(args: &Args) -> Vec<Turn> {
    let with = |memory: &Kind| {
        let memory = *memory;
        let about = ALL
            .iter()
            .filter(move |case| case.memories.contains(&memory));
        about.map(move |case| Turn::new(case, memory))
    };
    let wanted = |turn: &Turn| match args.filter.is_empty() {
        true if args.brief => selection::BRIEF.contains(&turn.case.name.as_str()),
        true => selection::runs(args.driver, &turn.case.name),
        false => args.filter.iter().any(|part| turn.name.contains(part)),
    };
    let (first, step) = args.share;
    let all = args.memories.iter().flat_map(with).filter(wanted);
    all.skip(first - 1).step_by(step).collect()
}
