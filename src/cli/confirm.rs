//! The confirmation of commands that cannot be undone.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;

use super::fault::CliFault;

/// For commands that cannot be undone.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Sure {
    /// Do not ask for confirmation. Required if there is no terminal.
    #[arg(long)]
    yes: bool,
}

impl Sure {
    /// The extra arguments with which another process of this command does not ask again.
    pub(super) const fn words(self) -> &'static [&'static str] {
        if self.yes { &[] } else { &["--yes"] }
    }

    /// Asks on a terminal for confirmation of `what`.
    ///
    /// # Errors
    /// If the answer is not yes. Without a terminal and without `--yes`, a fault of usage.
    pub(super) fn ask(self, what: &str) -> Result<(), CliFault> {
        if self.yes {
            return Ok(());
        }
        // A script has no terminal. It must not hang on a question, and must confirm in writing.
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(CliFault::usage(format!(
                "{what}: this cannot be undone; confirm it with --yes"
            )));
        }
        eprint!("{what}: this cannot be undone. Continue? [y/N] ");
        match read_answer() {
            // Every other answer, also an empty one, is a no.
            Ok(answer) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
            Ok(_) | Err(_) => Err(CliFault::failed("not-confirmed", "no change was made")),
        }
    }
}

/// Reads one line from the terminal, after the question is visible.
fn read_answer() -> std::io::Result<String> {
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer)
}
