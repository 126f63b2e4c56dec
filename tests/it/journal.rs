//! The audit log. No acknowledged record is lost, and every change is detected, also on a faulty
//! disk.

mod crash;
mod data;
mod epochs;
mod format;
mod gate;
mod log;
mod missing;

pub(crate) use data::copy_folder;
pub(crate) use gate::Gate;
