//! Records an export or a disclosure before it is made, in the log of the gateway that the folder
//! belongs to.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::admin_client::send;
use super::super::target::LogArgs;
use super::super::{Failure, GatewayArgs};
use crate::control::Command;
use crate::control::api::AdminRequest;

/// Records `command` in the log in the folder `dir`, which `log` names. It uses the admin socket if
/// the gateway runs, and writes the log itself otherwise. Returns the record's index. Exports,
/// backups and archives belong to no gateway, and get no record. A note then reports this.
///
/// # Errors
/// If a gateway's own log cannot be written. Then no data may be handed out.
pub(super) fn record(log: &LogArgs, dir: &Path, command: Command) -> Result<Option<u64>, Failure> {
    // The order is a rule of custody: first the record, then the data.
    let Some(place) = place_of(log, dir) else {
        eprintln!(
            "note: not recorded, because {} is not the log of a gateway whose config is beside it, \
                named or found",
            dir.display()
        );
        return Ok(None);
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let reply = runtime.block_on(send(&place, AdminRequest::Command(command)));
    let reply = reply
        .map_err(|fault| format!("it could not be recorded, so no data is handed out: {fault}"))?;
    for index in &reply.sealed {
        eprintln!("recorded as #{index}");
    }
    Ok(reply.sealed.first().copied())
}

/// The gateway that writes the log in the folder `dir`. `None` for a log that belongs to none.
fn place_of(log: &LogArgs, dir: &Path) -> Option<GatewayArgs> {
    // A backup has the form of a data folder, but no gateway has written to it.
    if !dir.join("tmp").is_dir() {
        return None;
    }
    log.place().or_else(|| gateway_of(dir))
}

/// The gateway that owns the log in the folder `dir`, which was named without a gateway. A config
/// in the parent folder decides. Without one, the gateway of the environment or of the search
/// counts, if it has this log.
fn gateway_of(dir: &Path) -> Option<GatewayArgs> {
    let file = dir.join("../token-shield.toml");
    if file.is_file() {
        return Some(GatewayArgs { config: Some(file), ..GatewayArgs::default() });
    }
    let place = GatewayArgs::default();
    let folder: PathBuf = place.find().ok()?.data_folder().ok()?.join("audit");
    // The record must go into the log that the data comes from, and into no other.
    let same = fs::canonicalize(folder).ok()? == fs::canonicalize(dir).ok()?;
    same.then_some(place)
}
