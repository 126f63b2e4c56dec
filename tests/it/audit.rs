//! `token-shield audit verify` on a log that is honest, one that is being written, and ones that somebody changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use token_shield::audit::event::Event;
use token_shield::audit::log::{Log, Settings};
use token_shield::clock::SystemClock;
use token_shield::crypto::sha256;
use token_shield::id::KeyId;

struct Folder {
    _temp: tempfile::TempDir,
    audit: PathBuf,
    head: PathBuf,
}

impl Folder {
    fn segment(&self) -> PathBuf {
        self.audit.join("e000001/journal/00000000000000000000")
    }

    fn verify(&self) -> (Option<i32>, String) {
        verify(&self.audit, &["--head", &self.head.to_string_lossy()])
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
    Event::KeyRevoked { kid: KeyId(sha256(&number.to_be_bytes())), reason: format!("number {number}") }
}

/// A log of that many records, each in a batch of its own; its handle stays open.
fn written(records: u64) -> (Folder, Log) {
    let temp = tempfile::tempdir().expect("a folder");
    let (audit, head) = (temp.path().join("audit"), temp.path().join("elsewhere/head"));
    let settings = Settings { dir: audit.clone(), head: head.clone(), name: "test".to_owned() };
    let (log, _) = Log::open(settings, Arc::new(SystemClock::start())).expect("a log");
    for number in 0..records {
        log.seal_blocking(event(number), None).expect("sealed");
    }
    (Folder { _temp: temp, audit, head }, log)
}

#[test]
fn an_honest_log_is_valid_while_it_is_written_and_after() {
    let (folder, log) = written(30);
    let (code, said) = folder.verify();
    assert!(code == Some(0) && said.contains("valid: 30 records") && said.contains("30 of them acknowledged"), "{said}");
    log.close().expect("closed");
    let (code, again) = verify(&folder.audit, &["--json", "--head", &folder.head.to_string_lossy()]);
    let row: serde_json::Value = serde_json::from_str(&again).expect("JSON");
    assert_eq!((code, row["records"].as_u64(), row["origin"].as_str()), (Some(0), Some(30), Some("test/e000001")));
    assert!(said.contains(row["root"].as_str().expect("a root")));
    let (code, said) = verify(&folder.audit, &[]);
    assert!(code == Some(0) && said.contains("without a head"), "{said}");
}

/// The bytes up to the last that is not zero: what was written.
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

#[test]
fn what_is_lost_moved_or_added_is_found() {
    let (folder, log) = written(20);
    let older = fs::read(folder.segment()).expect("the segment");
    for number in 20..25 {
        log.seal_blocking(event(number), None).expect("sealed");
    }
    log.close().expect("closed");
    let honest = fs::read(folder.segment()).expect("the segment");
    let put = |bytes: &[u8]| fs::write(folder.segment(), bytes).expect("changed");

    put(&older);
    let (code, said) = folder.verify();
    assert!(code == Some(1) && said.contains("behind record 20, but 25 were acknowledged"), "an older folder: {said}");
    let batch = length(&honest).div_ceil(512) * 512 / 25;
    for (what, change) in [
        ("an emptied tail", honest[..length(&honest) - 2 * 512].to_vec()),
        ("two batches swapped", {
            let (mut bytes, first) = (honest.clone(), honest[..batch].to_vec());
            bytes.copy_within(batch..2 * batch, 0);
            bytes[batch..2 * batch].copy_from_slice(&first);
            bytes
        }),
        ("a batch left out", [&honest[..batch], &honest[2 * batch..]].concat()),
        ("a batch twice", [&honest[..batch], &honest[..]].concat()),
        ("nothing left", Vec::new()),
    ] {
        put(&change);
        let (code, said) = folder.verify();
        assert_eq!(code, Some(1), "{what}: {said}");
    }
    put(&honest);
    for stray in ["e000001/journal/notes", "e000002", "e000001/tile"] {
        fs::write(folder.audit.join(stray), "x").expect("a stray file");
        let (code, said) = folder.verify();
        assert!(code == Some(1) && said.contains("does not belong"), "{stray}: {said}");
        fs::remove_file(folder.audit.join(stray)).expect("removed");
    }
    let head = fs::read(&folder.head).expect("the head");
    fs::write(&folder.head, vec![b'\n'; head.len()]).expect("changed");
    assert_eq!(folder.verify().0, Some(1), "a head that says nothing");
    fs::write(&folder.head, head).expect("restored");
    assert_eq!(folder.verify().0, Some(0));
    assert_eq!(verify(Path::new("/nonexistent"), &[]).0, Some(1));
}
