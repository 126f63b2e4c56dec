//! Mistakes that somebody could make, made on purpose: each is noticed by a check that is quiet without it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use token_shield::audit::format::event::Event;
use token_shield::audit::format::key::{Held, Opener as _};
use token_shield::audit::format::note::read_vkeys;
use token_shield::audit::format::outside::Outside;
use token_shield::audit::read::reader;
use token_shield::audit::read::verify::{Fault, Wanted, verify};
use token_shield::audit::store::log::{Log, NewEpoch};
use token_shield::audit::store::vault::Vault;
use token_shield::clock::{ManualClock, Timestamp};
use token_shield::merkle::leaf_hash;
use token_shield::seeded::{Seed, plant};

use super::disk::Kind;
use super::{Base, START, doors, folder, large, room, run, settings, small, within};
use crate::harness::Gateway;
use crate::journal::copy_folder;

/// Every third call of a clean run goes wrong in that way.
fn campaign(base: &Base, kind: Kind) {
    let calls = run(base, Kind::None, 0);
    for place in (0..calls.len()).filter(|place| kind.hits(calls[*place].op)).step_by(3) {
        run(base, kind, place + 1);
    }
}

fn power_cuts() {
    campaign(&Base::empty(), Kind::Cut);
}

fn power_cuts_that_keep_the_head() {
    campaign(&Base::empty(), Kind::CutButHead);
}

fn failing_syncs() {
    campaign(&Base::empty(), Kind::Sync);
}

fn open(data: &Path, at: Timestamp) -> (Log, Vec<Event>) {
    let (log, recovered) = Log::open(settings(data), Arc::new(ManualClock::at(at))).expect("log");
    (log, recovered.records.into_iter().map(|record| record.event).collect())
}

/// A log of so many small records.
fn written(data: &Path, records: usize) -> Log {
    let (log, _) = open(data, START);
    for number in 0..records {
        log.seal_blocking(small(number), None).expect("sealed");
    }
    log
}

fn checked(data: &Path, since: Option<&str>) -> Result<(), Fault> {
    let own = settings(data);
    let keys = read_vkeys(&fs::read_to_string(own.vkeys).expect("keys")).expect("keys");
    verify(&Wanted { dir: &own.dir, keys: &keys, head: Some(&own.head), since }, |_, _| ())
        .map(|_| ())
}

fn epoch(data: &Path, number: u32) -> PathBuf {
    settings(data).dir.join(format!("e{number:06}"))
}

/// Verifies; then `change`s something, and it verifies no more.
fn noticed(data: &Path, change: impl FnOnce()) {
    checked(data, None).expect("it verifies");
    change();
    assert!(checked(data, None).is_err(), "a change passed");
}

fn what_is_folded_is_what_was_written() {
    let data = folder();
    let log = written(data.path(), 20);
    log.close().expect("closed");
    let (log, events) = open(data.path(), START);
    assert_eq!(events, (0..20).map(small).collect::<Vec<_>>());
    log.close().expect("closed");
}

fn a_segment_that_is_gone_ends_the_log() {
    let data = folder();
    let log = written(data.path(), 2);
    fs::remove_file(epoch(data.path(), 1).join(format!("journal/{:020}", 0))).expect("removed");
    let failed = log.seal_blocking(small(3), None).is_err();
    assert!(failed || within(Duration::from_secs(3), || !log.healthy()), "nobody noticed");
}

fn one_writer_has_the_log() {
    let data = folder();
    let log = written(data.path(), 1);
    let second = Log::open(settings(data.path()), Arc::new(ManualClock::at(START)));
    assert!(second.is_err(), "a second writer");
    log.close().expect("closed");
}

fn times_never_go_back() {
    let data = folder();
    written(data.path(), 1).close().expect("closed");
    let (log, _) = open(data.path(), Timestamp(START.0 - 60_000));
    log.seal_blocking(small(2), None).expect("sealed");
    let _ = log.close();
    checked(data.path(), None).expect("it verifies");
}

