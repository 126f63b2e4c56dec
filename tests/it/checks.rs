//! Commands that check a config or a URL. They need no gateway.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A data folder with a config, and the credential that the config names.
fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let data = tempfile::tempdir().expect("a folder");
    let config = "name = \"gw\"\ndata = \".\"\n\
         [[issuer]]\niss = \"https://a.example\"\naud = \"https://b.example\"\nnamespaces \
         = [\"*\"]\n\
         [class.default]\n\
         [[upstream]]\nname = \"local\"\nurl = \"http://127.0.0.1:9\"\nprofile = \"generic\"\n\
         credential = \"file:short\"\n[[model]]\nname = \"m\"\nroute = [\"local\"]\n";
    fs::write(data.path().join("token-shield.toml"), config).expect("a config");
    let credential = data.path().join("short");
    fs::write(&credential, "too-short").expect("a credential");
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o600)).expect("a mode");
    data
}

fn run(data: &Path, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_token-shield"))
        .args(words)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("input");
    child.wait_with_output().expect("the end")
}

fn rows(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn every_use_of_every_line_is_evaluated() {
    let data = folder();
    let urls = "https://one.example/\nhttps://two.example/\n";
    let done = run(data.path(), &["egress", "check", "-", "--json"], urls);
    let seen: Vec<(String, String)> =
        rows(&done).iter().map(|row| (row["url"].to_string(), row["use"].to_string())).collect();
    let mut pairs = Vec::new();
    for url in ["\"https://one.example/\"", "\"https://two.example/\""] {
        for wanted in ["\"media\"", "\"links\"", "\"tunnel\""] {
            pairs.push((url.to_owned(), wanted.to_owned()));
        }
    }
    assert_eq!(seen, pairs);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("2 of 2 are not controlled"), "{said}");
}

#[test]
fn a_checked_config_has_all_warnings_as_json_too() {
    let data = folder();
    let done = run(data.path(), &["config", "check", "--json"], "");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("warning: "), "{said}");
    let row = rows(&done).pop().expect("a row");
    let warnings: Vec<String> = row["warnings"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|warning| format!("warning: {}\n", warning.as_str().expect("a text")))
        .collect();
    assert!(warnings.concat().contains("fewer than 16 bytes"), "{row}");
    assert_eq!(warnings.concat(), said);

    let done = run(data.path(), &["config", "check", "--json", "--syntax"], "");
    let row = rows(&done).pop().expect("a row");
    assert_eq!(row["warnings"], serde_json::json!([]), "the credential is not read");
}
