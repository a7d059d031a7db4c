//! Tables: columns two blanks apart, numbers to the right.

use common::text::{on_one_line, width};

use crate::style::Style;
use crate::wrap::wrap;

const GAP: usize = 2;
/// Least width of a last column whose text is wrapped.
const NARROWEST: usize = 20;

/// Column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    head: &'static str,
    right: bool,
    wraps: bool,
    /// Place in the order of leaving out, the greatest first; 0 for a column that always stays.
    spare: u8,
}

impl Column {
    /// Column of text, aligned to the left.
    pub(crate) const fn text(head: &'static str) -> Self {
        Self {
            head,
            right: false,
            wraps: false,
            spare: 0,
        }
    }

    /// Column of numbers, aligned to the right.
    pub(crate) const fn number(head: &'static str) -> Self {
        Self {
            right: true,
            ..Self::text(head)
        }
    }

    /// Wraps the column's text where the table is too wide. At most one column of a table does so.
    pub(crate) const fn wraps(self) -> Self {
        Self {
            wraps: true,
            ..self
        }
    }

    /// Leaves the column out where the table is too wide, after those with a greater number.
    pub(crate) const fn spare(self, order: u8) -> Self {
        Self {
            spare: order,
            ..self
        }
    }
}

/// Table as it is printed.
#[derive(Debug)]
pub(crate) struct Fitted {
    pub(crate) head: String,
    /// Lines of each row: one, unless text was wrapped.
    pub(crate) rows: Vec<Vec<String>>,
    /// Heads of the columns that were left out.
    pub(crate) left_out: Vec<&'static str>,
    /// Width of the widest line; more than was asked for if the table can't be narrower.
    pub(crate) width: usize,
}

impl Fitted {
    /// All lines, the head first.
    pub(crate) fn lines(self) -> Vec<String> {
        let rows = self.rows.into_iter().flatten();
        std::iter::once(self.head).chain(rows).collect()
    }
}

