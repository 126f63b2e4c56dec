//! That something is handed out is recorded before it is: in the log of the gateway whose folder it is.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::door::send;
use super::super::place::LogPlace;
use super::super::{Failure, Place};
use crate::control::Command;
use crate::control::api::Request;

/// Records `command` in the log in the folder `dir`, which `log` names: through the admin socket of the gateway that writes it, or
/// where none runs into the log itself. Gives the record's index. A log that is no gateway's own, such as an export, a backup or an
/// archive, is nobody's to write: then it is said that nothing is recorded.
///
/// # Errors
/// When a gateway's own log cannot be written, so that nothing may be handed out.
pub(super) fn record((log, dir): (&LogPlace, &Path), command: Command) -> Result<Option<u64>, Failure> {
    // A backup looks like a data folder, and no gateway has ever written it.
    let written = dir.join("tmp").is_dir();
    let Some(place) = log.place().or_else(|| gateway_of(dir)).filter(|_| written) else {
        eprintln!(
            "note: not recorded, for {} is not the log of a gateway whose config is beside it, named or found",
            dir.display()
        );
        return Ok(None);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let reply = runtime.block_on(send(&place, Request::Command(command)));
    let reply = reply.map_err(|fault| format!("it could not be recorded, so nothing is handed out: {fault}"))?;
    for index in &reply.sealed {
        eprintln!("recorded as #{index}");
    }
    Ok(reply.sealed.first().copied())
}

/// The gateway whose log is in the folder `dir`, which was named by itself: that of the config beside it, else the one that the
/// environment names or that is found, where that log is its own.
fn gateway_of(dir: &Path) -> Option<Place> {
    let file = dir.join("../token-shield.toml");
    if file.is_file() {
        return Some(Place { config: Some(file), ..Place::default() });
    }
    let place = Place::default();
    let folder: PathBuf = place.find().ok()?.data_folder().ok()?.join("audit");
    let same = fs::canonicalize(folder).ok()? == fs::canonicalize(dir).ok()?;
    same.then_some(place)
}
