//! `token-shield upgrade`: makes the running gateway start its successor.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::fault::{CliFault, REFUSED};
use super::target::Addresses;
use super::{Failure, GatewayArgs};
use crate::app::handover::{Upgraded, Word, receive, send, socket};
use crate::control::socket::connect_at_once;

/// The time limit for a successor to read its config and to take over.
const DONE_MAX: Duration = Duration::from_secs(150);

#[derive(Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    place: GatewayArgs,
}

impl Upgrade {
    /// Asks the running gateway to start its successor, and waits for the result.
    ///
    /// # Errors
    /// If no gateway runs, or it refuses. It then continues to serve.
    pub(super) fn run(&self) -> Result<(), Failure> {
        // The successor reads the config and reports its faults.
        let target = self.place.find()?;
        let data = target.data_folder()?;
        let path = socket(&data);
        // The former process serves until its successor is ready, so an error here changes no
        // state.
        let stream = connect_at_once(&path).map_err(|error| unreached(&path, &error))?;
        stream.set_read_timeout(Some(DONE_MAX))?;
        let answer = send(&stream, &Word::Upgrade, &[]).and_then(|()| receive(&stream));
        let (word, _) = answer.map_err(|error| {
            CliFault::failed("no-answer", format!("{}: {error}", path.display()))
        })?;
        match word {
            Word::Done(Upgraded { pid, version }) => {
                let what = format!(
                    "process {pid}, version {version}, serves; the former process finishes its \
                        streams"
                );
                if self.place.json {
                    let name = match Addresses::read(&target.config) {
                        Ok(addresses) => addresses.name,
                        Err(_) => None,
                    };
                    let gateway = serde_json::json!({ "name": name, "data": data, "pid": pid });
                    let none: [u64; 0] = [];
                    println!(
                        "{}",
                        serde_json::json!({
                            "done": what, "pid": pid, "version": version, "sealed": none,
                            "gateway": gateway, "note": null,
                        })
                    );
                } else {
                    eprintln!("{what}, at {}", data.display());
                }
                Ok(())
            }
            Word::Refused(why) => {
                let message = format!("{why}; the running gateway continues to serve");
                Err(CliFault { exit: REFUSED, code: "upgrade", message }.into())
            }
            Word::Upgrade
            | Word::TakeOver(_)
            | Word::Passed(_)
            | Word::Ready
            | Word::Failed(_)
            | Word::Go => Err("the running gateway sent an unexpected answer".into()),
        }
    }
}

/// The error if the socket of take-overs cannot be reached.
fn unreached(path: &Path, error: &io::Error) -> CliFault {
    let shown = path.display();
    if error.kind() == ErrorKind::PermissionDenied {
        return CliFault::failed(
            "not-owner",
            format!("{shown}: {error}; run this as the gateway's user, or as root"),
        );
    }
    let hint = "no gateway that can be upgraded runs there: token-shield serve starts one, but dev \
        does not";
    CliFault::failed("not-running", format!("{shown}: {error}; {hint}"))
}
