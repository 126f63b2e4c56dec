//! The audit log: nothing acknowledged is lost, nothing changed goes unnoticed, whatever the disk does.

mod crash;
mod epochs;
mod format;
mod gate;
mod log;
mod missing;

pub(crate) use gate::Gate;
pub(crate) use log::copy_folder;
