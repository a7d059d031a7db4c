//! The benchmark's report, made from measurements: tables, targets, JSON, charts and the text of
//! `docs/performance.md`. All of it follows from the JSON: nothing is written by hand.

mod data;
mod docs;
mod fold;
mod missed;
mod pictures;
mod spread;
mod target;
mod targets;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use data::{Data, Host};

/// Options of the report that is made from measurements.
#[derive(clap::Args)]
pub(crate) struct Report {
    /// What guests wrote, in the order of the tables
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// What `make bench-host` said of the host, if there is such a file
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// Where to leave the text, and next to it the figures and pictures
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Options of the document that is made from saved figures.
#[derive(clap::Args)]
pub(crate) struct Docs {
    /// `performance/data.json` of a report
    data: PathBuf,
    /// Where to leave the text, and next to it the figures and pictures
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Report {
    pub(crate) fn run(&self) -> Result<()> {
        let mut lines = Vec::new();
        for path in &self.files {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            for line in text.lines() {
                let line = serde_json::from_str(line);
                lines.push(line.with_context(|| path.display().to_string())?);
            }
        }
        let host = self.host.as_deref().filter(|path| path.exists());
        let data = Data::fold(&lines, host.map(host_of).transpose()?)?;
        show(&data, self.out.as_deref())
    }
}

impl Docs {
    pub(crate) fn run(&self) -> Result<()> {
        show(&read(&self.data)?, self.out.as_deref())
    }
}

/// Prints the comparison, and writes it under `out` with its figures and pictures.
#[allow(clippy::print_stdout)]
fn show(data: &Data, out: Option<&Path>) -> Result<()> {
    println!("{}", docs::terminal(data));
    let Some(out) = out else {
        return Ok(());
    };
    for (name, text) in files(data)? {
        let path = out.join(name);
        let folder = path.parent().unwrap_or(out);
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn host_of(path: &Path) -> Result<Host> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let host: Host = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let some = host.recv_frag_ns.is_some() || host.validate_fraction_of_memcmp.is_some();
    ensure!(some, "{}: none of its figures is known", path.display());
    Ok(host)
}

fn read(path: &Path) -> Result<Data> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Returns the report's files (text, figures, pictures), each with its path under `docs`.
fn files(data: &Data) -> Result<Vec<(String, String)>> {
    let pictures = pictures::pictures(data)?;
    let names: Vec<&str> = pictures.iter().map(|(name, _)| *name).collect();
    let mut files = vec![
        ("performance.md".to_owned(), docs::markdown(data, &names)),
        ("performance/data.json".to_owned(), data.json()?),
    ];
    let pictures = pictures.into_iter();
    files.extend(pictures.map(|(name, picture)| (format!("performance/{name}.svg"), picture)));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the committed text and pictures are the ones that the committed figures give.
    #[test]
    fn docs_follow_from_the_data() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let data = read(&docs.join("performance/data.json")).unwrap();
        let files = files(&data).unwrap();
        for (name, expected) in &files {
            let found = fs::read_to_string(docs.join(name)).unwrap_or_default();
            let lines = || found.lines().zip(expected.lines()).enumerate();
            let first = lines().find(|(_, (found, expected))| found != expected);
            assert!(
                found == *expected,
                "docs/{name} is not what `make performance-docs` writes from docs/performance/data.json; \
                 first difference (line, found, expected): {first:?}"
            );
        }
        for entry in fs::read_dir(docs.join("performance")).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            let known = files
                .iter()
                .any(|(it, _)| *it == format!("performance/{name}"));
            assert!(
                known,
                "docs/performance/{name}: the data has no such picture"
            );
        }
    }

    #[test]
    fn figures_survive_being_written() {
        let data = fold::tests::some();
        let json = data.json().unwrap();
        let back: Data = serde_json::from_str(&json).unwrap();
        assert_eq!(back.json().unwrap(), json);
        assert_eq!(docs::markdown(&back, &[]), docs::markdown(&data, &[]));
    }
}
