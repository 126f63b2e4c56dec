//! `kill -9` during commands. No acknowledged command is lost, and no command is applied in part.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use token_shield::crypto::sha256;

const BINARY: &str = env!("CARGO_BIN_EXE_token-shield");

/// The number of kills. A tenth of them, unless the whole campaign is requested.
fn kills() -> usize {
    if std::env::var_os("TOKEN_SHIELD_FULL").is_some() { 200 } else { 20 }
}

fn start(data: &Path) -> Child {
    let mut child = Command::new(BINARY)
        .args([
            "dev",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "http://127.0.0.1:9",
            "--upstream-model",
            "none",
            "--data",
        ])
        .arg(data)
        .env("TOKEN_SHIELD_LOG", "error")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("start");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("first line");
    assert!(line.starts_with('{'), "the gateway did not start: {line:?}");
    child
}

/// Runs `agent` with these arguments. True if the command was acknowledged.
fn agent(data: &Path, words: &[&str]) -> (bool, String) {
    let done = Command::new(BINARY)
        .arg("agent")
        .args(words)
        .arg("--data")
        .arg(data)
        .output()
        .expect("command");
    (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
}

#[test]
fn no_acknowledged_command_is_lost() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..kills() {
        let mut child = start(&data);
        let pid = child.id();
        // The same numbers in each run, so that a failure can be repeated.
        let after = sha256(&round.to_be_bytes())[0] % 6;
        let killer = std::thread::spawn({
            let data = data.clone();
            move || {
                // The kill happens at a random moment. A random number of commands comes before it.
                for number in 0..after {
                    agent(&data, &["register", &format!("warm/r{round}n{number}")]);
                }
                Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
            }
        });
        for number in 0..6 {
            let name = format!("kept/r{round}n{number}");
            // Without a gateway, the command takes the lock itself. Its acknowledgement counts too.
            if agent(&data, &["register", &name]).0
                && agent(&data, &["quarantine", &name, "--reason", "kill test"]).0
            {
                acknowledged.push(name);
            }
        }
        killer.join().expect("killer");
        child.wait().expect("killed");
    }
    let (listed, text) = agent(&data, &["list", "--json"]);
    assert!(listed, "the log does not open after {} kills", kills());
    let rows: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("row")).collect();
    for name in &acknowledged {
        let row = rows
            .iter()
            .find(|row| row["agent"] == name.as_str())
            .unwrap_or_else(|| panic!("{name} is lost"));
        // An acknowledged command must be durable as a whole.
        assert_eq!(row["status"], "quarantined", "{name} is half applied");
    }
    assert!(
        acknowledged.len() >= kills(),
        "only {} commands were acknowledged",
        acknowledged.len()
    );
}
