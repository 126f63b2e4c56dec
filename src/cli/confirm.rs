//! What cannot be taken back is asked for once more.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;

use super::fault::Fault;

/// For commands whose effect cannot be taken back.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Sure {
    /// Do not ask; needed where nobody can be asked.
    #[arg(long)]
    yes: bool,
}

impl Sure {
    /// What tells another process of this command that it was asked, where the command line does not.
    pub(super) const fn words(self) -> &'static [&'static str] {
        if self.yes { &[] } else { &["--yes"] }
    }

    /// Asks on a terminal whether `what` shall be done.
    ///
    /// # Errors
    /// When the answer is not yes; and, as a fault of usage, where there is no terminal and no `--yes`.
    pub(super) fn ask(self, what: &str) -> Result<(), Fault> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(Fault::usage(format!("{what}: this cannot be taken back; say --yes to mean it")));
        }
        eprint!("{what}: this cannot be taken back. Go on? [y/N] ");
        let mut answer = String::new();
        let read = std::io::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut answer));
        match (read, answer.trim()) {
            (Ok(_), "y" | "Y" | "yes") => Ok(()),
            _ => Err(Fault::failed("not-confirmed", "nothing was done")),
        }
    }
}
