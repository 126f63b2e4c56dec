//! `audit prove`, `verify-receipt`, `disclose` and `verify-disclosure`: proofs for other people,
//! and their verification.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use super::super::Failure;
use super::super::fault::on_path;
use super::super::target::LogArgs;
use super::RecordKeyArgs;
use super::trust::Trust;
use crate::audit::format::envelope::Envelope;
use crate::audit::read::receipt::{Disclosed, Disclosure};
use crate::audit::read::tiles::epoch_name;
use crate::audit::read::{reader, receipt};

/// The default path of the public keys.
const VKEYS: &str = "./data/log.vkeys";

#[derive(Args)]
pub(in crate::cli) struct Prove {
    /// The record: an index of the newest epoch, or NAME/EPOCH#INDEX.
    record: String,
    #[command(flatten)]
    log: LogArgs,
    /// The file for the receipt (C2SP tlog-proof with the record in it). Default: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(in crate::cli) struct VerifyReceipt {
    /// The receipt from `audit prove` or GET /receipts/.
    receipt: PathBuf,
    /// The record's bytes, for a proof without them.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    trust: Trust,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(in crate::cli) struct Disclose {
    /// Records: indices of the newest epoch, or NAME/EPOCH#INDEX.
    #[arg(required = true)]
    records: Vec<String>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    keys: RecordKeyArgs,
}

#[derive(Args)]
pub(in crate::cli) struct VerifyDisclosure {
    /// The output of `audit disclose`.
    file: PathBuf,
    #[command(flatten)]
    trust: Trust,
    /// Print one JSON object for each record.
    #[arg(long)]
    json: bool,
}

impl Prove {
    /// Makes a receipt.
    ///
    /// # Errors
    /// If the record does not exist, or no checkpoint covers it yet.
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(None)?;
        let epochs = reader::epochs(&dir)?;
        let (epoch, index) = reader::named(&epochs, &self.record)?;
        let receipt = receipt::receipt(epoch, index, &reader::one(epoch, index)?)?;
        if let Some(path) = &self.out {
            fs::write(path, &receipt).map_err(on_path(path))?;
        }
        match self.out {
            out if self.log.json => {
                let name = format!("{}#{index}", epoch_name(epoch.number));
                let shown = if out.is_none() { Some(receipt) } else { None };
                println!("{}", serde_json::json!({ "record": name, "out": out, "receipt": shown }));
            }
            None => print!("{receipt}"),
            Some(path) => println!("{}", path.display()),
        }
        Ok(())
    }
}

impl VerifyReceipt {
    /// Verifies a receipt against the trusted keys.
    pub(super) fn run(self) -> Result<(), Failure> {
        let receipt = fs::read(&self.receipt).map_err(on_path(&self.receipt))?;
        let text = String::from_utf8(receipt).map_err(|_| receipt::ProofFault::Form)?;
        let record = match &self.record {
            Some(path) => Some(fs::read(path).map_err(on_path(path))?),
            None => None,
        };
        let known = self.trust.read(Path::new(VKEYS), None)?;
        let (origin, index, record) = receipt::verify_receipt(&text, record, &known.keys)?;
        let envelope = Envelope::read(&record)?;
        let fingerprint = known.shown_fingerprint(&origin);
        if self.json {
            let row = serde_json::json!({
                "valid": true, "origin": origin, "index": index, "at": envelope.at,
                "kind": envelope.kind, "bytes": STANDARD.encode(&record),
                "fingerprint": fingerprint,
            });
            println!("{row}");
        } else {
            println!(
                "valid: it is record {index} of {origin}, of the kind {} and the time {}",
                envelope.kind, envelope.at
            );
            println!("  keys {fingerprint}, from {}", known.from.display());
        }
        Ok(())
    }
}

impl Disclose {
    /// Records the disclosure, and prints it.
    ///
    /// # Errors
    /// If a key is missing, or the disclosure cannot be recorded.
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(None)?;
        let (epochs, vault) = (reader::epochs(&dir)?, self.keys.open(&dir)?);
        // All records come first, so that the output is complete or empty.
        let (mut rows, mut names) = (Vec::new(), Vec::new());
        for name in &self.records {
            let (epoch, index) = reader::named(&epochs, name)?;
            let row = Disclosure::of(epoch, index, &*vault)
                .map_err(|fault| format!("{name}: {fault}"))?;
            rows.push(serde_json::to_string(&row)?);
            names.push(format!("{}#{index}", epoch_name(epoch.number)));
        }
        // If the disclosure cannot be recorded, no key is printed.
        record(&self.log, &dir, names)?;
        rows.iter().for_each(|row| println!("{row}"));
        Ok(())
    }
}

/// Records the disclosure in the gateway's log.
#[cfg(feature = "gateway")]
fn record(log: &LogArgs, dir: &Path, records: Vec<String>) -> Result<Option<u64>, Failure> {
    super::custody::record(log, dir, crate::control::Command::RecordsDisclosed { records })
}

/// A build without the gateway cannot write a log.
#[cfg(not(feature = "gateway"))]
fn record(_: &LogArgs, _: &Path, _: Vec<String>) -> Result<Option<u64>, Failure> {
    Ok(None)
}

impl VerifyDisclosure {
    /// Verifies disclosed records, and prints them.
    ///
    /// # Errors
    /// If one of them does not verify. Then none is printed.
    pub(super) fn run(self) -> Result<(), Failure> {
        let text = fs::read_to_string(&self.file).map_err(on_path(&self.file))?;
        let known = self.trust.read(Path::new(VKEYS), None)?;
        let mut found: Vec<Disclosed> = Vec::new();
        for (place, line) in (1..).zip(text.lines()) {
            let verified = Disclosure::read(line).and_then(|row| row.verify(&known.keys));
            found.push(
                verified
                    .map_err(|fault| format!("{}: line {place}: {fault}", self.file.display()))?,
            );
        }
        // An empty file would otherwise verify, and a reader could take it for a proof.
        if found.is_empty() {
            return Err(format!("{}: the file has no disclosed record", self.file.display()).into());
        }
        // Output begins after all lines are verified, so that a reader sees no unverified record.
        for Disclosed { origin, index, at, kind, payload } in &found {
            let fingerprint = known.shown_fingerprint(origin);
            if self.json {
                // The payload is JSON already.
                print!(r#"{{"at":"{at}","fingerprint":"{fingerprint}","kind":"{kind}","#);
                println!(r#""payload":{payload},"record":"{origin}#{index}","valid":true}}"#);
            } else {
                println!(
                    "valid: {origin}#{index}, {kind} at {at}, keys {fingerprint}\n  {payload}"
                );
            }
        }
        if !self.json {
            println!("keys from {}", known.from.display());
        }
        Ok(())
    }
}
