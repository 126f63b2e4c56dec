//! Locks, and waits on condition variables, that continue after a panic of another thread.
//!
//! No code that can panic runs under the locks of this folder, so the data is consistent then.

use std::sync::{Condvar, MutexGuard};
use std::time::Duration;

pub(super) use crate::lock::locked;

/// Waits for one notification of `wake`, or until `at_most` has passed. May return early without
/// either, so the caller checks its condition again.
pub(super) fn wait<'a, T>(
    wake: &Condvar,
    guard: MutexGuard<'a, T>,
    at_most: Option<Duration>,
) -> MutexGuard<'a, T> {
    match at_most {
        Some(at_most) => match wake.wait_timeout(guard, at_most) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        },
        None => match wake.wait(guard) {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        },
    }
}

/// Waits on `wake` as long as `condition` is true.
pub(super) fn wait_while<'a, T>(
    wake: &Condvar,
    guard: MutexGuard<'a, T>,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    match wake.wait_while(guard, condition) {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Waits on `wake` as long as `condition` is true, and until `at_most` has passed.
pub(super) fn wait_at_most<'a, T>(
    wake: &Condvar,
    guard: MutexGuard<'a, T>,
    at_most: Duration,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    match wake.wait_timeout_while(guard, at_most, condition) {
        Ok((guard, _)) => guard,
        Err(poisoned) => poisoned.into_inner().0,
    }
}
