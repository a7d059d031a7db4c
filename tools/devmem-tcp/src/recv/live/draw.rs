//! Drawing of a receiver's live view on a terminal, in place over the previous view. No mode of the
//! terminal is changed, so that there is nothing to restore, whatever ends the receiver.

use common::text::{cut, shown};
use devmem::Telemetry;

use super::second::Second;
use super::view::View;
use crate::style::Style;

/// Number of lines that is assumed of a terminal whose size is not known.
const HEIGHT: usize = 24;
/// Number of columns that is assumed of a terminal whose size is not known.
const WIDTH: usize = 80;

/// Terminal with a live view, and how many lines of it were drawn.
pub(super) struct Screen {
    title: String,
    style: Style,
    to_stderr: bool,
    /// Greatest number of lines to draw.
    most: usize,
    /// Number of lines drawn, up to the cursor, which is in the last of them.
    drawn: usize,
    size: (usize, usize),
}

impl Screen {
    pub(super) fn new(title: String, to_stderr: bool, most: usize) -> Self {
        let style = match to_stderr {
            true => Style::stderr(),
            false => Style::stdout(),
        };
        Self {
            title,
            style,
            to_stderr,
            most,
            drawn: 0,
            size: (0, 0),
        }
    }

    /// Returns the text and escape sequences that draw the view over the previous one.
    pub(super) fn draw(&mut self, second: &Second, telemetry: &Telemetry) -> String {
        self.draw_at(size(self.to_stderr), second, telemetry)
    }

    /// Returns the text and escape sequences that draw the view at a size of columns and rows.
    fn draw_at(&mut self, size: (usize, usize), second: &Second, telemetry: &Telemetry) -> String {
        let mut text = match self.drawn {
            // Lines may have been wrapped anew: where they begin is not known any more.
            drawn if drawn > 1 && size != self.size => "\x1b[H\x1b[2J".to_owned(),
            drawn => to_first(drawn),
        };
        self.size = size;
        let (columns, rows) = size;
        // A cursor behind the last column would begin another line.
        let columns = columns.saturating_sub(1);
        let view = View {
            title: &self.title,
            style: self.style,
            second,
            telemetry,
            columns,
            rows: self.most.min(rows.saturating_sub(1)),
        };
        let lines = view.lines();
        self.drawn = lines.len();
        let lines = lines.iter().map(|line| shown(&cut(line, columns)));
        text += &lines.collect::<Vec<_>>().join("\x1b[K\n");
        text + "\x1b[J"
    }

    /// Returns the escape sequences that erase the view from the terminal.
    pub(super) fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            drawn => to_first(drawn) + "\x1b[J",
        }
    }
}

/// Escape sequence that moves the cursor from the last of `drawn` lines to the start of the first.
fn to_first(drawn: usize) -> String {
    match drawn {
        0 => String::new(),
        1 => "\r".to_owned(),
        _ => format!("\x1b[{}A\r", drawn - 1),
    }
}

/// Columns and rows of the terminal on standard error or standard output; 80 and 24 if not known.
fn size(of_stderr: bool) -> (usize, usize) {
    let size = match of_stderr {
        true => terminal_size::terminal_size_of(std::io::stderr()),
        false => terminal_size::terminal_size_of(std::io::stdout()),
    };
    match size {
        Some((columns, rows)) if columns.0 > 0 && rows.0 > 0 => (columns.0.into(), rows.0.into()),
        _ => (WIDTH, HEIGHT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_drawn_over_itself_and_taken_off() {
        let mut screen = Screen::new("recv eth1".to_owned(), false, 1);
        assert_eq!(screen.erase(), "");
        let first = screen.draw(&Second::default(), &Telemetry::default());
        assert!(
            first.starts_with("recv eth1 ") && !first.contains('\n'),
            "{first:?}"
        );
        let next = screen.draw(&Second::default(), &Telemetry::default());
        assert_eq!(next, format!("\r{first}"));
        assert_eq!(screen.erase(), "\r\x1b[J");
        assert_eq!(screen.erase(), "");
    }

    #[test]
    fn a_narrow_terminal_gets_no_line_that_it_would_wrap() {
        let mut screen = Screen::new("recv eth1".to_owned(), false, usize::MAX);
        let drawn = screen.draw_at((20, 24), &Second::default(), &Telemetry::default());
        let lines = drawn.trim_end_matches("\x1b[J").split("\x1b[K\n");
        let lines: Vec<_> = lines.map(|line| line.chars().count()).collect();
        assert_eq!(lines.iter().max(), Some(&19), "{drawn}");
        assert!(drawn.contains('…'), "{drawn}");
    }
}
