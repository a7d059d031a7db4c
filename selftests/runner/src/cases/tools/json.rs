//! The output of `--json` against `docs/json.md`: each printed key is documented, each documented key is
//! printed, and its value has the documented type.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use framework::command_line::Recv;
use framework::println_line;
use framework::testbed::{self, BOX, BOX_ADDRESS, GUEST, NIC, NIC_ADDRESS, PEER};
use framework::tool::{Running, command, finish};
use framework::transfer::devmem_tcp;

const DOCUMENT: &str = include_str!("../../../../../docs/json.md");
const LAST: u32 = testbed::QUEUES - 1;

/// Documented keys of a subcommand's JSON, as paths, and the types of their values.
#[derive(Debug)]
struct Schema(BTreeMap<String, String>);

impl Schema {
    fn of(section: &str) -> Result<Self> {
        let head = format!("\n## {section}\n");
        let begin = DOCUMENT
            .find(&head)
            .with_context(|| format!("no section {section}"))?;
        let text = DOCUMENT.get(begin + head.len()..).unwrap_or_default();
        let text = text.split("\n## ").next().unwrap_or_default();
        let mut keys = documented_keys(text);
        // Keys of shared structures: `(end).queue` is below each key whose type is `end`.
        let shared = documented_keys(DOCUMENT);
        let mut paths: Vec<_> = keys.clone().into_iter().collect();
        while let Some((path, kind)) = paths.pop() {
            let structure = format!("({}).", kind.split(' ').next().unwrap_or_default());
            for (key, kind) in &shared {
                if let Some(rest) = key.strip_prefix(&structure) {
                    let key = format!("{path}.{rest}");
                    paths.push((key.clone(), kind.clone()));
                    keys.insert(key, kind.clone());
                }
            }
        }
        Ok(Self(keys))
    }

    /// Checks that the value at a path has the documented type, and an object exactly the
    /// documented keys.
    fn check(&self, path: &str, value: &Value) -> Result<()> {
        let kind = self.0.get(path).map(String::as_str);
        match value {
            Value::Object(members) => {
                for (key, member) in members {
                    self.check(&join(path, key), member)?;
                }
                for key in self.children(path) {
                    ensure!(members.contains_key(key), "{path:?} lacks {key:?}: {value}");
                }
                Ok(())
            }
            Value::Array(elements) => {
                let path = format!("{path}[]");
                ensure!(self.documents(&path), "{path:?} is not documented");
                elements
                    .iter()
                    .try_for_each(|element| self.check(&path, element))
            }
            scalar => {
                let kind = kind.with_context(|| format!("{path:?} is not documented"))?;
                let is = match scalar {
                    Value::Null => "null",
                    Value::Bool(_) => "bool",
                    Value::Number(_) => "number",
                    _ => "string",
                };
                ensure!(kind.contains(is), "{path:?} is {kind}, and yet {scalar}");
                Ok(())
            }
        }
    }

    fn documents(&self, path: &str) -> bool {
        self.0.keys().any(|key| key.starts_with(path))
    }

    /// Returns the documented keys directly below a path.
    fn children(&self, path: &str) -> impl Iterator<Item = &str> {
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}.")
        };
        self.0
            .keys()
            .filter_map(move |key| {
                let rest = key.strip_prefix(prefix.as_str())?;
                let child = rest.split('.').next().unwrap_or(rest);
                Some(child.trim_end_matches("[]"))
            })
            .filter(|child| !child.is_empty())
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Parses keys and types out of the tables of a Markdown text.
fn documented_keys(text: &str) -> BTreeMap<String, String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let (key, rest) = row.split_once("` | ")?;
        let kind = rest.split(" |").next()?;
        Some((key.to_owned(), kind.to_owned()))
    };
    rows.filter_map(row).collect()
}

