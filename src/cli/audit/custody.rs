//! That something is handed out is recorded before it is: in the log of the gateway whose folder it is.

use std::path::Path;

use super::super::door::send;
use super::super::{Failure, Place};
use crate::control::Command;
use crate::control::api::Request;

/// Records `command` in the log in the folder `dir`: through the admin socket of the gateway that writes it, or where none runs
/// into the log itself. A log without a config beside it, such as an export or an archive, is nobody's to write: then it is said
/// that nothing is recorded.
pub(super) fn record(dir: &Path, command: Command) -> Result<(), Failure> {
    let file = dir.join("../token-shield.toml");
    // A backup looks like a data folder, and no gateway has ever written it.
    if !file.is_file() || !dir.join("tmp").is_dir() {
        eprintln!("note: not recorded, for {} is not a gateway's own folder with its config beside it", dir.display());
        return Ok(());
    }
    let place = Place { config: Some(file), ..Place::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let reply = runtime.block_on(send(&place, Request::Command(command)));
    let reply = reply.map_err(|fault| format!("it could not be recorded, so nothing is handed out: {fault}"))?;
    for index in reply.sealed {
        eprintln!("recorded as #{index}");
    }
    Ok(())
}
