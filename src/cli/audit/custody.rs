//! That something is handed out is recorded before it is: in the log of the gateway whose folder it is.

use std::fs;
use std::path::Path;

use super::super::Failure;
use super::super::door::send_to;
use crate::control::Command;
use crate::control::api::Request;

/// Records `command` in the log in the folder `dir`: through the admin socket of the gateway that writes it, or where none runs
/// into the log itself. A log without a config beside it, such as an export or an archive, is nobody's to write: then it is said
/// that nothing is recorded.
pub(super) fn record(dir: &Path, command: Command) -> Result<(), Failure> {
    let file = dir.join("../token-shield.toml");
    // A backup looks like a data folder, and no gateway has ever written it.
    let Some(text) = fs::read_to_string(&file).ok().filter(|_| dir.join("tmp").is_dir()) else {
        eprintln!("note: not recorded, for {} is not a gateway's own folder with its config beside it", dir.display());
        return Ok(());
    };
    let config = crate::config::read(&text, file.parent().unwrap_or(dir));
    let config = config.map_err(|faults| format!("{}:\n{faults}", file.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let reply = runtime.block_on(send_to(&config, Request::Command(command)));
    let reply = reply.map_err(|fault| format!("it could not be recorded, so nothing is handed out: {fault}"))?;
    for index in reply.sealed {
        eprintln!("recorded as #{index}");
    }
    Ok(())
}
