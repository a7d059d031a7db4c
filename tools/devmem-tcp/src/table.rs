//! Alignment of tables.

use common::text::{on_one_line, width};

/// Aligns the rows of a table to columns two blanks apart, each as wide as its widest cell. Cells
/// may be coloured.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let one_line = |row: &Vec<String>| row.iter().map(|cell| on_one_line(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(one_line).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let padded = cells.map(|(cell, widest)| cell.clone() + &" ".repeat(widest - width(cell)));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use anstyle::Style;
    use common::text::{paint, shown};

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["a".into(), "bb".into()],
            vec!["ccc".into(), "d".into()],
        ];
        assert_eq!(super::align(&rows), "a    bb\nccc  d\n");
    }

    #[test]
    fn colours_do_not_widen_a_column() {
        let rows = [
            vec![paint(Style::new().bold(), "a"), "b".into()],
            vec!["cc".into(), "d".into()],
        ];
        let aligned = shown(&super::align(&rows));
        assert_eq!(aligned, "\x1b[1ma\x1b[0m   b\ncc  d\n");
    }

    #[test]
    fn a_cell_is_one_line_and_as_wide_as_it_is_shown() {
        let rows = [
            vec!["\x1b\n".into(), "b".into()],
            vec!["cc".into(), "d".into()],
        ];
        let aligned = shown(&super::align(&rows));
        assert_eq!(aligned, "\\u{1b}\\n  b\ncc        d\n");
    }
}
