//! Tests of `adopt`.

use super::*;

#[test]
fn keys_in_the_place_of_names_are_seen() {
    for key in [
        "sk-Zm9vYmFyYmF6cXV4",
        "sk-proj-x",
        "TS_abc",
        "Bearer x",
        "0123456789abcdef0123456789abcdef",
        "a1b2c3d4e5f6a7b8.x",
    ] {
        assert!(looks_like_a_key(key), "{key}");
    }
    for name in [
        "summarizer",
        "research/summarizer",
        "summarizer-2026-production-eu1",
        "fleet/0123456789abcdef0123",
        "llama-3.1-8b-instruct",
    ] {
        assert!(!looks_like_a_key(name), "{name}");
    }
}

#[test]
fn a_long_file_takes_time_in_proportion() {
    use std::fmt::Write as _;
    let mut text = "key,agent\n".to_owned();
    for number in 0..100_000 {
        let _ = writeln!(text, "sk-{number:032x},fleet/agent-{number}");
    }
    let clock = SystemClock::start();
    let wish = |line: CsvLine, number| {
        let agent = agent_name(&line.agent).map_err(|fault| fault.to_string())?;
        let wanted = TokenContent::for_agent(agent.clone(), Duration::from_secs(60));
        let handle = handle::adopt(&line.key).map_err(|fault| fault.to_string())?;
        Ok(Wish { line: number, handle, agent, class: None, wanted })
    };
    let ParsedFile { wishes, faults } = understood(&text, wish).expect("columns");
    assert_eq!((wishes.len(), faults.len()), (100_000, 0));
    // A linear read takes half a second on the reference machine. A comparison of each pair took 46
    // s.
    assert!(clock.monotonic() < Duration::from_secs(20), "{:?}", clock.monotonic());
}