/// Lays out a table, in `columns` columns of a terminal if there is a limit. Cells may be coloured, but
/// for those that are wrapped.
pub(crate) fn fit(
    table: &[Column],
    rows: &[Vec<String>],
    columns: Option<usize>,
    style: Style,
) -> Fitted {
    let one_line = |row: &Vec<String>| row.iter().map(|cell| on_one_line(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(one_line).collect();
    let widest = |index: usize, column: &Column| {
        let cells = rows.iter().filter_map(|row| row.get(index));
        let widths = cells.map(|cell| width(cell));
        widths.max().unwrap_or(0).max(width(column.head))
    };
    let shown = table.iter().enumerate();
    let mut shown: Vec<(usize, &Column, usize)> = shown
        .map(|(index, column)| (index, column, widest(index, column)))
        .collect();
    let mut left_out = Vec::new();
    loop {
        let total = total(&shown);
        let over = columns.map_or(0, |limit| total.saturating_sub(limit));
        if over == 0 {
            break;
        }
        let last = shown.len() - 1;
        let wrapped = shown.iter().position(|(_, column, _)| column.wraps);
        let least = wrapped.map_or(0, |at| match at == last {
            true => NARROWEST,
            false => longest_word(&rows, shown[at].0),
        });
        if let Some(at) = wrapped.filter(|&at| shown[at].2 >= least + over) {
            shown[at].2 -= over;
            break;
        }
        let spare = (0..shown.len()).max_by_key(|&at| shown[at].1.spare);
        match spare.filter(|&at| shown[at].1.spare > 0) {
            Some(at) => left_out.push(shown.remove(at).1.head),
            None => {
                if let Some(at) = wrapped {
                    shown[at].2 = shown[at].2.min(least);
                }
                break;
            }
        }
    }
    let heads: Vec<_> = shown.iter().map(|(_, it, _)| style.bold(it.head)).collect();
    let cells = |row: &Vec<String>| {
        let cell = |&(index, column, wide): &(usize, &Column, usize)| {
            let cell = row.get(index).map_or("", String::as_str);
            match column.wraps {
                true => wrap(cell, wide, 0),
                false => vec![cell.to_owned()],
            }
        };
        let cells: Vec<_> = shown.iter().map(cell).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        let nth = |n: usize| -> Vec<String> {
            let nth = cells.iter().map(|lines| lines.get(n).cloned());
            nth.map(Option::unwrap_or_default).collect()
        };
        (0..height).map(|n| line(&shown, &nth(n))).collect()
    };
    Fitted {
        head: line(&shown, &heads),
        rows: rows.iter().map(cells).collect(),
        width: total(&shown),
        left_out,
    }
}

fn total(shown: &[(usize, &Column, usize)]) -> usize {
    let widths: usize = shown.iter().map(|(_, _, wide)| wide).sum();
    widths + GAP * shown.len().saturating_sub(1)
}

fn longest_word(rows: &[Vec<String>], index: usize) -> usize {
    let cells = rows.iter().filter_map(|row| row.get(index));
    let words = cells.flat_map(|cell| cell.split(' '));
    words.map(width).max().unwrap_or(0)
}

fn line(shown: &[(usize, &Column, usize)], cells: &[String]) -> String {
    let pad = |(&(_, column, wide), cell): (&(usize, &Column, usize), &String)| {
        let blanks = " ".repeat(wide.saturating_sub(width(cell)));
        match column.right {
            true => blanks + cell,
            false => cell.clone() + &blanks,
        }
    };
    let cells: Vec<_> = shown.iter().zip(cells).map(pad).collect();
    cells.join(&" ".repeat(GAP)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use anstyle::Style as Colour;
    use common::text::{paint, shown};

    use super::*;

    const TWO: [Column; 2] = [Column::text("a"), Column::number("bytes")];
    const SPARE: [Column; 3] = [
        Column::text("peer"),
        Column::number("frags").spare(2),
        Column::number("queue").spare(1),
    ];

    fn rows(cells: &[&[&str]]) -> Vec<Vec<String>> {
        let row = |row: &&[&str]| row.iter().map(|cell| (*cell).to_owned()).collect();
        cells.iter().map(row).collect()
    }

    fn fitted(table: &[Column], cells: &[&[&str]], columns: Option<usize>) -> String {
        fit(table, &rows(cells), columns, Style::OFF)
            .lines()
            .join("\n")
    }

    #[test]
    fn numbers_are_to_the_right() {
        let cells: &[&[&str]] = &[&["x", "1"], &["ccc", "1000000"]];
        let text = "a      bytes\nx          1\nccc  1000000";
        assert_eq!(fitted(&TWO, cells, None), text);
    }

    #[test]
    fn colours_do_not_widen_a_column() {
        let cells = [
            vec![paint(Colour::new().bold(), "a"), "2".into()],
            vec!["cc".into(), "10".into()],
        ];
        let table = [Column::text(""), Column::number("")];
        let lines = fit(&table, &cells, None, Style::OFF).lines();
        let aligned = shown(&lines.join("\n"));
        assert_eq!(aligned, "\n\x1b[1ma\x1b[0m    2\ncc  10");
    }

    #[test]
    fn a_cell_is_one_line_and_as_wide_as_it_is_shown() {
        let cells: &[&[&str]] = &[&["\x1b\n", "1"], &["\u{7db2}c", "2"]];
        let aligned = shown(&fitted(&TWO, cells, None));
        let text = "a         bytes\n\\u{1b}\\n      1\n\u{7db2}c           2";
        assert_eq!(aligned, text);
    }

    #[test]
    fn columns_are_left_out_in_their_order() {
        let cells: &[&[&str]] = &[&["192.0.2.1", "7", "3"]];
        let at = |columns| fit(&SPARE, &rows(cells), Some(columns), Style::OFF);
        assert_eq!(at(23).left_out, [""; 0]);
        assert_eq!(at(22).left_out, ["frags"]);
        assert_eq!(at(15).left_out, ["frags", "queue"]);
        // Not narrower than what must stay.
        let narrowest = at(1);
        assert_eq!((narrowest.left_out.len(), narrowest.width), (2, 9));
        assert_eq!(narrowest.lines(), ["peer", "192.0.2.1"]);
    }

    #[test]
    fn a_last_column_goes_on_below_itself() {
        let table = [Column::text("id"), Column::text("found").wraps()];
        let cells: &[&[&str]] = &[&["nic", "one two three four five six"]];
        let text = "id   found\nnic  one two three four\n     five six";
        assert_eq!(fitted(&table, cells, Some(25)), text);
        assert_eq!(fitted(&table, cells, None).lines().count(), 2);
        // No narrower than can be read.
        assert_eq!(fitted(&table, cells, Some(3)), text);
    }

    #[test]
    fn a_column_in_the_middle_keeps_its_words() {
        let table = [Column::text("lease").wraps(), Column::number("dmabuf")];
        let cells: &[&[&str]] = &[&["to box/nk0 rx 1", "7"]];
        let text = "lease    dmabuf\nto            7\nbox/nk0\nrx 1";
        assert_eq!(fitted(&table, cells, Some(15)), text);
    }
}