fn every_box_has_a_salt_of_its_own() {
    let data = folder();
    let log = written(data.path(), 2);
    log.close().expect("closed");
    let epochs = reader::epochs(&settings(data.path()).dir).expect("a log");
    let salt = |index| {
        let record = reader::one(&epochs[0], index).expect("a record");
        Outside::read(&record).expect("a record").sealed().expect("a box").1[..16].to_vec()
    };
    assert_ne!(salt(0), salt(1), "one salt serves twice");
}

fn a_destroyed_key_is_gone() {
    let data = folder();
    let path = data.path().join("record-keys");
    let mut vault = Vault::open(&path).expect("vault");
    let (id, _) = vault.of("user:ada", START).expect("a key");
    vault.destroy(&id).expect("destroyed");
    assert!(matches!(Vault::read(&path).expect("vault").held(&id), Held::Destroyed));
}

/// RFC 6962 section 2.1: the hash of an empty leaf, as Certificate Transparency's own tests have it.
fn leaves_are_hashed_as_the_standard_says() {
    let hex: String = leaf_hash(b"").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
}

/// Changes a character in the signature line of that number.
fn a_signature_line_counts(line: usize) {
    let data = folder();
    written(data.path(), 3).close().expect("closed");
    noticed(data.path(), || {
        let path = epoch(data.path(), 1).join("checkpoint");
        let note = fs::read_to_string(&path).expect("checkpoint");
        let mut lines: Vec<String> = note.lines().map(str::to_owned).collect();
        // Behind the three lines of the text and an empty one; far behind the key's id.
        let signature = &mut lines[4 + line];
        let place = signature.len() - 20;
        let other = if &signature[place..=place] == "A" { "B" } else { "A" };
        signature.replace_range(place..=place, other);
        fs::write(path, lines.join("\n") + "\n").expect("written");
    });
}

fn the_post_quantum_line_counts() {
    a_signature_line_counts(0);
}

fn the_classical_line_counts() {
    a_signature_line_counts(1);
}

/// Changes one byte of a journal that no checkpoint covers; it is at `place` of the segment.
fn journal_byte(change: impl FnOnce(&mut Vec<u8>)) {
    let (live, data) = (folder(), folder());
    let log = written(live.path(), 1);
    log.seal_blocking(large(2), None).expect("sealed");
    copy_folder(live.path(), data.path());
    log.close().expect("closed");
    noticed(data.path(), || {
        let path = epoch(data.path(), 1).join(format!("journal/{:020}", 0));
        let mut bytes = fs::read(&path).expect("segment");
        change(&mut bytes);
        fs::write(path, bytes).expect("written");
    });
}

fn padding_is_zero() {
    journal_byte(|bytes| {
        let second = bytes
            .windows(8)
            .skip(1)
            .position(|window| window == b"TSBATCH1")
            .expect("a second batch");
        assert_eq!(std::mem::replace(&mut bytes[second], 7), 0, "padding");
    });
}

fn what_was_acknowledged_is_there() {
    journal_byte(|bytes| {
        let second = bytes
            .windows(8)
            .skip(1)
            .position(|window| window == b"TSBATCH1")
            .expect("a second batch")
            + 1;
        bytes[second..].fill(0);
    });
}

fn a_log_only_grows() {
    let (one, other) = (folder(), folder());
    written(one.path(), 3).close().expect("closed");
    copy_folder(one.path(), other.path());
    for (data, number) in [(&one, 4), (&other, 5)] {
        let (log, _) = open(data.path(), START);
        log.seal_blocking(small(number), None).expect("sealed");
        log.close().expect("closed");
    }
    let former = fs::read_to_string(epoch(one.path(), 1).join("checkpoint")).expect("checkpoint");
    checked(one.path(), Some(&former)).expect("it has grown");
    assert!(checked(other.path(), Some(&former)).is_err(), "another history");
}

fn nothing_else_lies_there() {
    let data = folder();
    written(data.path(), 3).close().expect("closed");
    noticed(data.path(), || {
        fs::write(epoch(data.path(), 1).join("tile/notes"), b"x").expect("written")
    });
}

