//! `audit begin`, `forget` and `bench`: commands that need the gateway or its data folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::net::UnixStream;

use super::super::admin_client::send;
use super::super::as_owner::own_name;
use super::super::confirm::Sure;
use super::super::owner::done_by_owner;
use super::super::print::{done, resting, say_done};
use super::super::rows::{first, text};
use super::super::{Failure, GatewayArgs};
use crate::app::GatewayState;
use crate::audit::format::event::Event;
use crate::audit::store::log::{Log, LogSettings, NewEpoch};
use crate::clock::{Clock as _, SystemClock};
use crate::control::api::AdminRequest;
use crate::control::{Command, Reply};
use crate::durable::{Disk as _, SystemDisk};

#[derive(Subcommand)]
pub(in crate::cli) enum LogCommand {
    /// Destroy a principal's record key. Its records cannot be read any more, and the log still
    /// verifies.
    #[command(
        after_help = "Example: token-shield audit forget user:ada --revoke --reason \"a request \
            under Article 17\""
    )]
    Forget(Forget),
    /// Close the log's epoch and begin the next one, also after a loss of records. The gateway may
    /// run.
    #[command(after_help = "Example: token-shield audit begin --reason \"quarterly export\"")]
    Begin(Begin),
    /// Prune the records of old epochs. Their checkpoints stay, and the log still verifies. No
    /// gateway may run.
    #[command(after_help = "Example: token-shield audit prune --keep 400d --to \
            /mnt/archive/audit \\\n             \
        --reason \"end of the retention period\"")]
    Prune(super::prune::Prune),
    /// Measure how fast records become durable in a folder.
    #[command(after_help = "Example: token-shield audit bench /var/lib/token-shield")]
    Bench(Bench),
}

impl LogCommand {
    /// Executes the command.
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Forget(forget) => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(forget.run()),
            Self::Begin(begin) => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(begin.run()),
            Self::Prune(prune) => prune.run(),
            Self::Bench(bench) => bench.run(),
        }
    }
}

#[derive(Args)]
pub(in crate::cli) struct Begin {
    /// The reason, for the new epoch's first record.
    #[arg(long)]
    reason: String,
    /// Records are lost, and the new epoch records the loss. No gateway may run.
    #[arg(long)]
    after_loss: bool,
    #[command(flatten)]
    place: GatewayArgs,
}

#[derive(Args)]
pub(in crate::cli) struct Forget {
    /// The principal (a token's sub).
    principal: String,
    /// Revoke its agents, tokens and handles first. Without it, the command is refused if any of
    /// them can still act.
    #[arg(long)]
    revoke: bool,
    /// The reason, for the record.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    place: GatewayArgs,
}

#[derive(Args)]
pub(in crate::cli) struct Bench {
    /// A folder on the disk for the log.
    dir: PathBuf,
    /// How many threads wait for a record at once.
    #[arg(long, default_value_t = 64)]
    waiters: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Commands about the clock.
#[derive(Subcommand)]
pub(in crate::cli) enum ClockCommand {
    /// Accept the current time after the clock stepped back. The log's times never go back.
    #[command(after_help = "Example: token-shield clock accept")]
    Accept(GatewayArgs),
}

impl ClockCommand {
    /// Executes the command.
    pub(in crate::cli) async fn run(self) -> Result<(), Failure> {
        let Self::Accept(place) = self;
        let reply = send(&place, AdminRequest::Command(Command::ClockAccept)).await?;
        say_done("accepted the current time", json!({}), &reply, place.json);
        Ok(())
    }
}

impl Begin {
    /// Begins the next epoch: through the running gateway, or in its data folder.
    ///
    /// # Errors
    /// If a gateway runs and records were lost, or the log cannot be opened.
    async fn run(self) -> Result<(), Failure> {
        let mut config = self.place.read()?;
        // A running gateway has the lock, so it must begin the epoch itself.
        if UnixStream::connect(&config.proxy.admin).await.is_ok() {
            if self.after_loss {
                return Err(
                    "a gateway writes this log, so no record of it is lost: stop the gateway \
                        first, or omit --after-loss"
                        .into(),
                );
            }
            let reply = send(
                &self.place,
                AdminRequest::Command(Command::EpochBegin { reason: self.reason.clone() }),
            )
            .await?;
            let row = first(&reply);
            self.say(text(&row, "origin").unwrap_or_default(), &reply);
            return Ok(());
        }
        // Root's files in the data folder would lock out the owner.
        if done_by_owner(&config.audit, &[])? {
            return Ok(());
        }
        config.audit.begin = Some(NewEpoch {
            reason: self.reason.clone(),
            by: Some(own_name()),
            after_loss: self.after_loss,
        });
        let state = GatewayState::open(&config)?;
        let origin = state.log.origin();
        state.log.close()?;
        // The first record of an epoch contains the reason.
        self.say(&origin, &Reply { sealed: vec![0], ..resting(&config) });
        Ok(())
    }

