//! Runs the whole comparison and measurement over the fake CUDA driver: its results must be right.

// Not called: that it is a dependency has the library built.
use fakecuda as _;

use super::*;

fn args(line: &[&str]) -> Args {
    Args::parse_from([&["gpu"], line].concat())
}

#[test]
fn the_fakes_work_is_the_processors_and_is_called_the_fakes() {
    let tests = std::env::current_exe().unwrap();
    let library = tests.with_file_name("libfakecuda.so");
    let driver = Driver::load_from(library.to_str().unwrap()).unwrap();
    let args = args(&["--batches", "20", "--repeats", "1", "--region", "1"]);
    let report = run(&args, &driver).unwrap();
    assert!(report.fake);
    let text = report.text();
    assert!(text.contains("no GPU ran any of this"), "{text}");
    for (_, compared) in &report.compared {
        assert_eq!((compared.batches, compared.refused), (20, 2));
        assert!(compared.pieces > 0 && compared.bytes > 0);
    }
    // 16 pieces of up to 64 KiB fill the MiB, and 256 that each have a page.
    let fits = |cell: &measure::Cell| cell.count * cell.length.max(4096) <= 1 << 20;
    assert!(report.cells.iter().all(fits));
    assert_eq!(report.cells_left_out, 0);
    assert_eq!(report.cells.len(), 3 + 3 + 3 + 2 + 2 + 1 + 1);
    assert!(
        serde_json::to_string(&report)
            .unwrap()
            .contains("\"fake\":true")
    );
}

#[test]
fn when_the_time_is_up_what_is_left_out_is_said() {
    let tests = std::env::current_exe().unwrap();
    let library = tests.with_file_name("libfakecuda.so");
    let driver = Driver::load_from(library.to_str().unwrap()).unwrap();
    let line = ["--batches", "20", "--repeats", "1", "--region", "1"];
    let args = args(&[&line[..], &["--minutes", "0"]].concat());
    let report = run(&args, &driver).unwrap();
    let batches = report.compared.iter().map(|(_, compared)| compared.batches);
    assert_eq!(batches.collect::<Vec<_>>(), [1, 1]);
    assert_eq!((report.cells.len(), report.cells_left_out), (0, 15));
    let text = report.text();
    assert!(text.contains("LEFT OUT: 19 of 20 batches"), "{text}");
    assert!(text.contains("LEFT OUT: 15 measurements"), "{text}");
}
