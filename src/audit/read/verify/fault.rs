//! The defect that a verification has found, with its location.

use std::path::{Path, PathBuf};

use crate::audit::read::tiles::{TileFault, epoch_number};
use crate::durable;

/// A defect, with the first changed record where it can be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}{what}")]
pub struct VerifyFault {
    /// The location.
    at: FaultLocation,
    /// The defect.
    what: String,
}

/// The location of a defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FaultLocation {
    epoch: Option<String>,
    index: Option<u64>,
    path: Option<PathBuf>,
}

impl FaultLocation {
    /// A defect of the log as a whole.
    pub(super) const fn log() -> Self {
        Self { epoch: None, index: None, path: None }
    }

    /// A defect of an epoch.
    pub(super) fn epoch(epoch: &str) -> Self {
        Self { epoch: Some(epoch.to_owned()), ..Self::log() }
    }

    /// A defect of a record.
    pub(super) fn record(epoch: &str, index: u64) -> Self {
        Self { index: Some(index), ..Self::epoch(epoch) }
    }

    /// A defect of a file. The epoch is taken from its path.
    pub(super) fn file(path: &Path) -> Self {
        let mut epoch = None;
        for part in path.components() {
            if let Some(name) = part.as_os_str().to_str()
                && epoch_number(name).is_some()
            {
                epoch = Some(name.to_owned());
            }
        }
        Self { epoch, path: Some(path.to_owned()), index: None }
    }
}

impl std::fmt::Display for FaultLocation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_none()
            && let Some(epoch) = &self.epoch
        {
            write!(out, "{epoch}: ")?;
        }
        if let Some(index) = self.index {
            write!(out, "record {index}: ")?;
        }
        if let Some(path) = &self.path {
            write!(out, "{}: ", path.display())?;
        }
        Ok(())
    }
}

impl VerifyFault {
    /// A defect with its location.
    pub(super) fn of(at: FaultLocation, what: impl std::fmt::Display) -> Self {
        Self { at, what: what.to_string() }
    }

    /// The index of the first bad record.
    #[must_use]
    pub const fn index(&self) -> Option<u64> {
        self.at.index
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Option<&str> {
        self.at.epoch.as_deref()
    }
}

impl From<durable::DiskFault> for VerifyFault {
    fn from(fault: durable::DiskFault) -> Self {
        Self::of(FaultLocation::log(), fault)
    }
}

impl From<TileFault> for VerifyFault {
    fn from(fault: TileFault) -> Self {
        Self::of(FaultLocation::log(), fault)
    }
}
