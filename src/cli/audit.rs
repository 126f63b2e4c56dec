//! `token-shield audit …`: commands for every person who has a log's folder. They need no gateway.

#[cfg(feature = "gateway")]
mod custody;
mod export;
#[cfg(feature = "gateway")]
pub(super) mod keep;
mod prove;
#[cfg(feature = "gateway")]
mod prune;
mod read;
mod trust;
#[cfg(feature = "gateway")]
pub(super) mod why;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use super::fault::{CliFault as Told, on_path};
use super::target::LogArgs;
use crate::audit::format::key::Opener;
use crate::audit::read::export::OwnKeys;
use crate::audit::read::verify::{VerifiedEpoch, VerifyFault, VerifyTarget, verify};
use crate::audit::store::vault::Vault;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use trust::{Trust, TrustedKeys};

#[derive(Subcommand)]
pub(super) enum AuditCommand {
    /// Verify all records, the tree over them, and that no acknowledged record is missing. No file
    /// is locked or changed.
    #[command(after_help = "Example: token-shield audit verify --dir ./copy/audit --log-keys \
            ./log.vkeys \\\n             \
        --head ./copy/secret/head\n\n\
        Exit codes: 0 valid to its end, 1 not valid, 4 valid, but its end is not proved.")]
    Verify(Verify),
    /// Show records, decrypted with the operator's keys.
    #[command(after_help = "Example: token-shield audit show dev/e000001#14")]
    Show(read::ShowRecords),
    /// Show the last records, and follow new ones.
    #[command(after_help = "Example: token-shield audit tail --follow")]
    Tail(read::Tail),
    /// Find records by agent, principal, request, decision or time.
    #[command(
        after_help = "Example: token-shield audit query --agent research/summarizer --decision \
            refused --since 1d"
    )]
    Query(read::Query),
    /// Sum up requests and tokens, for chargeback.
    #[command(
        after_help = "Example: token-shield audit usage --by principal,model --since 30d --csv"
    )]
    Usage(read::UsageReport),
    /// Make a receipt: a record with the proof that it is in the log (C2SP tlog-proof).
    #[command(
        after_help = "Example: token-shield audit prove dev/e000001#14 --out answer.tlog-proof"
    )]
    Prove(prove::Prove),
    /// Verify a receipt.
    #[command(
        after_help = "Example: token-shield audit verify-receipt answer.tlog-proof --log-keys \
            ./log.vkeys"
    )]
    VerifyReceipt(prove::VerifyReceipt),
    /// Disclose single records: each with its own key, which decrypts no other record.
    #[command(after_help = "Example: token-shield audit disclose 14 15 > for-the-court.jsonl")]
    Disclose(prove::Disclose),
    /// Verify and show disclosed records.
    #[command(
        after_help = "Example: token-shield audit verify-disclosure for-the-court.jsonl --log-keys \
            ./log.vkeys"
    )]
    VerifyDisclosure(prove::VerifyDisclosure),
    /// Copy closed epochs, for example for a regulator. The keys decrypt only the exported records.
    #[command(after_help = "Example: token-shield audit export ./for-the-regulator --epochs \
            e000001,e000002 \\\n             \
        --principal user:ada")]
    Export(export::Export),
    /// Recompute the state and the decisions from the log, and report differences.
    #[command(after_help = "Example: token-shield audit replay --data ./data")]
    Replay(export::Replay),
    #[cfg(feature = "gateway")]
    #[command(flatten)]
    Keep(keep::LogCommand),
}

/// The keys that decrypt records.
#[derive(Args)]
struct RecordKeyArgs {
    /// The record keys, or the keys.jsonl of an export. Default: DIR/../secret/record-keys or
    /// DIR/../keys.jsonl, if one exists. Without them, encrypted records stay closed.
    #[arg(long = "record-keys", alias = "keys", value_name = "FILE")]
    keys: Option<PathBuf>,
}

