//! `audit prove`, `verify-receipt` and `disclose`: what is handed to somebody else.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use super::super::Failure;
use super::super::place::LogPlace;
use super::{Keys, verifier_keys};
use crate::audit::tiles::epoch_name;
use crate::audit::{reader, receipt};

#[derive(Args)]
pub(in crate::cli) struct Prove {
    /// The record: an index of the newest epoch, or NAME/EPOCH#INDEX.
    record: String,
    #[command(flatten)]
    log: LogPlace,
    /// Where to write the proof (C2SP tlog-proof); standard output where it is not said. The record itself goes beside it, as
    /// FILE.record.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(in crate::cli) struct VerifyReceipt {
    /// The proof.
    proof: PathBuf,
    /// The record's bytes; PROOF.record where it is not said.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The public keys of the log (log.vkeys).
    #[arg(long = "log-keys", alias = "key", value_name = "FILE", default_value = "./data/log.vkeys")]
    key: PathBuf,
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
    log: LogPlace,
    #[command(flatten)]
    keys: Keys,
}

impl Prove {
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(None)?;
        let epochs = reader::epochs(&dir)?;
        let (epoch, index) = reader::named(&epochs, &self.record)?;
        let proof = receipt::prove(epoch, index)?;
        match self.out {
            None => print!("{proof}"),
            Some(path) => {
                fs::write(&path, proof)?;
                let mut beside = path.clone().into_os_string();
                beside.push(".record");
                fs::write(&beside, reader::one(epoch, index)?)?;
                println!("{}   and the record   {}", path.display(), PathBuf::from(beside).display());
            }
        }
        Ok(())
    }
}

impl VerifyReceipt {
    pub(super) fn run(self) -> Result<(), Failure> {
        let proof = fs::read_to_string(&self.proof).map_err(|error| format!("{}: {error}", self.proof.display()))?;
        let record = self.record.unwrap_or_else(|| {
            let mut beside = self.proof.into_os_string();
            beside.push(".record");
            beside.into()
        });
        let bytes =
            fs::read(&record).map_err(|error| format!("{}: {error}; name the record with --record FILE", record.display()))?;
        let (origin, index) = receipt::verify(&proof, &bytes, &verifier_keys(&self.key)?)?;
        if self.json {
            println!("{}", serde_json::json!({ "valid": true, "origin": origin, "index": index }));
        } else {
            println!("valid: it is record {index} of {origin}");
        }
        Ok(())
    }
}

impl Disclose {
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.log.dir(None)?;
        let (epochs, vault) = (reader::epochs(&dir)?, self.keys.open(&dir)?);
        for name in &self.records {
            let (epoch, index) = reader::named(&epochs, name)?;
            let bytes = reader::one(epoch, index)?;
            let key = receipt::disclose(&bytes, &*vault).map_err(|fault| format!("{name}: {fault}"))?;
            // Where no checkpoint covers it yet the proof is left out, and can be asked for later.
            let proof = receipt::prove(epoch, index).ok();
            let row = serde_json::json!({
                "record": format!("{}#{index}", epoch_name(epoch.number)), "bytes": STANDARD.encode(&bytes), "key": key, "proof": proof,
            });
            println!("{row}");
        }
        Ok(())
    }
}
