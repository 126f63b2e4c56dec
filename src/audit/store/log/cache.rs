//! A cache of the records that the state is folded from, so that a start need not read the whole
//! log. The same transaction stores how much of the log it covers. The cache has the log's own
//! bytes, with their ciphertext.

use std::path::{Path, PathBuf};

use redb::{
    Database, Durability, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase as _,
    ReadableTable as _, TableDefinition, Value,
};

use crate::audit::format::envelope::Envelope;
use crate::audit::format::note::Checkpoint;
use crate::merkle::Hash;

/// Epoch and index → the record.
const CONTROLS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("controls");
/// One row: epoch, size, root.
const STAMP: TableDefinition<'_, (), (u32, u64, [u8; 32])> = TableDefinition::new("stamp");
/// One row: the format of the other tables. Without this row, the format is 1.
const FORMAT: TableDefinition<'_, (), u32> = TableDefinition::new("format");
/// The format that this version reads and writes.
const FORMAT_NOW: u32 = 1;
/// The cache is synced after this many records. After a crash, a start reads at most these from the
/// log again.
const SETTLE_AFTER: u64 = 16_384;

/// How much of the log a cache covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheStamp {
    pub(super) epoch: u32,
    pub(super) size: u64,
    pub(super) root: Hash,
}

/// The cache. The log has all its records, so the gateway continues without a cache that fails.
pub(super) struct Cache {
    path: PathBuf,
    database: Database,
    unsettled: u64,
    stamp: Option<CacheStamp>,
    /// Whether an addition failed. Later records are not added: the stamp would claim that the
    /// cache has no gap.
    behind: bool,
}

/// The result of a database operation.
type Fallible<T> = Result<T, redb::Error>;

/// Whether the state is folded from that record, so that the cache has it. False where the record
/// cannot be read.
pub(super) fn is_control(record: &[u8]) -> bool {
    Envelope::read(record).is_ok_and(|envelope| !envelope.is_transient())
}