impl RecordKeyArgs {
    /// Opens the keys of the log in `dir`. Without a file, no encrypted record can be read.
    fn open(&self, dir: &Path) -> Result<Box<dyn Opener>, Failure> {
        let (beside, exported) = (dir.join("../secret/record-keys"), dir.join("../keys.jsonl"));
        let path = match &self.keys {
            Some(named) => Some(named),
            None if beside.exists() => Some(&beside),
            None if exported.exists() => Some(&exported),
            None => None,
        };
        Ok(match path {
            // The two files have different forms. The name of an export's file ends in jsonl.
            Some(path) if path.extension() == Some(OsStr::new("jsonl")) => {
                Box::new(OwnKeys::read(path)?)
            }
            Some(path) => Box::new(Vault::read(path)?),
            None => Box::new(Vault::empty(&beside)),
        })
    }
}

/// The current time of this machine.
fn now() -> Timestamp {
    SystemClock::start().now()
}

/// A duration such as `30d`, `12h`, `90m` or `45s`. `None` for any other text.
fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
}

#[derive(Args)]
pub(super) struct Verify {
    /// The log's folder, instead of --dir.
    #[arg(value_name = "DIR", hide = true)]
    folder: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    trust: Trust,
    /// An older checkpoint. Proves that the log has only grown since then.
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<PathBuf>,
    /// The head, which shows how much was acknowledged. Default: DIR/../secret/head, if it exists.
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
}

impl AuditCommand {
    /// Executes the command.
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Verify(verify) => verify.run(),
            Self::Show(show) => show.run(),
            Self::Tail(tail) => tail.run(),
            Self::Query(query) => query.run(),
            Self::Usage(usage) => usage.run(),
            Self::Prove(prove) => prove.run(),
            Self::VerifyReceipt(receipt) => receipt.run(),
            Self::Disclose(disclose) => disclose.run(),
            Self::VerifyDisclosure(disclosure) => disclosure.run(),
            Self::Export(export) => export.run(),
            Self::Replay(replay) => replay.run(),
            #[cfg(feature = "gateway")]
            Self::Keep(verb) => verb.run(),
        }
    }
}

impl Verify {
    /// Verifies the log.
    ///
    /// # Errors
    /// If the log is not valid, or its end is not proven.
    fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(self.folder)?;
        let files = CheckFiles { head: self.head, since: self.since };
        let checked = Checked::of(&dir, &self.trust, files, self.log.json)?;
        let known = &checked.known;
        if !self.log.json {
            known.warn();
        }
        match checked.seen {
            Ok(seen) => {
                // A valid prefix without a proven end has its own exit code. A script must not take
                // it for a complete log.
                let proven = checked.heads && ends(&seen);
                if self.log.json {
                    let epochs: Vec<_> = seen.iter().map(|epoch| row(epoch, known)).collect();
                    println!(
                        "{}",
                        serde_json::json!({
                            "valid": true, "end_proven": proven, "epochs": epochs,
                            "keys_from": known.from, "keys_in_data_folder": known.beside,
                        })
                    );
                } else {
                    seen.iter().for_each(|epoch| say(epoch, known));
                    println!("keys from {}", known.from.display());
                }
                if proven {
                    Ok(())
                } else {
                    Err(Told {
                        exit: super::fault::UNPROVEN,
                        code: "end-unproven",
                        message: UNPROVEN.to_owned(),
                    }
                    .into())
                }
            }
            Err(fault) if self.log.json => {
                let what = fault.to_string();
                println!(
                    "{}",
                    serde_json::json!({
                        "valid": false, "epoch": fault.epoch(), "index": fault.index(),
                        "fault": what,
                    })
                );
                Err("the log does not verify".into())
            }
            Err(fault) => Err(fault.into()),
        }
    }
}

/// The message about a log whose end no head proves.
const UNPROVEN: &str = "VALID PREFIX, END UNPROVEN: no head says where the log ends (--head FILE), \
    so records may be missing there";

/// Whether the head is about the log's last epoch. If an earlier epoch is the last one that it
/// covers, whole epochs may be missing.
fn ends(seen: &[VerifiedEpoch]) -> bool {
    // The head names one epoch. All epochs before it are covered by their successors.
    let spoken_of = seen.iter().rposition(|epoch| epoch.acknowledged.is_some());
    spoken_of.is_none_or(|place| place + 1 == seen.len())
}

