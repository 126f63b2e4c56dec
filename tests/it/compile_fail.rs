//! Shortcuts that must not compile: each case skips a check or makes a proof by hand, and fails for
//! its own reason.
//!
//! The cases are compiled against the library that this test is linked with, so its dependencies
//! are not built again. `TOKEN_SHIELD_WRITE_STDERR=1` writes the expected errors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// Crates that the cases name.
const CRATES: [&str; 4] = ["token_shield", "bytes", "http", "tokio"];

/// The folder of the compiled libraries: that of this test's program.
fn libraries() -> PathBuf {
    let program = std::env::current_exe().expect("the test's program");
    program.parent().expect("its folder").to_owned()
}

/// The newest library of that crate. Older ones are of other features or former sources.
fn library(folder: &Path, name: &str) -> PathBuf {
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    for entry in fs::read_dir(folder).expect("libraries") {
        let path = entry.expect("entry").path();
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        if !file.starts_with(&format!("lib{name}-")) || !file.ends_with(".rlib") {
            continue;
        }
        let written = fs::metadata(&path).and_then(|about| about.modified()).expect("its time");
        if newest.as_ref().is_none_or(|(time, _)| written > *time) {
            newest = Some((written, path));
        }
    }
    newest.unwrap_or_else(|| panic!("no library of {name} in {}", folder.display())).1
}

/// What the compiler reports of a case. Panics if the case compiles.
fn errors(case: &Path) -> String {
    let folder = libraries();
    let out = tempfile::tempdir().expect("folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rustc = Command::new("rustc");
    rustc.current_dir(root).args(["--edition", "2024", "--crate-type", "bin"]);
    rustc.args(["--emit", "metadata", "--error-format", "json", "--out-dir"]).arg(out.path());
    rustc.arg("-L").arg(format!("dependency={}", folder.display()));
    for name in CRATES {
        let path = library(&folder, name);
        rustc.arg("--extern").arg(format!("{name}={}", path.display()));
    }
    let done = rustc.arg(case.strip_prefix(root).expect("a case")).output().expect("rustc");
    assert!(!done.status.success(), "{} compiles", case.display());
    let mut report = String::new();
    for line in String::from_utf8(done.stderr).expect("UTF-8").lines() {
        let message: serde_json::Value = serde_json::from_str(line).expect("JSON");
        write(&message, "", &mut report);
    }
    report
}

/// Writes a message with its places in the case. Places in the library are left out, because their
/// lines change with every edit.
fn write(message: &serde_json::Value, indent: &str, report: &mut String) {
    let text = message["message"].as_str().unwrap_or_default();
    let code = message["code"]["code"].as_str().unwrap_or_default();
    let level = message["level"].as_str().unwrap_or_default();
    if text.starts_with("aborting due to") || level == "failure-note" {
        return;
    }
    report.push_str(&format!("{indent}{level} {code}: {text}\n"));
    for span in message["spans"].as_array().into_iter().flatten() {
        let file = span["file_name"].as_str().unwrap_or_default();
        if file.starts_with("tests/compile_fail/") {
            let label = span["label"].as_str().unwrap_or_default();
            report.push_str(&format!("{indent}    line {}: {label}\n", span["line_start"]));
        }
    }
    for child in message["children"].as_array().into_iter().flatten() {
        write(child, &format!("{indent}  "), report);
    }
}

#[test]
fn shortcuts_do_not_compile() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let mut cases = 0;
    for entry in fs::read_dir(folder).expect("cases") {
        let case = entry.expect("entry").path();
        if case.extension().is_none_or(|ending| ending != "rs") {
            continue;
        }
        cases += 1;
        let found = errors(&case);
        let file = case.with_extension("stderr");
        if std::env::var_os("TOKEN_SHIELD_WRITE_STDERR").is_some() {
            fs::write(&file, &found).expect("written");
        }
        let expected = fs::read_to_string(&file).expect("expected errors");
        assert_eq!(found, expected, "{}", case.display());
    }
    assert_eq!(cases, 10, "cases");
}