fn records_do_not_go_unsaid() {
    let data = folder();
    written(data.path(), 3).close().expect("closed");
    let begin = Some(NewEpoch { reason: "a test".to_owned(), by: None, after_loss: false });
    let own = token_shield::audit::store::log::Settings { begin, ..settings(data.path()) };
    let (log, _) = Log::open(own, Arc::new(ManualClock::at(START))).expect("log");
    log.close().expect("closed");
    noticed(data.path(), || {
        fs::remove_dir_all(epoch(data.path(), 1).join("tile/entries")).expect("removed")
    });
}

/// A gateway whose log breaks when `cut` is called; it cannot stop well any more.
fn gateway(more: &str) -> (ManuallyDrop<Gateway>, impl Fn() + Clone + Send + 'static) {
    let gateway =
        ManuallyDrop::new(Gateway::with("rpm = 6000\nin_flight = 64\noutput_tokens = 1000", more));
    let segment = gateway.data.path().join(format!("state/audit/e000001/journal/{:020}", 0));
    (gateway, move || fs::remove_file(&segment).expect("removed"))
}

/// Status and, of a refusal, its code.
fn chat(gateway: &Gateway, model: &str) -> (u16, String) {
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"x"}}]}}"#);
    let answer = gateway.send(&gateway.chat(&body));
    (answer.status, answer.code())
}

fn unavailable() -> (u16, String) {
    (503, "audit-unavailable".to_owned())
}

fn over(gateway: &Gateway) {
    fs::remove_dir_all(gateway.data.path()).expect("removed");
}

fn nothing_goes_on_that_is_not_sealed() {
    let (gateway, cut) = gateway("");
    assert_eq!(chat(&gateway, "up").0, 200);
    cut();
    let answer = chat(&gateway, "up");
    // Whatever was let through reaches the server soon.
    within(Duration::from_millis(300), || gateway.forwarded.load(Ordering::SeqCst) > 1);
    assert_eq!((answer, gateway.forwarded.load(Ordering::SeqCst)), (unavailable(), 1));
    over(&gateway);
}

/// A server that breaks the log when it is asked for an answer; which weights it has it does not say.
fn answer_and_cut(mut stream: TcpStream, cut: impl Fn()) {
    let (mut request, mut buffer) = (Vec::new(), [0; 65_536]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        request.extend_from_slice(&buffer[..read]);
        let (status, body) = if request.starts_with(b"GET ") {
            ("404 Not Found", "{}")
        } else if request.ends_with(b"}") {
            cut();
            ("200 OK", r#"{"id":"x","object":"chat.completion","choices":[]}"#)
        } else {
            continue;
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}",
            body.len()
        );
        write!(stream, "{head}\r\n\r\n{body}").expect("sent");
        request.clear();
    }
}

fn nothing_is_answered_that_is_not_sealed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let more = format!(
        "[[upstream]]\nname = \"cutter\"\nurl = \"{url}\"\n[[model]]\nname = \"cut\"\nroute = [\"cutter\"]\n"
    );
    let (gateway, cut) = gateway(&more);
    // The log breaks while the server is at work: behind the admission, before the outcome.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let cut = cut.clone();
            std::thread::spawn(move || answer_and_cut(stream, cut));
        }
    });
    assert_eq!(chat(&gateway, "cut"), unavailable(), "an answer without an outcome");
    over(&gateway);
}

/// A mistake, and the check that notices it.
type Case = (Seed, fn());

