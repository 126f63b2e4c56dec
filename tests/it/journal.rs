//! The audit log: nothing acknowledged is lost, nothing changed goes unnoticed, whatever the disk does.

mod crash;
mod data;
mod epochs;
mod format;
mod gate;
mod log;
mod missing;

pub(crate) use data::copy_folder;
pub(crate) use gate::Gate;