/// Checks that each line of a text is JSON as a section of `docs/json.md` documents it.
pub(crate) fn check_documented(section: &str, text: &str) -> Result<()> {
    let schema = Schema::of(section)?;
    for line in text.lines() {
        let value = serde_json::from_str(line).with_context(|| format!("{section}: {line}"))?;
        schema
            .check("", &value)
            .with_context(|| section.to_owned())?;
    }
    println_line(&format!("{section}: {} lines", text.lines().count()));
    ensure!(!text.is_empty(), "{section}: nothing");
    Ok(())
}

/// Runs a command with `--json`, whatever its exit status, and checks its output against a section
/// of `docs/json.md`.
fn check_output_of(section: &str, line: &str) -> Result<()> {
    let end = finish(command(None, &devmem_tcp(), &format!("{line} --json")))?;
    check_documented(section, &end.stdout).with_context(|| end.stderr)
}

case!(plans);
fn plans() -> Result<()> {
    testbed::wire()?;
    check_output_of("plan", &format!("plan {NIC} --queue {LAST}"))?;
    check_output_of(
        "plan",
        &format!("recv --dry-run -f {NIC} -l {NIC_ADDRESS}:5000"),
    )?;
    check_output_of("plan", &format!("apply {NIC} --queue {LAST}"))?;
    check_output_of("restore", &format!("restore {NIC} --dry-run"))?;
    check_output_of("restore", &format!("restore {NIC}"))?;
    check_output_of("doctor", &format!("doctor {NIC}"))?;
    check_output_of("doctor", "doctor")
}

case!(leases_and_transfers);
fn leases_and_transfers() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let lease = format!("lease --phys {NIC} --queue {LAST} --netkit {GUEST} --netns {BOX}");
    check_output_of("lease", &format!("{lease} --dry-run"))?;
    check_output_of("lease", &lease)?;
    testbed::route_to_container()?;
    let to = format!("{BOX_ADDRESS}:5000");
    let receiver = Recv::on(GUEST).netns(BOX).listen(&to).start_bound()?;
    check_output_of("show", "show")?;
    let watch = Running::start(command(None, &devmem_tcp(), "show --watch --json"))?;
    let line = format!("send --json --wait 20 {to}");
    let sent = finish(command(Some(PEER), &devmem_tcp(), &line))?.good("send")?;
    check_documented("send", &sent)?;
    check_documented(
        "recv",
        &receiver.end_within(Duration::from_secs(10))?.good("recv")?,
    )?;
    check_output_of(
        "unlease",
        &format!("unlease {GUEST} --netns {BOX} --dry-run"),
    )?;
    check_output_of("unlease", &format!("unlease {GUEST} --netns {BOX}"))?;
    std::thread::sleep(Duration::from_secs(1));
    watch.signal(Signal::SIGINT)?;
    let watched = watch
        .end_within(Duration::from_secs(2))?
        .good("show --watch")?;
    for what in ["watching", "unbound", "lease-ended", "device-went"] {
        if !watched.contains(&format!("\"{what}\"")) {
            bail!("{what:?} is not in\n{watched}");
        }
    }
    check_documented("show --watch", &watched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_tables() {
        let schema = Schema::of("show").unwrap();
        assert_eq!(schema.0["leases[].phys.queue"], "number");
        let live = Schema::of("recv --live").unwrap();
        assert_eq!(live.0["connections[].tokens.kept"], "number");
        assert_eq!(live.0["telemetry.hold_time_us.p50"], "number or null");
        assert!(schema.documents("page_pools[]") && !schema.documents("nothing"));
        assert!(Schema::of("nothing").is_err());
    }

    #[test]
    fn a_key_more_or_less_is_found() {
        let schema = Schema::of("plan").unwrap();
        let check = |text: &str| schema.check("", &serde_json::from_str(text).unwrap());
        let good = r#"{"device":"a","applied":true,"changes":[{"from":null,"to":"b"}]}"#;
        check(good).unwrap();
        check(&good.replace("null", "\"c\"")).unwrap();
        check(&good.replace("\"to\"", "\"other\"")).unwrap_err();
        check(&good.replace("\"from\":null,", "")).unwrap_err();
        check(&good.replace("true", "1")).unwrap_err();
    }
}
