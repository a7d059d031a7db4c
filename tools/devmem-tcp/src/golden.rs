//! Output of the tool as committed text, which a change of it must show: `golden/`.

use std::path::Path;
use std::{env, fs};

use common::text::shown;

/// Variable of the environment with which the files are written instead of compared.
const WRITE: &str = "WRITE_GOLDEN";

/// Files in `golden/`, all of them.
const FILES: &[&str] = &[
    "doctor-nics.60.txt",
    "doctor.160.txt",
    "doctor.60.txt",
    "doctor.80.txt",
    "doctor.txt",
    "live.160.txt",
    "live.60.txt",
    "live.80.txt",
    "live.tall.txt",
    "show.160.txt",
    "show.60.txt",
    "show.80.txt",
    "summary.60.txt",
    "summary.80.txt",
];

/// Holds if a text is that of a file in `golden/`.
pub(crate) fn check(file: &str, text: &str) {
    assert!(FILES.contains(&file), "{file} is not in the list of files");
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(file);
    let text = shown(text);
    if env::var_os(WRITE).is_some() {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "{} differs; {WRITE}=1 cargo test -p devmem-tcp writes it\n--- now:\n{text}\n--- committed:\n{golden}",
        path.display()
    );
}

#[test]
fn every_golden_file_is_compared() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    let mut expected = FILES.to_vec();
    expected.sort_unstable();
    assert_eq!(names, expected);
}
