//! Each active failpoint makes a check fail that passes without it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use token_shield::failpoint::{Failpoint, arm};

use super::disk::Kind;
use super::{Base, room, run, within};
use crate::harness::Gateway;

/// Every third call of a run without faults gets that fault.
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

/// A gateway whose log fails when `cut` is called. It cannot stop in order after that.
fn gateway(more: &str) -> (ManuallyDrop<Gateway>, impl Fn() + Clone + Send + 'static) {
    let gateway =
        ManuallyDrop::new(Gateway::with("rpm = 6000\nin_flight = 64\noutput_tokens = 1000", more));
    let segment = gateway.data.path().join(format!("state/audit/e000001/journal/{:020}", 0));
    (gateway, move || fs::remove_file(&segment).expect("removed"))
}

/// The status, and the code if it is a refusal.
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

fn no_request_is_forwarded_before_its_admission_is_durable() {
    let (gateway, cut) = gateway("");
    assert_eq!(chat(&gateway, "up").0, 200);
    cut();
    let answer = chat(&gateway, "up");
    // A request that passed would reach the server soon.
    within(Duration::from_millis(300), || gateway.forwarded.load(Ordering::SeqCst) > 1);
    assert_eq!((answer, gateway.forwarded.load(Ordering::SeqCst)), (unavailable(), 1));
    over(&gateway);
}

/// A server that makes the log fail when it gets a request. It does not report its weights.
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

fn no_answer_is_sent_before_its_outcome_is_durable() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let more = format!(
        "[[upstream]]\nname = \"cutter\"\nurl = \"{url}\"\n[[model]]\nname = \"cut\"\nroute = \
            [\"cutter\"]\n"
    );
    let (gateway, cut) = gateway(&more);
    // The log fails while the server works: after the admission, and before the outcome.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let cut = cut.clone();
            std::thread::spawn(move || answer_and_cut(stream, cut));
        }
    });
    assert_eq!(chat(&gateway, "cut"), unavailable(), "an answer without an outcome");
    over(&gateway);
}

/// A check, and the failpoints that make it fail.
struct Check {
    run: fn(),
    fails_with: &'static [Failpoint],
}

const CHECKS: [Check; 6] = [
    Check {
        run: power_cuts,
        fails_with: &[
            Failpoint::JournalNotSynced,
            Failpoint::AcknowledgedBeforeSync,
            Failpoint::TilesNotSynced,
            Failpoint::NamesNotSynced,
            Failpoint::CheckpointBeforeTiles,
        ],
    },
    Check { run: power_cuts_that_keep_the_head, fails_with: &[Failpoint::HeadLeads] },
    Check { run: failing_syncs, fails_with: &[Failpoint::FailedSyncBelieved] },
    Check {
        run: room::outcomes_and_commands_find_room_on_a_full_disk,
        fails_with: &[Failpoint::FullDiskIgnored],
    },
    Check {
        run: no_request_is_forwarded_before_its_admission_is_durable,
        fails_with: &[Failpoint::AdmissionNotAwaited],
    },
    Check {
        run: no_answer_is_sent_before_its_outcome_is_durable,
        fails_with: &[Failpoint::OutcomeNotAwaited],
    },
];

#[test]
fn every_failpoint_makes_its_check_fail() {
    let mut missed = Vec::new();
    for check in CHECKS {
        arm(None);
        (check.run)();
        for failpoint in check.fails_with {
            arm(Some(*failpoint));
            if catch_unwind(AssertUnwindSafe(check.run)).is_ok() {
                missed.push(*failpoint);
            }
        }
    }
    arm(None);
    assert!(missed.is_empty(), "checks passed with {missed:?}");
}
