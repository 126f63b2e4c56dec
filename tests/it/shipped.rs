//! The files that are shipped with the binary work: the example config, the alert rules, the
//! dashboard.

use std::path::Path;
use std::process::Command;

use token_shield::config;
use token_shield::metrics::Metrics;

fn shipped(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

#[track_caller]
fn faults(text: &str, expect: &[&str]) {
    let faults = config::read(text, Path::new("/etc/x")).expect_err("faults");
    let shown: Vec<String> = faults
        .0
        .iter()
        .map(|fault| format!("{} {}: {}", fault.line, fault.key, fault.what))
        .collect();
    assert_eq!(shown.len(), expect.len(), "{shown:#?}");
    for (fault, part) in shown.iter().zip(expect) {
        assert!(fault.contains(part), "{fault:?} does not contain {part:?}");
    }
}

#[test]
fn the_example_config_has_no_faults() {
    let read = config::read(&shipped("config/token-shield.toml"), Path::new("/etc/token-shield"))
        .expect("no faults");
    assert_eq!(
        (read.guard.models.len(), read.proxy.upstreams.len(), read.guard.classes.len()),
        (1, 2, 3)
    );
    assert!(read.warnings.is_empty());
}

#[test]
fn its_commented_defaults_are_keys_too() {
    let text = shipped("config/token-shield.toml");
    let keys = [
        "danger_plaintext",
        "connections",
        "body",
        "handshake",
        "drain",
        "ttl_max",
        "pq",
        "as",
        "weights",
        "pin",
        "credential_header",
        "trusted_proxies",
    ];
    for key in keys {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("# {key} = ")))
            .unwrap_or_else(|| panic!("{key} is not shown"));
        let whole = text.replace(line, line.trim_start_matches("# "));
        config::read(&whole, Path::new("/etc/token-shield"))
            .unwrap_or_else(|faults| panic!("{key}: {faults}"));
    }
}

#[test]
fn every_fault_is_said_at_once() {
    faults("", &["name: is required"]);
    faults(
        "name = \"x\"\nnmae = 1\n[listen]\napi = \"0.0.0.0:1\"\n[timeouts]\nheader = \
            10\n[[model]]\nname = \"m\"\nroute = [\"gone\"]\n",
        &[
            "2 nmae: is not a key here; did you mean name?",
            "4 listen.api: an address other than loopback",
            "6 timeouts.header: must be a time",
            "9 model[0].route: \"gone\"",
        ],
    );
    faults(
        "name = \"x\"\n[egress]\nmedia = [\"https://a.example\", \"a.example\"]\nlinks = \
            [\"*\"]\ntunnel = [\"a.example\"]\nnetworks = [\"10\"]\nfetch_tools = \
            []\n[egress.fetch]\nresolver = \"dns\"\ncount = 5000\n",
        &[
            "3 egress.media: \"https://a.example\" is not HOST",
            "4 egress.links: \"*\" is not",
            "5 egress.tunnel: has no effect without fetch_tools",
            "6 egress.networks: \"10\" is not a network",
            "9 egress.fetch.resolver: must be an address",
            "10 egress.fetch.count: must be at most",
        ],
    );
    faults(
        "name = \"x\"\n[class.default]\nrequests = { hosted_tools = \"inline\" }\nanswers = \
            { fetched = \"ask\" }\n",
        &[
            "3 class.default.requests.hosted_tools: must be",
            "4 class.default.answers.fetched: must be \"report\" or \"strip\" or \"block\"",
        ],
    );
    faults(
        "name = \"x\"\n[[upstream]]\nname = \"u\"\nurl = \"http://a@b\"\ncredential \
            = \"hunter2\"\n",
        &["4 upstream[0].url", "5 upstream[0].credential"],
    );
    faults("name = \"x\"\nname = \"y\"\n", &["2 toml"]);
}

#[test]
fn a_table_without_a_name_does_not_hide_unknown_keys() {
    faults(
        "name = \"x\"\n[[upstream]]\nurl = \"echo:\"\npoool = \"shared\"\n[[model]]\nroute = \
            []\nnaem = \"m\"\n",
        &[
            "upstream[0].name: is required",
            "4 upstream[0].poool: is not a key here; did you mean pool?",
            "model[0].name: is required",
            "6 model[0].route: must name",
            "7 model[0].naem: is not a key here; did you mean name?",
        ],
    );
}

#[test]
fn an_answer_needs_bytes_for_its_tokens() {
    faults(
        "name = \"x\"\n[limits]\nanswer_bytes_per_token = 0\n",
        &["3 limits.answer_bytes_per_token: must be 1 or more"],
    );
}

#[test]
fn a_port_that_is_none_is_not_replaced_by_the_usual_one() {
    for port in ["80000", "0", "8443x", "+80", ""] {
        let config =
            format!("name = \"x\"\n[[upstream]]\nname = \"u\"\nurl = \"http://h:{port}/v1\"\n");
        faults(&config, &["4 upstream[0].url"]);
    }
}

#[test]
fn a_rate_that_is_too_large_is_not_replaced_by_the_default() {
    faults(
        "name = \"x\"\n[limits]\npeer_rps = 4294967296\nroot_rps = 4294967296\n",
        &[
            "3 limits.peer_rps: must be a whole number from 0 to 4294967295",
            "4 limits.root_rps: must be a whole number from 0 to 4294967295",
        ],
    );
}

#[test]
fn keys_after_a_faulty_tls_are_known_and_checked() {
    faults(
        "name = \"x\"\n[listen]\ntls = { key = \"env:KEY\" }\npublish_keys = \
            1\ndanger_plaintext = true\n",
        &["3 listen.tls.cert: is required", "4 listen.publish_keys: must be true or false"],
    );
}

#[test]
fn promtool_takes_the_rules() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/token-shield.rules.yml");
    let done = Command::new("promtool")
        .args(["check", "rules"])
        .arg(path)
        .output()
        .expect("promtool (Debian package prometheus)");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_a_link_to_it() {
    let (rules, runbook) =
        (shipped("config/prometheus/token-shield.rules.yml"), shipped("docs/RUNBOOK.md"));
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 5, "{alerts:?}");
    for alert in alerts {
        assert!(
            runbook.contains(&format!("\n### {alert}\n")),
            "docs/RUNBOOK.md has no section {alert}"
        );
        let link = format!("runbook: docs/RUNBOOK.md#{}", alert.to_lowercase());
        assert!(rules.contains(&link), "{alert} does not link to its section: {link}");
    }
    for section in runbook.lines().filter_map(|line| line.strip_prefix("### TokenShield")) {
        let alert = format!("- alert: TokenShield{section}\n");
        assert!(rules.contains(&alert), "no rule has the alert of the section: {section}");
    }
}

#[test]
fn board_and_rules_name_metrics_that_exist() {
    let metrics = Metrics::new(&["m".to_owned()], &["u".to_owned()], Some(1)).expect("metrics");
    let known = metrics.names();
    for file in ["config/prometheus/token-shield.rules.yml", "config/grafana/token-shield.json"] {
        let text = shipped(file);
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let named: Vec<&str> = words
            .filter(|word| word.starts_with("token_shield_") || word.starts_with("process_"))
            .collect();
        assert!(named.len() > 5, "{file} names no metrics");
        for name in named {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            assert!(known.iter().any(|known| known == base), "{file} names {name}");
        }
    }
}