const CASES: [Case; 48] = [
    (Seed::JournalNotSynced, power_cuts),
    (Seed::AcknowledgedBeforeSync, power_cuts),
    (Seed::TilesNotSynced, power_cuts),
    (Seed::NamesNotSynced, power_cuts),
    (Seed::CheckpointBeforeTiles, power_cuts),
    (Seed::HeadLeads, power_cuts_that_keep_the_head),
    (Seed::FailedSyncBelieved, failing_syncs),
    (Seed::CacheStampedAhead, what_is_folded_is_what_was_written),
    (Seed::ChangedFilesUnnoticed, a_segment_that_is_gone_ends_the_log),
    (Seed::LockIgnored, one_writer_has_the_log),
    (Seed::ClockGoesBack, times_never_go_back),
    (Seed::SaltReused, every_box_has_a_salt_of_its_own),
    (Seed::DestroyedKeyKept, a_destroyed_key_is_gone),
    (Seed::FullDiskIgnored, room::outcomes_and_commands_find_room_on_a_full_disk),
    (Seed::LeafHashWithoutPrefix, leaves_are_hashed_as_the_standard_says),
    (Seed::PostQuantumLineUnchecked, the_post_quantum_line_counts),
    (Seed::ClassicalLineUnchecked, the_classical_line_counts),
    (Seed::PaddingUnchecked, padding_is_zero),
    (Seed::HeadUnchecked, what_was_acknowledged_is_there),
    (Seed::FormerCheckpointUnchecked, a_log_only_grows),
    (Seed::ForeignFilesUnnoticed, nothing_else_lies_there),
    (Seed::MissingRecordsUnasked, records_do_not_go_unsaid),
    (Seed::AdmissionNotAwaited, nothing_goes_on_that_is_not_sealed),
    (Seed::OutcomeNotAwaited, nothing_is_answered_that_is_not_sealed),
    (Seed::HostsComparedAsWritten, doors::the_judge_compares_what_it_reads),
    (Seed::MappedAddressesBelieved, doors::the_judge_compares_what_it_reads),
    (Seed::OwnUnasked, doors::the_judge_compares_what_it_reads),
    (Seed::TokenUnasked, doors::the_judge_compares_what_it_reads),
    (Seed::PortUnasked, doors::the_judge_compares_what_it_reads),
    (Seed::SuffixWithoutDot, doors::the_judge_compares_what_it_reads),
    (Seed::FirstAddressJudged, doors::every_address_of_a_name_is_judged),
    (Seed::ResolvedAgain, doors::what_was_judged_is_dialled),
    (Seed::UpstreamsByNameAlone, doors::an_upstream_is_one_under_every_name),
    (Seed::StatusUnasked, doors::only_the_content_itself_is_taken),
    (Seed::LabelBelieved, doors::only_the_content_itself_is_taken),
    (Seed::SizeUncounted, doors::only_the_content_itself_is_taken),
    (Seed::AllowanceUnasked, doors::only_the_content_itself_is_taken),
    (Seed::WindowOutgrown, doors::texts_lead_nowhere_else),
    (Seed::ReasoningSkipped, doors::texts_lead_nowhere_else),
    (Seed::DefinitionsForgotten, doors::texts_lead_nowhere_else),
    (Seed::ReferencesUnread, doors::texts_lead_nowhere_else),
    (Seed::UserinfoUnseen, doors::texts_lead_nowhere_else),
    (Seed::HeldLost, doors::texts_lead_nowhere_else),
    (Seed::FencesBelieved, doors::fences_are_believed_where_all_readers_see_them),
    (Seed::TokensKept, doors::tokens_of_what_has_changed_are_left_out),
    (Seed::ArgumentsRewritten, doors::calls_go_on_as_they_are_or_not_at_all),
    (Seed::CallsLetGo, doors::calls_go_on_as_they_are_or_not_at_all),
    (Seed::BlockedGoesOn, doors::nothing_follows_what_ends_an_answer),
];

#[test]
fn every_seeded_fault_is_noticed() {
    let mut quiet: Vec<fn()> = Vec::new();
    let mut missed = Vec::new();
    for (seed, check) in CASES {
        plant(None);
        if !quiet.iter().any(|known| std::ptr::fn_addr_eq(*known, check)) {
            check();
            quiet.push(check);
        }
        plant(Some(seed));
        if catch_unwind(AssertUnwindSafe(check)).is_ok() {
            missed.push(seed);
        }
    }
    plant(None);
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
