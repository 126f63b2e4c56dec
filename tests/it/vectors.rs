//! The test vectors in `tests/vectors`. The public command refuses each token with exactly the code
//! of its vector.
//!
//! `TOKEN_SHIELD_WRITE_VECTORS=$PWD/tests/vectors cargo nextest run token::` writes them again,
//! from the tests of tokens. Remove the old files first.

use std::path::PathBuf;
use std::process::Command;

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("tests/vectors")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
        .collect();
    files.sort();
    files
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

#[test]
fn each_vector_has_exactly_its_verdict() {
    let mut refused = 0;
    for file in files() {
        let expected = lines(&std::fs::read_to_string(&file).expect("a file of vectors"));
        let ran = Command::new(env!("CARGO_BIN_EXE_token-shield"))
            .args(["token", "verify-vectors"])
            .arg(&file)
            .output()
            .expect("run");
        assert!(
            ran.status.success(),
            "{}: {}",
            file.display(),
            String::from_utf8_lossy(&ran.stderr)
        );
        let said = lines(&String::from_utf8(ran.stdout).expect("UTF-8"));
        assert_eq!(said.len(), expected.len(), "{}", file.display());
        for (said, expected) in said.iter().zip(&expected) {
            assert_eq!((&said["id"], &said["code"]), (&expected["id"], &expected["code"]));
            assert_eq!(said["valid"].as_bool(), Some(expected["code"].is_null()));
            refused += usize::from(!expected["code"].is_null());
        }
    }
    assert!(refused >= 120, "only {refused} vectors are to be refused");
}

#[test]
fn a_vector_that_is_none_is_said_so() {
    let folder = tempfile::tempdir().expect("folder");
    for (text, part) in [
        ("{}\n", "line 1"),
        ("\nnot JSON\n", "line 2"),
        (r#"{"id":1,"token":"x","jwks":{"keys":[{"kty":"oct"}]}}"#, "jwks"),
        (r#"{"id":1,"token":"x","jwks":{"keys":[]},"pq":"maybe"}"#, "required-root"),
    ] {
        let file = folder.path().join("vectors.jsonl");
        std::fs::write(&file, text).expect("written");
        let ran = Command::new(env!("CARGO_BIN_EXE_token-shield"))
            .args(["token", "verify-vectors"])
            .arg(&file)
            .output()
            .expect("run");
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(1) && said.contains(part), "{text}: {said}");
    }
}

#[test]
fn signatures_can_be_asked_about_alone() {
    // Valid signatures over claims that are not valid.
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/every_claim_has_its_type.jsonl");
    let ask = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_token-shield"));
        let ran =
            command.args(["token", "verify-vectors"]).args(flags).arg(&file).output().expect("run");
        lines(&String::from_utf8(ran.stdout).expect("UTF-8"))
    };
    assert!(ask(&[]).iter().any(|line| line["valid"] == false));
    let alone = ask(&["--signature-only"]);
    assert!(alone.len() > 10 && alone.iter().all(|line| line["valid"] == true), "{alone:?}");
}
