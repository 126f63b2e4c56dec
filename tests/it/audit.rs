//! `token-shield audit verify` on an unchanged log, on a log during writes, and on changed logs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use token_shield::audit::format::envelope::Envelope;
use token_shield::audit::format::event::Event;
use token_shield::audit::format::head::SLOT_BYTES;
use token_shield::audit::format::note::read_vkeys;
use token_shield::audit::read::reader;
use token_shield::audit::read::verify::{self as offline, VerifyTarget};
use token_shield::audit::store::log::{Log, LogSettings};
use token_shield::clock::SystemClock;
use token_shield::crypto::sha256;
use token_shield::id::KeyId;

use crate::journal::copy_folder;

struct Folder {
    temp: tempfile::TempDir,
    audit: PathBuf,
    head: PathBuf,
}

impl Folder {
    fn of(temp: tempfile::TempDir) -> Self {
        let (audit, head) = (temp.path().join("audit"), temp.path().join("elsewhere/head"));
        Self { temp, audit, head }
    }

    fn copy(&self) -> Self {
        let temp = tempfile::tempdir().expect("a folder");
        copy_folder(self.temp.path(), temp.path());
        Self::of(temp)
    }

    /// Adds one record.
    fn grow(&self, number: u64) {
        let (log, _) = Log::open(self.settings(), Arc::new(SystemClock::start())).expect("a log");
        log.append_blocking(event(number), None).expect("sealed");
        log.close().expect("closed");
    }

    fn segment(&self) -> PathBuf {
        self.audit.join("e000001/journal/00000000000000000000")
    }

    fn settings(&self) -> LogSettings {
        LogSettings {
            head: self.head.clone(),
            reserve: 1 << 20,
            ..LogSettings::of_data(self.temp.path(), "test")
        }
    }

    fn verify(&self) -> (Option<i32>, String) {
        verify(&self.audit, &["--head", &self.head.to_string_lossy()])
    }

    fn verify_since(&self, former: &Path) -> (Option<i32>, String) {
        let (head, former) = (self.head.to_string_lossy(), former.to_string_lossy());
        verify(&self.audit, &["--head", &head, "--since", &former])
    }
}

fn verify(audit: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_token-shield"))
        .args(["audit", "verify"])
        .arg(audit)
        .args(flags)
        .output()
        .expect("the command");
    let said = [ran.stdout, ran.stderr].concat();
    (ran.status.code(), String::from_utf8(said).expect("UTF-8"))
}

fn event(number: u64) -> Event {
    Event::KeyRevoked {
        kid: KeyId(sha256(&number.to_be_bytes())),
        reason: format!("number {number}"),
    }
}

/// A log of that many records, each in a separate batch. Its handle stays open.
fn written(records: u64) -> (Folder, Log) {
    let folder = Folder::of(tempfile::tempdir().expect("a folder"));
    let (log, _) = Log::open(folder.settings(), Arc::new(SystemClock::start())).expect("a log");
    for number in 0..records {
        log.append_blocking(event(number), None).expect("sealed");
    }
    (folder, log)
}

#[test]
fn an_honest_log_is_valid_while_it_is_written_and_after() {
    let (folder, log) = written(30);
    let (code, said) = folder.verify();
    assert!(
        code == Some(0) && said.contains("30 records") && said.contains("30 of them acknowledged"),
        "{said}"
    );
    log.close().expect("closed");
    let (code, again) =
        verify(&folder.audit, &["--json", "--head", &folder.head.to_string_lossy()]);
    let row: serde_json::Value = serde_json::from_str(&again).expect("JSON");
    let row = &row["epochs"][0];
    assert_eq!(
        (code, row["records"].as_u64(), row["origin"].as_str()),
        (Some(0), Some(30), Some("test/e000001"))
    );
    assert_eq!(row["signed"].as_u64(), Some(30), "a log that is closed is signed to its end");
    assert!(said.contains(row["root"].as_str().expect("a root")));
    let (code, said) = verify(&folder.audit, &[]);
    assert!(
        code == Some(4) && said.contains("without a head") && said.contains("END UNPROVEN"),
        "{said}"
    );
    assert!(
        said.contains("warning: the keys come from"),
        "keys beside the log prove little: {said}"
    );
}

/// The number of bytes up to the last one that is not zero: the part that was written.
fn length(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |place| place + 1)
}

#[test]
fn any_changed_byte_is_found_and_the_record_named() {
    let (folder, log) = written(20);
    log.close().expect("closed");
    let honest = fs::read(folder.segment()).expect("the segment");
    let written = length(&honest);
    let flips = if std::env::var_os("TOKEN_SHIELD_FULL").is_some() { 2_000 } else { 200 };
    for round in 0..flips {
        let place = usize::try_from(round * 7_919 + round / 3).expect("a place") % written;
        let mut bytes = honest.clone();
        bytes[place] ^= 1 << (round % 8);
        fs::write(folder.segment(), &bytes).expect("changed");
        let (code, said) = folder.verify();
        assert!(code == Some(1) && said.contains("record "), "byte {place} of {written}: {said}");
    }
    fs::write(folder.segment(), &honest).expect("restored");
    assert_eq!(folder.verify().0, Some(0));
}

