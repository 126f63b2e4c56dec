//! The machine's disk with a gate that delays syncs, or makes them fail.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use token_shield::durable::{Disk, SystemDisk};

/// The machine's disk with a gate that delays syncs, or makes them fail.
#[derive(Default)]
pub(crate) struct Gate {
    shut: Mutex<bool>,
    moved: Condvar,
    waiting: AtomicUsize,
    pub(super) fail_syncs: AtomicBool,
    pub(super) full: AtomicBool,
}

impl Gate {
    pub(crate) fn shut(&self) {
        *self.shut.lock().expect("lock") = true;
    }

    pub(crate) fn open(&self) {
        *self.shut.lock().expect("lock") = false;
        self.moved.notify_all();
    }

    pub(super) fn waits(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

impl Disk for Gate {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) && file.metadata()?.len() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        SystemDisk.write(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.moved.wait_while(self.shut.lock().expect("lock"), |shut| *shut).expect("lock"));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.fail_syncs.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected"));
        }
        SystemDisk.sync(file)
    }
}
