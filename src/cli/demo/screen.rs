//! Puts lines on stdout: on a terminal over those of the last time, elsewhere one after the other.

use std::io::{self, IsTerminal, Write};

use super::table::cut;

/// The width that is assumed where there is no terminal, or it does not tell.
const WIDTH: usize = 100;

/// The height likewise.
const HEIGHT: usize = 40;

/// Where the demonstration is shown.
#[derive(Debug)]
pub struct Screen {
    is_terminal: bool,
    drawn: usize,
}

impl Screen {
    /// On this process's stdout.
    #[must_use]
    pub fn stdout() -> Screen {
        // A terminal that can not move its cursor says so by this name.
        let is_dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        Screen { is_terminal: io::stdout().is_terminal() && !is_dumb, drawn: 0 }
    }

    /// Whether lines can be drawn over.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Columns and rows.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let size = self.is_terminal.then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten();
        match size {
            Some(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (WIDTH, HEIGHT),
        }
    }

    /// Draws over what was drawn last. What does not fit is left out: a line that has scrolled away can not be drawn over.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let (width, height) = self.size();
        let fitting = &lines[..lines.len().min(height.saturating_sub(1))];
        let text = frame(fitting, self.drawn, width);
        self.drawn = fitting.len();
        put(&text)
    }

    /// Writes lines that stay.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn say(&mut self, lines: &[String]) -> io::Result<()> {
        self.drawn = 0;
        let mut text = lines.join("\n");
        text.push('\n');
        put(&text)
    }
}

/// Cursor up to the first old line, each new line followed by "erase to the end of it", then "erase all below" (ECMA-48
/// CUU, EL and ED).
fn frame(lines: &[String], above: usize, width: usize) -> String {
    let mut text = if above > 0 { format!("\x1b[{above}A") } else { String::new() };
    for line in lines {
        text.push_str(&cut(line, width));
        text.push_str("\x1b[K\n");
    }
    text.push_str("\x1b[J");
    text
}

fn put(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_covers_the_one_before_it() {
        let lines = ["one".to_owned(), "a longer line".to_owned()];
        assert_eq!(frame(&lines, 3, 8), "\x1b[3Aone\x1b[K\na longer\x1b[K\n\x1b[J");
        assert!(frame(&lines, 0, 80).starts_with("one"));
    }
}