/// Opens a table for reads; `None` where the database does not have it.
fn table_of<K: Key + 'static, V: Value + 'static>(
    read: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
) -> Fallible<Option<ReadOnlyTable<K, V>>> {
    match read.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The format of the database.
fn format_of(database: &Database) -> Fallible<u32> {
    let read = database.begin_read()?;
    // A new database has no tables. So has one from before this table existed, which is of format
    // 1.
    let Some(table) = table_of(&read, FORMAT)? else { return Ok(FORMAT_NOW) };
    let Some(row) = table.get(())? else { return Ok(FORMAT_NOW) };
    Ok(row.value())
}

/// Opens or creates the database, where it has this version's format.
fn readable(path: &Path) -> Result<Database, String> {
    let database = Database::create(path).map_err(|error| error.to_string())?;
    match format_of(&database) {
        Ok(FORMAT_NOW) => Ok(database),
        Ok(other) => Err(format!("it is of format {other}, and this version reads {FORMAT_NOW}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Opens the database. One that cannot be read is deleted and created again, unless it is `kept`.
fn readable_or_new(path: &Path, kept: bool) -> Result<Database, String> {
    match readable(path) {
        // The cache may have the only copy of pruned records, so the file is not deleted.
        Err(error) if !kept => {
            tracing::warn!(%error, path = %path.display(), "the cache of the log cannot be read \
                and is made anew");
            let _ = std::fs::remove_file(path);
            readable(path)
        }
        opened => opened,
    }
}

impl Cache {
    /// Opens the cache, or creates it again where it cannot be read. `None` where both fail, and
    /// where an unreadable cache must be `kept` because it has records that exist nowhere else.
    pub(super) fn open(path: &Path, kept: bool) -> Option<Self> {
        let database = match readable_or_new(path, kept) {
            Ok(database) => database,
            Err(error) => {
                tracing::warn!(%error, "the gateway continues without a cache of its log");
                return None;
            }
        };
        let mut cache =
            Self { path: path.to_owned(), database, unsettled: 0, stamp: None, behind: false };
        cache.stamp = cache.read_stamp().ok().flatten();
        Some(cache)
    }

    /// Opens the cache where its file exists. An unreadable one stays as it is. `None` where there
    /// is no readable cache.
    pub(super) fn existing(path: &Path) -> Option<Self> {
        if path.exists() { Self::open(path, true) } else { None }
    }

    /// The part of the log that the cache covers; `None` for an empty cache.
    pub(super) const fn stamp(&self) -> Option<CacheStamp> {
        self.stamp
    }

    /// Reads the stamp from the database.
    fn read_stamp(&self) -> Fallible<Option<CacheStamp>> {
        let read = self.database.begin_read()?;
        let Some(table) = table_of(&read, STAMP)? else { return Ok(None) };
        let Some(row) = table.get(())? else { return Ok(None) };
        let (epoch, size, root) = row.value();
        Ok(Some(CacheStamp { epoch, size, root }))
    }

    /// Passes every record to `each`, in the log's order. The outer error is the database's, the
    /// inner one is `each`'s.
    pub(super) fn controls<E>(
        &self,
        mut each: impl FnMut(u32, u64, &[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, redb::Error> {
        let read = self.database.begin_read()?;
        let Some(table) = table_of(&read, CONTROLS)? else { return Ok(Ok(())) };
        for row in table.iter()? {
            let (key, record) = row?;
            let (epoch, index) = key.value();
            if let Err(fault) = each(epoch, index, record.value()) {
                return Ok(Err(fault));
            }
        }
        Ok(Ok(()))
    }

    /// Adds records of that epoch, and updates the stamp. A write that fails is logged, and ends
    /// all later additions.
    pub(super) fn add<R: AsRef<[u8]>>(
        &mut self,
        epoch: u32,
        records: impl IntoIterator<Item = (u64, R)>,
        at: &Checkpoint,
    ) {
        if self.behind {
            return;
        }
        // In a new epoch all records up to the checkpoint count as new.
        let before = match self.stamp {
            Some(stamp) if stamp.epoch == epoch => stamp.size,
            Some(_) | None => 0,
        };
        self.unsettled += at.size.saturating_sub(before);
        let stamp = CacheStamp { epoch, size: at.size, root: at.root };
        // The cache can be rebuilt from the log, so most commits need no sync.
        let settle = self.unsettled >= SETTLE_AFTER;
        match self.commit(epoch, records.into_iter(), Some(stamp), settle) {
            Ok(()) => {
                self.stamp = Some(stamp);
                self.unsettled = if settle { 0 } else { self.unsettled };
            }
            Err(error) => {
                self.behind = true;
                tracing::warn!(%error, path = %self.path.display(), "the cache of the log was not \
                    written");
            }
        }
    }

    /// One transaction: the records, the format and the stamp. Durable only with `settle`.
    fn commit<R: AsRef<[u8]>>(
        &self,
        epoch: u32,
        records: impl Iterator<Item = (u64, R)>,
        stamp: Option<CacheStamp>,
        settle: bool,
    ) -> Fallible<()> {
        let mut write = self.database.begin_write()?;
        write.set_durability(if settle { Durability::Immediate } else { Durability::None })?;
        {
            let mut table = write.open_table(CONTROLS)?;
            for (index, record) in records {
                table.insert((epoch, index), record.as_ref())?;
            }
            write.open_table(FORMAT)?.insert((), FORMAT_NOW)?;
            let mut table = write.open_table(STAMP)?;
            // The stamp is in the same transaction as the records: it never covers a record that is
            // missing.
            if let Some(CacheStamp { epoch, size, root }) = stamp {
                table.insert((), (epoch, size, root))?;
            }
        }
        Ok(write.commit()?)
    }

    /// Makes all additions durable.
    pub(super) fn settle(&mut self) {
        // An empty transaction with immediate durability also makes the earlier ones durable.
        let none = std::iter::empty::<(u64, &[u8])>();
        if self.unsettled > 0 && self.commit(0, none, None, true).is_ok() {
            self.unsettled = 0;
        }
    }

    /// Deletes all records and the stamp.
    pub(super) fn clear(&mut self) {
        if let Err(error) = self.delete_tables() {
            tracing::warn!(%error, path = %self.path.display(), "the cache of the log was not \
                cleared");
        }
        self.stamp = None;
    }

    /// One transaction that deletes the records and the stamp.
    fn delete_tables(&self) -> Fallible<()> {
        let write = self.database.begin_write()?;
        write.delete_table(CONTROLS)?;
        write.delete_table(STAMP)?;
        Ok(write.commit()?)
    }
}
