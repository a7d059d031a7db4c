//! `api FILE.json`: prints the public API of a crate, one item per line, out of rustdoc's JSON.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::process::ExitCode;

/// Exit status when the rustdoc JSON has another format version than [`FORMAT_VERSION`].
const OTHER_FORMAT: u8 = 3;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: api FILE.json");
        return ExitCode::from(2);
    };
    match run(&path) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("api: {path}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &str) -> Result<ExitCode, Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let found = json["format_version"]
        .as_u64()
        .ok_or("not rustdoc's JSON")?;
    if found != u64::from(FORMAT_VERSION) {
        eprintln!("api: {path}: rustdoc's JSON of format {found}, where {FORMAT_VERSION} is read");
        return Ok(ExitCode::from(OTHER_FORMAT));
    }
    let api = public_api::Builder::from_rustdoc_json(path)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(false)
        .omit_auto_derived_impls(false)
        .sorted(true)
        .build()?;
    let mut out = std::io::stdout().lock();
    for line in drop_usual_items(api.items().map(ToString::to_string)) {
        writeln!(out, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps the lines that tell something about the API: drops the methods of derived and other usual
/// traits, and compiler-made auto traits. `Send` and `Sync` stay, because losing one goes
/// unnoticed.
fn drop_usual_items(lines: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let mut usual = false;
    lines.filter(move |line| {
        let implemented = line.strip_prefix("impl").map(strip_impl_parameters);
        if let Some(implemented) = implemented {
            let starts = |of: &[&str]| of.iter().any(|path| implemented.starts_with(path));
            usual = implemented.contains(" for ") && starts(USUAL_TRAITS);
            return !starts(COMPILER_TRAITS);
        }
        let method = line.starts_with("pub fn ") || line.starts_with("pub unsafe fn ");
        usual &= method;
        !usual
    })
}

/// Strips an `impl` line of its generic parameters and of a leading `!`: returns the trait's path
/// and what follows.
fn strip_impl_parameters(rest: &str) -> &str {
    let mut depth = 0;
    let end = rest.find(|c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        depth == 0 && c != '>'
    });
    end.map_or(rest, |end| &rest[end..])
        .trim_start_matches([' ', '!'])
}

/// Path prefixes of well-known traits, whose methods the snapshot leaves out.
const USUAL_TRAITS: &[&str] = &[
    "core::clone::",
    "core::cmp::",
    "core::default::",
    "core::error::",
    "core::fmt::",
    "core::hash::",
    "serde_core::",
];

/// Path prefixes of traits that only the compiler implements: left out of the snapshot, because
/// they change from one compiler version to the next.
const COMPILER_TRAITS: &[&str] = &[
    "core::marker::Freeze ",
    "core::marker::StructuralPartialEq ",
    "core::marker::Unpin ",
    "core::marker::UnsafeUnpin ",
    "core::panic::unwind_safe::",
];

/// Version of rustdoc's JSON format that the `public-api` crate in use can read.
const FORMAT_VERSION: u32 = 57;