/// The verifier reads the head first. Here the head has no checkpoint at that time, as before the
/// first checkpoint of its epoch, and the folder has one when its epoch is verified.
#[test]
fn a_head_that_was_read_before_its_first_checkpoint_is_read_again() {
    let (folder, log) = written(300);
    log.close().expect("closed");
    let keys = fs::read_to_string(folder.settings().vkeys).expect("the keys");
    let keys = read_vkeys(&keys).expect("the keys");
    let whole = fs::read(&folder.head).expect("the head");
    let mut early = whole.clone();
    early[2 * SLOT_BYTES..].fill(0);
    fs::write(&folder.head, &early).expect("without a checkpoint");
    let (dir, head) = (&*folder.audit, Some(&*folder.head));
    let wanted = VerifyTarget { dir, keys: &keys, head, since: None };
    let fault = offline::verify(&wanted, |_, _| ()).expect_err("the head was replaced");
    assert!(fault.to_string().contains("no checkpoint any more"), "{fault}");
    // The first progress comes after the head was read, and before it is compared.
    let mut told = 0;
    let epochs = offline::verify(&wanted, |_, _| {
        told += 1;
        fs::write(&folder.head, &whole).expect("with the checkpoint");
    });
    assert_eq!(told, 1);
    assert_eq!(epochs.expect("valid")[0].acknowledged, Some(300));
}

#[test]
fn what_is_lost_moved_or_added_is_found() {
    let (folder, log) = written(20);
    log.close().expect("closed");
    let older: Vec<(PathBuf, Vec<u8>)> = files(&folder.audit);
    let (log, _) = Log::open(folder.settings(), Arc::new(SystemClock::start())).expect("a log");
    for number in 20..25 {
        log.append_blocking(event(number), None).expect("sealed");
    }
    log.close().expect("closed");
    let honest = files(&folder.audit);
    let put = |files: &[(PathBuf, Vec<u8>)]| {
        for epoch in ["e000001/tile", "e000001/checkpoint"] {
            let path = folder.audit.join(epoch);
            if path.is_dir() {
                fs::remove_dir_all(path).expect("removed")
            } else {
                fs::remove_file(path).expect("removed")
            }
        }
        for (path, bytes) in files {
            fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            fs::write(path, bytes).expect("put");
        }
    };
    put(&older);
    let (code, said) = folder.verify();
    assert!(code == Some(1) && said.contains("25 were acknowledged"), "an older folder: {said}");
    put(&honest);
    for stray in [
        "e000001/journal/notes",
        "e000001/tile/0/000.p/7",
        "e000001/tile/notes",
        "e000001/notes",
        "e000003",
        "notes",
    ] {
        fs::write(folder.audit.join(stray), "x").expect("a stray file");
        let (code, said) = folder.verify();
        assert_eq!(code, Some(1), "{stray}: {said}");
        fs::remove_file(folder.audit.join(stray)).expect("removed");
    }
    for (path, bytes) in
        honest.iter().filter(|(path, bytes)| !bytes.is_empty() && !path.ends_with("reserve"))
    {
        fs::remove_file(path).expect("removed");
        let (code, said) = folder.verify();
        // A crash may leave data in the tiles and in the journal. One of the two copies may then be
        // missing.
        let twice = path.to_string_lossy().contains("journal") || path.ends_with("checkpoint");
        assert!(code == Some(1) || twice, "{}: {said}", path.display());
        assert!(
            code == Some(1)
                || !path.ends_with("checkpoint")
                || said.contains("0 of them under a signed"),
            "{said}"
        );
        fs::write(path, bytes).expect("restored");
    }
    let head = fs::read(&folder.head).expect("the head");
    fs::write(&folder.head, vec![b'\n'; head.len()]).expect("changed");
    assert_eq!(folder.verify().0, Some(1), "a head that says nothing");
    fs::write(&folder.head, head).expect("restored");
    let (code, said) = folder.verify();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(verify(Path::new("/nonexistent"), &[]).0, Some(1));
}

#[test]
fn a_log_with_another_history_than_a_former_checkpoint_is_found() {
    let (folder, log) = written(3);
    log.close().expect("closed");
    let other = folder.copy();
    folder.grow(4);
    other.grow(5);
    let former = folder.audit.join("e000001/checkpoint");
    let (code, said) = folder.verify_since(&former);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = other.verify_since(&former);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn every_box_has_its_own_salt() {
    let (folder, log) = written(2);
    log.close().expect("closed");
    let epochs = reader::epochs(&folder.audit).expect("a log");
    let salt = |index| {
        let record = reader::one(&epochs[0], index).expect("a record");
        Envelope::read(&record).expect("a record").encrypted().expect("a box").1[..16].to_vec()
    };
    assert_ne!(salt(0), salt(1));
}

/// Every file below a folder, with its content.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push((path.clone(), fs::read(path).expect("read")))
        }
    }
    found
}
