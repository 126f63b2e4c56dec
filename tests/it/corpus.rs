//! Runs every file of `fuzz/corpus` through the checks of the fuzz targets. It also proves that the
//! checks can fail.

use std::path::PathBuf;

#[path = "../../fuzz/egress_oracles.rs"]
mod egress;
#[path = "../../fuzz/oracles.rs"]
mod oracles;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files =
        std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path());
    let named = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    files.map(|path| (named(path.clone()), std::fs::read(path).expect("a file"))).collect()
}

#[test]
fn the_corpus_holds() {
    for (_, bytes) in corpus("jws") {
        oracles::jws(&bytes);
    }
    for (_, bytes) in corpus("jwks") {
        oracles::jwks(&bytes);
    }
    for (_, bytes) in corpus("judge") {
        egress::policy(&bytes);
    }
    for (_, bytes) in corpus("filter") {
        egress::filter(&bytes);
    }
    let chains = corpus("chain");
    assert!(chains.iter().any(|(name, _)| name == "good-4") && chains.len() >= 9);
    for (name, bytes) in chains {
        // Inputs that the fuzzer found have their hash as name. Only names chosen by hand state the
        // expected result.
        let taken = oracles::chain(&bytes);
        if name.contains('-') {
            assert_eq!(taken, name.starts_with("good-"), "{name}");
        }
    }
}

/// A check must be able to fail: it must detect a wider chain, if the gateway accepted one.
#[test]
fn a_widened_chain_would_be_noticed() {
    let chains = corpus("chain");
    for wanted in
        ["wider-rate", "wider-scope", "stolen-name", "wider-aud", "no-limits", "later-exp"]
    {
        let (_, bytes) = chains.iter().find(|(name, _)| name == wanted).expect("a seed");
        let text = String::from_utf8(bytes.clone()).expect("text").replace("HOLDER", "{}");
        let claims: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let noticed =
            std::panic::catch_unwind(|| oracles::narrower(&claims[0], &claims[1])).is_err();
        assert!(noticed, "{wanted} is not noticed");
    }
}