/// The files with which a verification compares the log.
struct CheckFiles {
    /// The head. Default: the file beside the log, if it exists.
    head: Option<PathBuf>,
    /// An older checkpoint.
    since: Option<PathBuf>,
}

/// The result of a verification, with the keys that it used.
struct Checked {
    known: TrustedKeys,
    seen: Result<Vec<VerifiedEpoch>, VerifyFault>,
    /// Whether there was a head.
    heads: bool,
}

impl Checked {
    /// Verifies the log in `dir` against `trust`, with the head and an older checkpoint if there
    /// are any.
    fn of(dir: &Path, trust: &Trust, files: CheckFiles, quiet: bool) -> Result<Self, Failure> {
        let beside = dir.join("../secret/head");
        // A copy of the log may be without its head. Then the end is not proven.
        let head = match files.head {
            Some(head) => Some(head),
            None if beside.exists() => Some(beside),
            None => None,
        };
        let known = trust.read(&dir.join("../log.vkeys"), Some(&dir.join("..")))?;
        let since = match &files.since {
            Some(path) => Some(fs::read_to_string(path).map_err(on_path(path))?),
            None => None,
        };
        let wanted =
            VerifyTarget { dir, keys: &known.keys, head: head.as_deref(), since: since.as_deref() };
        // A large log takes minutes, so people see the progress.
        let bar = bar(quiet);
        let seen = verify(&wanted, |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        Ok(Self { known, seen, heads: head.is_some() })
    }
}

/// A progress bar. It is hidden if the output is for a program.
pub(super) fn bar(quiet: bool) -> ProgressBar {
    if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) }
}

/// The style of a counter.
fn counting() -> ProgressStyle {
    ProgressStyle::with_template("{elapsed_precise} {human_pos} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A counter for work of unknown size.
fn spinner(quiet: bool, of: &'static str) -> ProgressBar {
    if quiet {
        ProgressBar::hidden()
    } else {
        ProgressBar::no_length().with_style(counting()).with_message(of)
    }
}

/// The JSON form of a verified epoch.
fn row(epoch: &VerifiedEpoch, known: &TrustedKeys) -> serde_json::Value {
    let (first, last) = epoch.times.clone().unzip();
    serde_json::json!({
        "origin": epoch.origin, "records": epoch.size, "signed": epoch.signed,
        "root": STANDARD.encode(epoch.root), "acknowledged": epoch.acknowledged,
        "first": first, "last": last, "unfinished_bytes": epoch.torn,
        "unfinished_files": epoch.unfinished, "lost_after": epoch.lost, "pruned": epoch.pruned,
        "fingerprint": known.fingerprint(&epoch.origin),
    })
}

/// Prints a verified epoch for people.
fn say(epoch: &VerifiedEpoch, known: &TrustedKeys) {
    println!(
        "valid: {}, {} records, root {}",
        epoch.origin,
        epoch.size,
        STANDARD.encode(epoch.root)
    );
    if let Some((first, last)) = &epoch.times {
        println!("  from {first} to {last}");
    }
    println!(
        "  {} of them under a signed checkpoint, {} durable but not yet signed",
        epoch.signed,
        epoch.size - epoch.signed
    );
    match epoch.acknowledged {
        Some(size) => println!("  {size} of them acknowledged, as the head says"),
        None => {
            println!(
                "  without a head: records may be missing at its end (--head FILE, --since \
                    CHECKPOINT)"
            )
        }
    }
    if epoch.torn > 0 {
        println!("  followed by {} bytes of an incomplete, unacknowledged write", epoch.torn);
    }
    if epoch.unfinished > 0 {
        println!(
            "  {} files of an incomplete checkpoint, which the next start completes",
            epoch.unfinished
        );
    }
    if let Some(reason) = &epoch.lost {
        println!("  records after its end were lost, as an operator recorded: {reason}");
    }
    if epoch.pruned {
        println!("  its records were pruned; its tree and its checkpoint are here");
    }
    println!("  keys {}", known.shown_fingerprint(&epoch.origin));
}