    /// Prints the begin of the epoch.
    fn say(&self, origin: &str, reply: &Reply) {
        let what = format!("{origin} begins");
        if self.place.json {
            println!("{}", done(&what, json!({ "origin": origin }), reply));
        } else {
            println!("{what}");
        }
    }
}

impl Forget {
    /// Destroys the record key of a principal after a confirmation.
    async fn run(self) -> Result<(), Failure> {
        // The destruction is final, so the command asks for confirmation first.
        self.sure.ask(&format!("this destroys the record key of {}", self.principal))?;
        let members = json!({ "principal": self.principal });
        let command = Command::PrincipalForget {
            principal: self.principal,
            revoke: self.revoke,
            reason: self.reason,
        };
        let reply = send(&self.place, AdminRequest::Command(command)).await?;
        say_done(
            "destroyed its record key; also destroy the copies in backups",
            members,
            &reply,
            self.place.json,
        );
        Ok(())
    }
}

/// The median of the times. Zero for an empty list.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Appends records of the thread `number` until a time of the clock, or until an append fails.
/// Returns their number.
fn append_until(log: &Log, number: usize, clock: SystemClock, until: Duration) -> u64 {
    let mut count = 0;
    while clock.monotonic() < until {
        // The payload has the size of a typical record, and differs for each thread.
        let policy = format!("{number:0>8}{}", "x".repeat(240));
        if log.append_blocking(Event::Reload { policy }, None).is_err() {
            break;
        }
        count += 1;
    }
    count
}

impl Bench {
    /// Measures in a new folder, and removes it afterwards.
    fn run(self) -> Result<(), Failure> {
        // The folder's name has the process id, so two runs do not share files.
        let folder = self.dir.join(format!("token-shield-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let measured = self.measure(&folder);
        // Also after a failed measurement.
        std::fs::remove_dir_all(&folder)?;
        let (sync, records, seconds) = measured?;
        let (rate, bound) = (records as f64 / seconds, self.waiters as f64 / sync.as_secs_f64());
        if self.json {
            let row = serde_json::json!({
                "fdatasync_us": sync.as_micros() as u64, "waiters": self.waiters,
                "records": records, "records_per_second": rate as u64,
                "efficiency": rate / bound,
            });
            println!("{row}");
        } else {
            println!("fdatasync  {sync:?} (median)");
            println!(
                "records    {rate:.0} durable a second with {} waiting: {:.2} of waiters / \
                    fdatasync",
                self.waiters,
                rate / bound
            );
        }
        Ok(())
    }

    /// The median time of a sync, the number of durable records, and the seconds for them.
    fn measure(&self, folder: &std::path::Path) -> Result<(Duration, u64, f64), Failure> {
        let clock = SystemClock::start();
        let file = SystemDisk.create(&folder.join("sync"))?;
        // The file is written once before the measurement, so that no sync includes the allocation
        // of blocks.
        SystemDisk.write(&file, &vec![0; 1 << 20], 0)?;
        SystemDisk.sync(&file)?;
        let mut syncs = Vec::new();
        for place in 0..200_u64 {
            SystemDisk.write(&file, &[1; 4096], place * 4096)?;
            let before = clock.monotonic();
            SystemDisk.sync(&file)?;
            syncs.push(clock.monotonic() - before);
        }
        // No reserve: a test folder needs no space for a full disk.
        let settings = LogSettings { reserve: 0, ..LogSettings::of_data(folder, "bench") };
        let (log, _) = Log::open(settings, Arc::new(clock))?;
        let (log, until) = (Arc::new(log), clock.monotonic() + Duration::from_secs(self.seconds));
        let began = clock.monotonic();
        let mut writers = Vec::new();
        for number in 0..self.waiters {
            let log = Arc::clone(&log);
            writers.push(std::thread::spawn(move || append_until(&log, number, clock, until)));
        }
        let mut records = 0;
        for writer in writers {
            if let Ok(count) = writer.join() {
                records += count;
            }
        }
        let seconds = (clock.monotonic() - began).as_secs_f64();
        log.close()?;
        Ok((median(syncs), records, seconds))
    }
}
